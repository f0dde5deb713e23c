"""Phonons from phonopy's finite displacements in a supercell: the way around derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator

from mace_functional.interop.phonopy import Supercell, commensurate_points, phonopy_of
from mace_functional.support.renamed import positional_for_a_release
from mace_functional.vibrations.harmonic_modes import frequencies

if TYPE_CHECKING:
    from phonopy import Phonopy

    from mace_functional.phonons import Phonons


def finite_displacements(
    calculator: Calculator,
    atoms: Atoms,
    supercell: Supercell,
    distance: float,
    report: Callable[[int, int], None] | None = None,
) -> Phonopy:
    """Force constants from forces in supercells with one displaced atom, all of it by phonopy.

    For comparison: the frequencies at commensurate wave vectors differ from the exact ones by what
    the step makes of anharmonicity, which vanishes with its square, and by rounding, which grows as
    it shrinks.

    Args:
        calculator: Any of ASE's, such as `MaceCalculator` or mace-torch's own.
        atoms: The structure, whose cell becomes the primitive cell.
        supercell: Repetitions along the lattice vectors, (3,), or phonopy's supercell matrix.
        distance: Of the displacements, Å.
        report: Called before each supercell with its number and how many there are.

    Returns:
        The object with displacements, forces and force constants.

    Raises:
        ValueError: See `to_phonopy`.
        ImportError: If phonopy is not installed.
    """
    phonopy = phonopy_of(atoms, supercell)
    phonopy.generate_displacements(distance=distance)
    cells = phonopy.supercells_with_displacements or []
    forces = []
    for number, cell in enumerate(cells):
        if report is not None:
            report(number, len(cells))
        displaced = Atoms(
            cell.numbers, cell.positions, cell=cell.cell, pbc=atoms.pbc, info=atoms.info
        )
        forces.append(calculator.get_forces(displaced))
    phonopy.forces = np.array(forces)
    phonopy.produce_force_constants(show_drift=False)
    return phonopy


@positional_for_a_release("unit")
def largest_difference(exact: Phonons, approximate: Phonopy, *, unit: str = "THz") -> float:
    """Largest difference of two sets of frequencies at the commensurate wave vectors.

    Without the rigid motions at Gamma, the three modes of smallest |frequency| there: their
    frequencies are roots of what the step leaves of zero.

    Args:
        exact: From `phonons_of`.
        approximate: From `finite_displacements`, of the same structure.
        unit: "cm-1", "THz" or "meV".

    Returns:
        The difference in `unit`.
    """
    largest = 0.0
    for q in commensurate_points(approximate):
        matrices = (
            exact.dynamical_matrix(torch.as_tensor(q).to(exact.masses)),
            torch.as_tensor(approximate.get_dynamical_matrix_at_q(q)),
        )
        ours, theirs = (frequencies(matrix, unit=unit).cpu() for matrix in matrices)
        if not q.any():
            ours, theirs = (f[f.abs().argsort()[3:]].sort().values for f in (ours, theirs))
        largest = max([largest, *(ours - theirs).abs().tolist()])  # one atom has none at Gamma
    return largest
