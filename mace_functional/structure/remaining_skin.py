"""Remaining skin of a neighbour list: the distance that atoms may still move."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np
from torch import Tensor

from mace_functional.structure.arrays import as_array

ROUNDING = 1e-9
"""Amount by which the skin may be exceeded before a neighbour list counts as too short, Å.

Without it, a list with a skin of zero would not hold for the structure it was made for.
"""


class _NeighbourList(Protocol):
    """Geometry for which neighbours were searched."""

    @property
    def reference_positions(self) -> Tensor: ...

    @property
    def reference_cell(self) -> Tensor: ...

    @property
    def pbc(self) -> Tensor: ...


def remaining_skin(
    reference: _NeighbourList,
    positions: Tensor,
    cell: Tensor,
    reaches: Iterable[tuple[float, float]],
) -> float:
    r"""Return a lower bound of the distance of unlisted pairs, minus the cutoff, Å.

    The deformation gradient F maps the periodic lattice vectors of the reference to those of
    `cell`; u are the displacements of the atoms on top of it. A pair at distance d in the reference
    is now at least `sigma_min(F) d - 2 max|u|` apart. The remaining skin is therefore

        sigma_min(F) (cutoff + skin) - 2 max|u| - cutoff,

    or the smallest such value if there are several cutoffs. In non-periodic directions, F is the
    best-fitting rotation, so that rotating a molecule uses up no skin.

    Args:
        reference: Positions and cell for which neighbours were searched.
        positions: Positions in Å, (N, 3).
        cell: Lattice vectors in Å, (3, 3).
        reaches: Each cutoff with its skin, Å.

    Returns:
        A number. While it is not negative, no neighbour is missing.
    """
    pbc = reference.pbc.cpu().numpy()
    old_cell, new_cell = as_array(reference.reference_cell)[pbc], as_array(cell)[pbc]
    old, new = as_array(reference.reference_positions), as_array(positions)
    if not (np.isfinite(new).all() and np.isfinite(new_cell).all()):
        return -np.inf
    old, new = old - old.mean(0), new - new.mean(0)
    inverse = np.linalg.pinv(old_cell)
    rotation = _best_rotation(np.vstack([old, old_cell]), np.vstack([new, new_cell]))
    f = inverse @ new_cell + (np.eye(3) - inverse @ old_cell) @ rotation
    u = new - old @ f
    sigma_min = np.linalg.svd(f, compute_uv=False).min()
    least = min(sigma_min * (cutoff + skin) - cutoff for cutoff, skin in reaches)
    return float(least - 2 * np.linalg.norm(u, axis=1).max())


def _best_rotation(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Return the rotation R that minimises |old R - new| (Kabsch, Acta Cryst. A 32, 922 (1976))."""
    u, _, v = np.linalg.svd(old.T @ new)
    return (u * [1, 1, np.sign(np.linalg.det(u @ v))]) @ v
