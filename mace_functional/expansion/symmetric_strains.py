"""Strains that keep the symmetry of a crystal.

A free energy has the symmetry of its crystal, so thermal expansion changes the cell only by strains
that every operation R of the point group leaves unchanged, R e R^T = e: one for a cubic crystal,
two for a uniaxial one, three for an orthorhombic, four for a monoclinic, six for a triclinic one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mace_functional.optimize.coordinates import STRAINS
from mace_functional.structure.lattice import periodic_projector
from mace_functional.structure.symmetry import Operations
from mace_functional.support.defaults import SYMPREC

if TYPE_CHECKING:
    from ase import Atoms

FIXED = 1e-6
"""Largest deviation of the norm of a unit strain from 1, after averaging, if it is invariant."""


def invariant_strains(atoms: Atoms, *, symprec: float = SYMPREC, proper: bool = False) -> Tensor:
    """Return an orthonormal basis of the strains that keep the symmetry of a crystal.

    Args:
        atoms: The crystal, periodic in any directions. Strains deform it along these only.
        symprec: Largest distance of an atom from the position that an operation gives, Å.
        proper: Leave out improper operations, such as inversion and reflections.

    Returns:
        Symmetric strains, (S, 3, 3). The sum of squares of the entries of each is 1.

    Raises:
        ValueError: If the tolerance is out of range, or does not fit the structure.
    """
    kinds = np.unique([atoms.numbers, atoms.get_masses()], axis=1, return_inverse=True)[1]
    operations = Operations.of(atoms, kinds.reshape(-1), symprec, proper)
    return invariant_under(
        torch.as_tensor(operations.cartesian), atoms.cell.complete().array, atoms.pbc.tolist()
    )


def invariant_under(rotations: Tensor, cell: np.ndarray, pbc: Sequence[bool]) -> Tensor:
    """Return an orthonormal basis of the strains that Cartesian rotations leave unchanged.

    Args:
        rotations: Orthogonal matrices of a group, (G, 3, 3).
        cell: Lattice vectors in Å as rows, (3, 3).
        pbc: True for each periodic direction.
    """
    strains = torch.as_tensor(STRAINS)
    projector = periodic_projector(torch.as_tensor(cell), pbc)
    images = torch.einsum(
        "gab,sbc,gdc->gsad", rotations, projector @ strains @ projector, rotations
    )
    average = torch.einsum("sab,gtab->st", strains, images) / len(rotations)
    values, columns = torch.linalg.eigh(0.5 * (average + average.mT))
    return torch.tensordot(columns[:, values > 1 - FIXED].mT, strains, 1)
