"""Phonons from phonopy's finite displacements in a supercell, without second derivatives."""

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
    """Compute force constants with phonopy, from forces in supercells with one displaced atom.

    The result serves for comparison. At commensurate wave vectors its frequencies have two errors:
    one from anharmonicity, proportional to the square of the displacement, and one from rounding,
    which grows as the displacement shrinks.

    Args:
        calculator: A calculator of ASE, for example `MaceCalculator` or mace-torch's own.
        atoms: The structure. Its cell becomes the primitive cell.
        supercell: Repetitions along the lattice vectors, (3,), or phonopy's supercell matrix.
        distance: Length of the displacements, Å.
        report: Function that is called before each supercell with its index, from 0, and the number
            of supercells.

    Returns:
        The `Phonopy` object, with displacements, forces and force constants.

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
    """Return the largest difference of two sets of frequencies at the commensurate wave vectors.

    The three modes of smallest |frequency| at Gamma, the rigid motions, are left out: finite
    displacements do not give them eigenvalues of zero.

    Args:
        exact: Phonons of `phonons_of`.
        approximate: Result of `finite_displacements` for the same structure.
        unit: Unit of the frequencies: "cm-1", "THz" or "meV".

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
        # One atom has no modes left at Gamma.
        largest = max([largest, *(ours - theirs).abs().tolist()])
    return largest
