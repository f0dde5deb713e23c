"""Imaginary modes: displacement waves along which the energy decreases."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mace_functional.vibrations.result_text import result_text, values_text


@dataclass(frozen=True, eq=False)
class ImaginaryMode:
    """A displacement wave along which the energy decreases, so that the structure is no minimum.

    Attributes:
        q: Wave vector in units of the reciprocal lattice vectors, (3,).
        frequency: Frequency, negative by convention, in the unit of the modes it was taken from.
        eigenvector: Mass-weighted eigenvector, (N, 3), complex except for modes at Gamma alone;
            None if eigenvectors were not kept.
    """

    q: Tensor
    frequency: float
    eigenvector: Tensor | None

    def __repr__(self) -> str:
        return result_text(
            self, f"frequency {self.frequency:.1f}", f"q = {values_text(self.q, '', '.3g')}"
        )


def imaginary_modes(
    q: Tensor, frequencies: Tensor, eigenvectors: Tensor | None
) -> list[ImaginaryMode]:
    """Return all modes of negative frequency, the most unstable first.

    Args:
        q: Wave vectors in units of the reciprocal lattice vectors, (Q, 3).
        frequencies: Signed frequencies, (Q, 3N).
        eigenvectors: Mass-weighted eigenvectors, (Q, 3N, N, 3), or None.
    """
    modes = [
        ImaginaryMode(
            q[i], float(frequencies[i, j]), None if eigenvectors is None else eigenvectors[i, j]
        )
        for i, j in (frequencies < 0).nonzero().tolist()
    ]
    return sorted(modes, key=lambda mode: mode.frequency)
