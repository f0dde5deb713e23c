"""The Hessian of a valence force field by positions and strain, to begin a relaxation with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mace_functional.optimize.bond_springs import BondSprings
from mace_functional.optimize.coordinates import Coordinates
from mace_functional.optimize.valence_hessian import valence_hessian


def first_hessian(
    coordinates: Coordinates, y: np.ndarray, numbers: Sequence[int] | np.ndarray, pbc: np.ndarray
) -> np.ndarray:
    """The Hessian of a valence force field by positions; by strain, that of its springs.

    Args:
        coordinates: Give the meaning of y.
        y: The geometry, (3N + 6,).
        numbers: Atomic numbers, (N,).
        pbc: Periodic directions, (3,).

    Returns:
        eV/Å², (3N + 6, 3N + 6), symmetric.
    """
    positions, cell = coordinates.place(torch.as_tensor(y))
    by_positions = valence_hessian(positions, cell, torch.as_tensor(numbers), pbc.tolist()).numpy()
    hessian = np.zeros((len(y), len(y)))
    hessian[:-6, :-6] = by_positions
    hessian = BondSprings.from_hessian(coordinates, y, hessian, pbc).hessian(y)
    hessian[:-6, :-6] = by_positions
    return hessian
