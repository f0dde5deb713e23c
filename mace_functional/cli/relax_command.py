"""`mace-functional relax`: relaxation of a structure."""

from __future__ import annotations

import argparse
import time
from typing import Any

from ase import Atoms

from mace_functional.cli.console import Console
from mace_functional.cli.found_structures import find_structure
from mace_functional.cli.loaded_models import depends_on_axes, load
from mace_functional.cli.options import symprec_of
from mace_functional.cli.output_files import (
    check_structure_file,
    write_json,
    write_structure,
)
from mace_functional.cli.printed_results import (
    print_forces,
    print_subject,
    print_written,
    structure_results,
)
from mace_functional.cli.relaxed_structures import relax_in_place


def run(options: argparse.Namespace) -> None:
    """Relax the structure, write the files and print the results."""
    console = Console(stderr=True)
    started = time.perf_counter()
    reading = find_structure(options.file, console)
    atoms = reading.atoms
    _check(options, atoms)
    model = load(options, console)
    relaxation = relax_in_place(
        atoms,
        model,
        output=options.output,
        console=console,
        fmax=options.fmax,
        max_steps=options.max_steps,
        relax_cell=options.cell,
        pressure=options.pressure,
        symmetry=options.symmetry,
        symprec=symprec_of(options),
        trajectory=options.trajectory,
    )
    write_structure(options.output, atoms)
    results = {
        **structure_results(options, atoms, model, relaxation),
        "structure": reading.record.as_dict(),
        "pressure_GPa": options.pressure,
        "seconds": time.perf_counter() - started,
    }
    if options.json is not None:
        write_json(options.json, results)
    _print(results)
    print_written(console, options.output, options.trajectory, options.json)


def _check(options: argparse.Namespace, atoms: Atoms) -> None:
    """Raise an error for options that do not fit the structure, before long computations.

    Raises:
        ValueError: If the format of the file cannot represent the structure, or a pressure is given
            for a structure that is not a crystal or whose cell is fixed.
    """
    turns = options.cell in (True, False, "isotropic") and not depends_on_axes(atoms)
    check_structure_file("--output", options.output, atoms, may_turn=turns)
    if options.pressure and not atoms.pbc.all():
        raise ValueError(
            f"--pressure is for crystals, but {options.file} is not periodic in three directions"
        )
    if options.pressure and options.cell is False:
        raise ValueError("--pressure needs a cell that can relax: leave out --cell none")


def _print(results: dict[str, Any]) -> None:
    """Print the end of the relaxation to standard output."""
    console = Console()
    print_subject(console, results)
    print_forces(console, results["relaxation"]["largest_force_eV_per_A"], results)
    console.print(f"{results['seconds']:.1f} s")
