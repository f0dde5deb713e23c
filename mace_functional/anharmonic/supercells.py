"""Supercells of a crystal: as structures, and what they do to phonons."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from ase import Atoms

from mace_functional.interop.phonopy import commensurate_points, from_phonopy
from mace_functional.phonons import Phonons
from mace_functional.vibrations.harmonic_modes import frequencies

if TYPE_CHECKING:
    from phonopy import Phonopy
    from phonopy.structure.cells import Primitive
    from phonopy.structure.cells import Supercell as PhonopySupercell

MAX_POINTS = 27
"""Largest number of wave vectors at which frequencies are compared."""


class FrequencyError(NamedTuple):
    """Difference of the frequencies from a supercell and the exact ones.

    Attributes:
        largest: Largest difference, THz.
        highest: Highest exact frequency, THz.
    """

    largest: float
    highest: float


def ase_supercell(supercell: PhonopySupercell, atoms: Atoms) -> Atoms:
    """Return phonopy's supercell as ASE Atoms, with all that the atoms of the unit cell carry.

    Args:
        supercell: The supercell.
        atoms: The unit cell.
    """
    in_unit_cell = [supercell.u2u_map[i] for i in supercell.s2u_map]
    repeated: Atoms = atoms[in_unit_cell]
    repeated.set_cell(supercell.cell)
    repeated.positions = supercell.positions
    return repeated


def second_order(phonopy: Phonopy, primitive: Primitive) -> np.ndarray:
    """Return the second-order force constants of the atoms of a primitive cell, (n, P, 3, 3).

    Args:
        phonopy: Force constants of all atoms of the unit cell, of `to_phonopy`.
        primitive: The primitive cell, in the same supercell.
    """
    rows = {atom: row for row, atom in enumerate(phonopy.primitive.p2s_map)}
    chosen = [rows[atom] for atom in primitive.p2s_map]
    return np.asarray(phonopy.force_constants)[chosen]


def frequency_error(phonons: Phonons, phonopy: Phonopy) -> FrequencyError:
    """Compare frequencies from the force constants of a supercell with the exact ones.

    The wave vectors are halfway between those that are commensurate with the supercell, where the
    frequencies agree.

    Args:
        phonons: The exact phonons.
        phonopy: The force constants, of `to_phonopy`.
    """
    folded = from_phonopy(phonopy)
    half = np.linalg.inv(np.asarray(phonopy.supercell_matrix)).T @ np.full(3, 0.5)
    points = commensurate_points(phonopy) + half
    step = -(-len(points) // MAX_POINTS)
    largest = highest = 0.0
    for q in points[::step]:
        ours, theirs = (
            frequencies(p.dynamical_matrix(torch.as_tensor(q).to(p.masses)), unit="THz").cpu()
            for p in (phonons, folded)
        )
        largest = max(largest, float((ours - theirs).abs().max()))
        highest = max(highest, float(ours.max()))
    return FrequencyError(largest, highest)
