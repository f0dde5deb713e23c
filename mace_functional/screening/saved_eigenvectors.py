"""Eigenvectors of one structure, in a file beside its frequencies, where they are asked for."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mace_functional.support.atomic_write import atomic_write

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
        arrays = {f.name: getattr(self, f.name).numpy(force=True) for f in fields(self)}
        with atomic_write(folder / EIGENVECTORS) as partial, partial.open("wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, folder: Path) -> Eigenvectors:
        """Read what `save` wrote."""
        with np.load(folder / EIGENVECTORS, allow_pickle=False) as arrays:
            return cls(**{f.name: torch.as_tensor(arrays[f.name]) for f in fields(cls)})
