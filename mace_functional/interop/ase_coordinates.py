"""Free coordinates of what ASE's optimisers see: atoms with constraints, and filters.

ASE's optimisers see coordinates q and forces f_q = -dE/dq of atoms or of a filter, which adds the
cell. Whatever the filter and its linear constraints, these forces are linear in the derivatives of
the energy by displacements u and strain e, y = (u, L e),

    dE/dq = A^T dE/dy,        A = dy/dq = U S V^T.

The Jacobian A is obtained row by row: a dummy calculator is attached, whose forces and stress are
unit vectors. Coordinates z with

    q = q_0 + V S^-1 z,        dE/dz = S^-1 V^T dE/dq,        d2E/dz2 ~ U^T (d2E/dy2) U,

span the range of A only. With this scaling, the length of a step in z is the length of the
displacements of the atoms.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from ase.constraints import FixSymmetry
from ase.filters import Filter
from ase.stress import full_3x3_to_voigt_6_stress

from mace_functional.optimize.coordinates import STRAIN_WEIGHT, STRAINS, Coordinates
from mace_functional.structure.lattice import periodic_projector
from mace_functional.structure.selection import CONSTRAINTS

NO_MOTION = 1e-8
"""Singular value of A over the largest one, below which a direction is held by constraints."""


@dataclass(frozen=True, eq=False)
class Chart:
    """Coordinates z around a geometry.

    Attributes:
        origin: Coordinates q of z = 0, flat, (n,).
        columns: V S^-1 = dq/dz, (n, d).
        coordinates: The geometry, L, and U = dy/dz.
    """

    origin: np.ndarray
    columns: np.ndarray
    coordinates: Coordinates

    @classmethod
    def of(cls, optimised: Atoms | Filter) -> Chart:
        """Coordinates around the present geometry of atoms or a filter.

        Constraints that are not linear are left out, because their free directions change on the
        way.
        """
        atoms = innermost(optimised)
        positions, cell = (torch.tensor(t) for t in (atoms.positions, atoms.cell.array))
        spread = float((positions - positions.mean(0)).norm()) / 3**0.5
        length = STRAIN_WEIGHT * max(spread, len(atoms) ** 0.5)
        slopes = _slopes(optimised, length)
        left, sizes, right = np.linalg.svd(slopes, full_matrices=False)
        free = sizes > NO_MOTION * max(sizes.max(initial=0.0), NO_MOTION)
        # Rounding would involve atoms that are held.
        basis = left[:, free] * np.any(slopes, axis=1, keepdims=True)
        return cls(
            origin=np.array(optimised.get_positions(), dtype=float).ravel(),
            columns=right[free].T / sizes[free],
            coordinates=Coordinates(positions, cell, basis, length),
        )

    def z(self, q: np.ndarray) -> np.ndarray:
        """The free coordinates of q, (d,)."""
        return (self.columns / (self.columns**2).sum(0)).T @ (q - self.origin)


class _Derivatives:
    """A dummy calculator: forces and a stress that do not depend on the atoms."""

    def __init__(self, count: int) -> None:
        self.forces, self.stress = np.zeros((count, 3)), np.zeros(6)

    def get_forces(self, _atoms: Atoms) -> np.ndarray:
        return self.forces.copy()

    def get_stress(self, _atoms: Atoms) -> np.ndarray:
        return self.stress.copy()


def innermost(optimised: Atoms | Filter) -> Atoms:
    """The atoms behind a filter, or the atoms themselves."""
    while isinstance(optimised, Filter):
        optimised = optimised.atoms
    return optimised


def _slopes(optimised: Atoms | Filter, length: float) -> np.ndarray:
    """A = dy/dq, (3N + 6, n), at the present geometry."""
    atoms = innermost(optimised)
    answer = _Derivatives(len(atoms))
    # All that a filter refers to is copied with it; the calculator's place is taken.
    copy = deepcopy(optimised, {id(atoms.calc): answer})
    flat = (*CONSTRAINTS, FixSymmetry)
    copied = innermost(copy)
    copied.set_constraint([c for c in copied.constraints if isinstance(c, flat)])
    volume = abs(np.linalg.det(atoms.cell.array))

    def gradient() -> np.ndarray:
        return -np.array(copy.get_forces()).ravel()

    # The gradient without forces and stress is not zero under pressure.
    constant = gradient()
    slopes = np.zeros((3 * len(atoms) + 6, len(constant)))
    for k in range(3 * len(atoms)):
        answer.forces.flat[k] = -1.0
        slopes[k] = gradient() - constant
        answer.forces.flat[k] = 0.0
    if isinstance(optimised, Filter) and volume > 0:
        cell, pbc = torch.as_tensor(atoms.cell.array.copy()), atoms.pbc.tolist()
        inside = periodic_projector(cell, pbc).numpy()  # as the stress of MaceCalculator
        for k, strain in enumerate(STRAINS):
            along = full_3x3_to_voigt_6_stress(inside @ strain @ inside)
            answer.stress = along * length / volume
            slopes[k - 6] = gradient() - constant
    return slopes
