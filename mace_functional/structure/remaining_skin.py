"""How far the atoms of a structure may still move before its neighbour list is too short."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np
from torch import Tensor

from mace_functional.structure.arrays import as_array

ROUNDING = 1e-9
"""Å. A skin that is exceeded by less is kept: at a skin of zero the structure itself is current."""


class _Searched(Protocol):
    """What was searched for neighbours, and where."""

    @property
    def reference_positions(self) -> Tensor: ...

    @property
    def reference_cell(self) -> Tensor: ...

    @property
    def pbc(self) -> Tensor: ...


def remaining_skin(
    searched: _Searched,
    positions: Tensor,
    cell: Tensor,
    reaches: Iterable[tuple[float, float]],
) -> float:
    r"""How much closer to the cutoff, in Å, a pair that was not found may still come.

    With a deformation gradient F that maps the periodic lattice vectors of the reference to those
    of `cell`, and the displacements u on top of it, a pair at distance d in the reference is at
    least `sigma_min(F) d - 2 max|u|` apart now, so that the rest of the skin is

        sigma_min(F) (cutoff + skin) - 2 max|u| - cutoff,

    the least of it over all cutoffs. In the other directions F is the rotation that fits best, so
    that turning a molecule costs nothing.

    Args:
        searched: Positions and cell for which neighbours were searched.
        positions: Positions in Å, (N, 3).
        cell: Lattice vectors in Å, (3, 3).
        reaches: Each cutoff with its skin, Å.

    Returns:
        A number; not negative as long as the neighbours are all known.
    """
    pbc = searched.pbc.cpu().numpy()
    before, after = as_array(searched.reference_cell)[pbc], as_array(cell)[pbc]
    old, new = as_array(searched.reference_positions), as_array(positions)
    if not (np.isfinite(new).all() and np.isfinite(after).all()):
        return -np.inf
    old, new = old - old.mean(0), new - new.mean(0)
    inverse = np.linalg.pinv(before)
    rotation = _best_rotation(np.vstack([old, before]), np.vstack([new, after]))
    f = inverse @ after + (np.eye(3) - inverse @ before) @ rotation
    u = new - old @ f
    sigma_min = np.linalg.svd(f, compute_uv=False).min()
    nearer = min(sigma_min * (cutoff + skin) - cutoff for cutoff, skin in reaches)
    return float(nearer - 2 * np.linalg.norm(u, axis=1).max())


def _best_rotation(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Rotation R that makes `old @ R` fit `new` best (Kabsch, Acta Cryst. A 32, 922 (1976))."""
    u, _, v = np.linalg.svd(old.T @ new)
    return (u * [1, 1, np.sign(np.linalg.det(u @ v))]) @ v
