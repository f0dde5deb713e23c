"""Imaginary modes: waves along which the energy falls."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mace_functional.vibrations.result_text import result_text, values_text


@dataclass(frozen=True, eq=False)
class ImaginaryMode:
    """A wave along which the energy falls: the structure is no minimum.

    Attributes:
        q: Wave vector in units of the reciprocal lattice vectors, (3,).
        frequency: Negative by convention; in the unit of the frequencies it is taken from.
        eigenvector: (N, 3), mass-weighted; complex, but for modes at Gamma alone; None if
            eigenvectors were not kept.
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
    """All modes of negative frequency, the most unstable first.

    Args:
        q: (Q, 3).
        frequencies: (Q, 3N).
        eigenvectors: (Q, 3N, N, 3), or None.
    """
    found = [
        ImaginaryMode(
            q[i], float(frequencies[i, j]), None if eigenvectors is None else eigenvectors[i, j]
        )
        for i, j in (frequencies < 0).nonzero().tolist()
    ]
    return sorted(found, key=lambda mode: mode.frequency)
