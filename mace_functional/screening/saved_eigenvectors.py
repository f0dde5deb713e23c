"""Eigenvectors of one structure, in a file beside its frequencies, where they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mace_functional.screening.tensor_files import load_tensors, save_tensors

EIGENVECTORS = "eigenvectors.npz"
"""Name of the file. Its size is 16 Q M 3N bytes or, at Gamma, half of it."""


@dataclass(frozen=True, eq=False)
class Eigenvectors:
    """Eigenvectors of mass-weighted force constants; each attribute is a key of the file.

    Attributes:
        eigenvectors: Orthonormal, in mass-weighted coordinates, (Q, M, N, 3), in the order of the
            frequencies (Q, M) in `frequencies.npz`: real at Gamma alone, complex on a mesh. The
            displacement of an atom is its part over the square root of its mass.
        masses: Masses of the atoms, amu, (N,).
        q: Wave vectors, in units of reciprocal lattice vectors, (Q, 3).
    """

    eigenvectors: Tensor
    masses: Tensor
    q: Tensor

    def save(self, folder: Path) -> None:
        """Write them to the folder of their structure."""
        save_tensors(folder / EIGENVECTORS, self)

    @classmethod
    def load(cls, folder: Path) -> Eigenvectors:
        """Read what `save` wrote."""
        return load_tensors(cls, folder / EIGENVECTORS)
