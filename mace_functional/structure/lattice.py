"""Volume and periodic directions of a cell, differentiable to any order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mace_functional.autodiff.concrete import is_concrete

PERIODIC = "pbc"
"""Name of the attribute of an energy function that holds the periodic directions."""


def volume_of(cell: Tensor) -> Tensor:
    """Return the volume |a . (b x c)| of a cell (3, 3), Å³.

    `torch.linalg.det` is not used, because its second derivatives are wrong (pytorch issue 192521).
    """
    return (cell[0] * torch.linalg.cross(cell[1], cell[2])).sum().abs()


def positive_volume_of(cell: Tensor) -> Tensor:
    """Return the volume of a cell (3, 3), Å³; refuse a cell without one where it can be read.

    Raises:
        ValueError: If the cell has no volume.
    """
    volume = volume_of(cell)
    if is_concrete(volume) and not float(volume) > 0:
        raise ValueError(
            "the cell has no volume, but stress and elastic constants are per volume: give the "
            "cell three lattice vectors; along directions that are not periodic, of any length"
        )
    return volume


def periodic_projector(cell: Tensor, pbc: Sequence[bool]) -> Tensor:
    """Return the projector P (3, 3) onto the span of the periodic lattice vectors.

    A strain e that only deforms the lattice obeys `e = P e P`. P is 1 for a crystal, `1 - n n^T`
    for a slab with the normal n, `a a^T / a^2` for a rod along a, and 0 for a molecule.

    Args:
        cell: Lattice vectors in Å as rows, (3, 3).
        pbc: True for each periodic direction.
    """
    identity = torch.eye(3, dtype=cell.dtype, device=cell.device)
    periodic = [k for k in range(3) if pbc[k]]
    if len(periodic) == 3:
        return identity
    if not periodic:
        return torch.zeros_like(identity)
    if len(periodic) == 1:
        return _projector_onto(cell[periodic[0]])
    return identity - _projector_onto(torch.linalg.cross(cell[periodic[0]], cell[periodic[1]]))


def _projector_onto(vector: Tensor) -> Tensor:
    return vector[:, None] * vector / (vector * vector).sum()
