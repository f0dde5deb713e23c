"""Initial Hessian of a relaxation, by positions and strain, from a valence force field."""

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
    """Compute the Hessian of a valence force field by positions, and of its springs by strain.

    Args:
        coordinates: Coordinates that define y.
        y: The geometry, (3N + 6,).
        numbers: Atomic numbers, (N,).
        pbc: True for each periodic direction, (3,).

    Returns:
        Hessian by y in eV/Å², symmetric, (3N + 6, 3N + 6).
    """
    positions, cell = coordinates.place(torch.as_tensor(y))
    d2e_dx2 = valence_hessian(positions, cell, torch.as_tensor(numbers), pbc.tolist()).numpy()
    hessian = np.zeros((len(y), len(y)))
    hessian[:-6, :-6] = d2e_dx2
    hessian = BondSprings.from_hessian(coordinates, y, hessian, pbc).hessian(y)
    hessian[:-6, :-6] = d2e_dx2
    return hessian
