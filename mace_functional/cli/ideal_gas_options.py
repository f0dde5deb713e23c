"""Options for the ideal gas of a molecule."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mace_functional.cli.arguments import Parser, UsageError, number
from mace_functional.cli.options import check_needs, is_given
from mace_functional.support.validation import count, gas_pressure, positive

if TYPE_CHECKING:
    from ase import Atoms

STANDARD_PRESSURE = 1.0
"""Default pressure of a gas, bar."""

OPTIONS = (
    "--gas-pressure",
    "--symmetry-number",
    "--multiplicity",
    "--rotor-cutoff",
    "--rotor-energies",
    "--transition-state",
)
"""Options that only molecules have."""


def add_ideal_gas(parser: Parser) -> None:
    """Add the options for the ideal gas of a molecule."""
    parser.add_argument(
        "--gas-pressure",
        type=number("--gas-pressure", gas_pressure),
        metavar="p",
        help=f"pressure of a gas of molecules, bar ({STANDARD_PRESSURE:g})",
    )
    parser.add_argument(
        "--symmetry-number",
        type=number("--symmetry-number", count),
        metavar="n",
        help="number of rotations that map a molecule onto itself (found from the geometry)",
    )
    parser.add_argument(
        "--multiplicity",
        type=number("--multiplicity", count),
        metavar="n",
        help="spin multiplicity 2 S + 1 of a molecule: 2 for a radical, 3 for O2 (1)",
    )
    parser.add_argument(
        "--rotor-cutoff",
        type=number("--rotor-cutoff", positive, "cm-1"),
        metavar="w",
        help="wavenumber, cm-1, at which a vibration of a molecule has half the entropy of a "
        "vibration and half that of a free rotor (Grimme 2012), usually 100. (all are vibrations)",
    )
    parser.add_argument(
        "--rotor-energies",
        action="store_true",
        help="interpolate enthalpies and heat capacities in the same way (Li et al. 2015); needs "
        "--rotor-cutoff",
    )
    parser.add_argument(
        "--transition-state",
        action="store_true",
        help="the molecule is a first-order saddle point: leave out its imaginary mode",
    )


def check_ideal_gas(options: argparse.Namespace) -> None:
    """Raise an error if options for the ideal gas contradict each other.

    Raises:
        UsageError: If they do.
    """
    if options.rotor_cutoff is None:
        check_needs(options, "--rotor-energies", "--rotor-cutoff")


def is_molecule(atoms: Atoms, free: Sequence[int]) -> bool:
    """Return True if a structure is not periodic and all its atoms are free."""
    return not atoms.pbc.any() and len(free) == len(atoms)


def check_molecule(options: argparse.Namespace, atoms: Atoms, free: Sequence[int]) -> None:
    """Raise an error if there are options for the ideal gas and the structure is no free molecule.

    Args:
        options: Options of the subcommand.
        atoms: The structure.
        free: Atoms that move.

    Raises:
        UsageError: If an option is given.
    """
    if is_molecule(atoms, free):
        return
    reason = f"{len(atoms) - len(free)} of {len(atoms)} atoms are fixed"
    if atoms.pbc.any():
        reason = f"{options.file} is periodic along {int(atoms.pbc.sum())} directions"
    for name in OPTIONS:
        if is_given(options, name):
            raise UsageError(f"{name} is for a gas of free molecules, and {reason}")
