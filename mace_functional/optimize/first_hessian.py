"""Initial Hessian of a relaxation, by positions and strain, from a valence force field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import block_array, block_diag, csr_array

from mace_functional.optimize.bond_springs import BondSprings
from mace_functional.optimize.coordinates import Coordinates
from mace_functional.optimize.valence_hessian import valence_hessian, valence_stiffness

NEAR = 4.0
"""Largest distance of pairs without a bond in a preconditioner, Å.

MOF-5 of 848 atoms has 0.4 million entries in the factor, and 1.4 million with pairs up to 6 Å.
"""


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
    hessian = BondSprings.from_hessian(coordinates, y, hessian, pbc).hessian(y).toarray()
    hessian[:-6, :-6] = d2e_dx2
    return hessian


class SparseFirstHessian(NamedTuple):
    """Hessian of a valence force field by y, sparse, eV/Å², (3N + 6, 3N + 6).

    Attributes:
        hessian: The Hessian; in crystals it equals `first_hessian`.
        near: The same with pairs up to `NEAR` only, which is factorised with less memory.
    """

    hessian: csr_array
    near: csr_array


def sparse_first_hessian(
    coordinates: Coordinates, y: np.ndarray, numbers: Sequence[int] | np.ndarray, pbc: np.ndarray
) -> SparseFirstHessian:
    """Compute the Hessian of `first_hessian` without a dense matrix.

    Args:
        coordinates: Coordinates that define y.
        y: The geometry, (3N + 6,).
        numbers: Atomic numbers, (N,).
        pbc: True for each periodic direction, (3,).
    """
    positions, cell = coordinates.place(torch.as_tensor(y))
    geometry = positions, cell, torch.as_tensor(numbers), pbc.tolist()
    by_atoms = valence_stiffness(*geometry)
    hessian = csr_array(block_diag([by_atoms, csr_array((6, 6))]))
    springs = BondSprings.from_hessian(coordinates, y, hessian, pbc).hessian(y)
    of_strain = springs.tocsc()[:, -6:].tocsr()
    both, strain = of_strain[:-6], of_strain[-6:]

    def bordered(d2e_dx2: csr_array) -> csr_array:
        return csr_array(block_array([[d2e_dx2, both], [both.T, strain]]))

    return SparseFirstHessian(bordered(by_atoms), bordered(valence_stiffness(*geometry, NEAR)))
