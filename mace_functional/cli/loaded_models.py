"""Loading of the model of a command line, and relaxation of the structure with it."""

from __future__ import annotations

import argparse
from typing import Any

from ase import Atoms
from ase.constraints import FixAtoms

from mace_functional.cli.console import Console
from mace_functional.cli.output_files import check_structure_file
from mace_functional.cli.relaxed_structures import relax_in_place
from mace_functional.mace.loading import load_model
from mace_functional.potential.protocol import Potential, Trainable


def load(options: argparse.Namespace, console: Console) -> Trainable:
    """Load the model that the options select."""
    with console.status(f"loading {options.model}"):
        return load_model(
            options.model,
            dtype=options.dtype,
            device=options.device,
            head=options.head,
            dispersion=options.dispersion,
        )


def depends_on_axes(atoms: Atoms) -> bool:
    """Return True if a constraint depends on the Cartesian axes, so these must not be rotated."""
    return any(not isinstance(constraint, FixAtoms) for constraint in atoms.constraints)


def load_and_relax(
    options: argparse.Namespace, atoms: Atoms, console: Console, **more: Any
) -> tuple[Potential, dict[str, Any] | None]:
    """Load the model and, with --relax, relax the structure in place.

    Args:
        options: Options of the subcommand, with those of `add_options`.
        atoms: The structure.
        console: Console for the progress.
        **more: Further options of `relax`, such as the pressure.

    Returns:
        The model, and the results of the relaxation; None without --relax.

    Raises:
        ValueError: If the format of the --relaxed file cannot represent the structure.
    """
    check_structure_file("--relaxed", options.relaxed, atoms, may_turn=not depends_on_axes(atoms))
    model = load(options, console)
    if not options.relax:
        return model, None
    relaxation = relax_in_place(
        atoms,
        model,
        fmax=options.fmax,
        max_steps=options.max_steps,
        relax_cell=not options.fixed_cell,
        output=options.relaxed,
        console=console,
        **more,
    )
    return model, relaxation
