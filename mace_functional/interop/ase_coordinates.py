"""Free coordinates z of atoms with constraints, or of a filter, for an optimiser of ASE.

ASE's optimisers work with coordinates q and forces f_q = -dE/dq of atoms or of a filter. A filter
adds coordinates of the cell. For every filter and all linear constraints, these forces are linear
in the derivatives of the energy by the displacements u and the strain e, y = (u, L e),

    dE/dq = A^T dE/dy,        A = dy/dq = U S V^T.

The Jacobian A is obtained row by row, with a dummy calculator whose forces and stress are unit
vectors. The coordinates z are defined by

    q = q_0 + V S^-1 z,        dE/dz = S^-1 V^T dE/dq,        d2E/dz2 ~ U^T (d2E/dy2) U.

They span only the range of A. With this scaling, the length of a step in z is the length of the
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
"""Smallest singular value of A for a free direction, relative to the largest singular value.

Directions with smaller singular values are held by constraints.
"""


@dataclass(frozen=True, eq=False)
class Chart:
    """Free coordinates z around one geometry, and their relation to q and y.

    Attributes:
        origin: Coordinates q of the point z = 0, flat, (n,).
        columns: Jacobian V S^-1 = dq/dz, (n, d).
        coordinates: Geometry, the length L, and the Jacobian U = dy/dz.
    """

    origin: np.ndarray
    columns: np.ndarray
    coordinates: Coordinates

    @classmethod
    def of(cls, optimised: Atoms | Filter) -> Chart:
        """Construct the coordinates around the current geometry of atoms or a filter.

        Constraints that are not linear are ignored, because their free directions change with the
        geometry.
        """
        atoms = innermost(optimised)
        positions, cell = (torch.tensor(t) for t in (atoms.positions, atoms.cell.array))
        spread = float((positions - positions.mean(0)).norm()) / 3**0.5
        length = STRAIN_WEIGHT * max(spread, len(atoms) ** 0.5)
        A = _jacobian(optimised, length)
        U, s, Vt = np.linalg.svd(A, full_matrices=False)
        free = s > NO_MOTION * max(s.max(initial=0.0), NO_MOTION)
        # Zero rows belong to fixed atoms; in U they have rounding errors.
        basis = U[:, free] * np.any(A, axis=1, keepdims=True)
        return cls(
            origin=np.array(optimised.get_positions(), dtype=float).ravel(),
            columns=Vt[free].T / s[free],
            coordinates=Coordinates(positions, cell, basis, length),
        )

    def z(self, q: np.ndarray) -> np.ndarray:
        """Return the free coordinates z of a point q, (d,)."""
        return (self.columns / (self.columns**2).sum(0)).T @ (q - self.origin)


class _DummyCalculator:
    """Calculator with given forces and stress, whatever the positions of the atoms."""

    def __init__(self, count: int) -> None:
        self.forces, self.stress = np.zeros((count, 3)), np.zeros(6)

    def get_forces(self, _atoms: Atoms) -> np.ndarray:
        """Return the given forces, (N, 3)."""
        return self.forces.copy()

    def get_stress(self, _atoms: Atoms) -> np.ndarray:
        """Return the given stress in Voigt order, (6,)."""
        return self.stress.copy()


def innermost(optimised: Atoms | Filter) -> Atoms:
    """Return the atoms of a filter, or the atoms themselves."""
    while isinstance(optimised, Filter):
        optimised = optimised.atoms
    return optimised


def _jacobian(optimised: Atoms | Filter, length: float) -> np.ndarray:
    """Return the Jacobian A = dy/dq at the current geometry, (3N + 6, n)."""
    atoms = innermost(optimised)
    dummy = _DummyCalculator(len(atoms))
    # The copy of a filter includes its atoms; the dummy replaces their calculator.
    copy = deepcopy(optimised, {id(atoms.calc): dummy})
    linear = (*CONSTRAINTS, FixSymmetry)
    copied_atoms = innermost(copy)
    copied_atoms.set_constraint([c for c in copied_atoms.constraints if isinstance(c, linear)])
    volume = abs(np.linalg.det(atoms.cell.array))

    def gradient() -> np.ndarray:
        return -np.array(copy.get_forces()).ravel()

    # Under pressure, the gradient is not zero even without forces and stress.
    offset = gradient()
    A = np.zeros((3 * len(atoms) + 6, len(offset)))
    for k in range(3 * len(atoms)):
        dummy.forces.flat[k] = -1.0
        A[k] = gradient() - offset
        dummy.forces.flat[k] = 0.0
    if isinstance(optimised, Filter) and volume > 0:
        cell, pbc = torch.as_tensor(atoms.cell.array.copy()), atoms.pbc.tolist()
        projector = periodic_projector(cell, pbc).numpy()  # as in PotentialCalculator.calculate
        for k, strain in enumerate(STRAINS):
            stress = full_3x3_to_voigt_6_stress(projector @ strain @ projector)
            dummy.stress = stress * length / volume
            A[k - 6] = gradient() - offset
    return A
