"""A relaxation as verbs make it: shown on the console, and kept in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from mace_functional.cli.console import BOLD, Console
from mace_functional.cli.output_files import write_structure
from mace_functional.optimize.relax import RelaxResult, relax
from mace_functional.potential.protocol import Potential
from mace_functional.structure.reading import read


def relax_in_place(
    atoms: Atoms,
    model: Potential,
    *,
    output: Path | None,
    console: Console,
    **options: Any,
) -> dict[str, Any]:
    """Relax a structure in place.

    Args:
        atoms: The structure.
        model: The potential.
        output: Where the structure is written after every step. If the file is there already, the
            relaxation continues from it.
        console: Where the progress is shown.
        **options: Of `relax`.

    Returns:
        What happened, as verbs report it.

    Raises:
        ValueError: If the file to continue from holds another structure, or as `relax`.
    """
    if output is not None and output.exists():
        before = read(output).atoms
        if not np.array_equal(before.numbers, atoms.numbers):
            raise ValueError(f"{output} holds another structure: remove it, or name another file")
        atoms.set_cell(before.cell)
        atoms.set_positions(before.positions, apply_constraint=False)
        console.print(f"continuing from {output}")
    result = relax(
        model,
        atoms,
        callback=None if output is None else lambda here, _: write_structure(output, here),
        progress=console.is_terminal,
        **options,
    )
    atoms.set_cell(result.atoms.cell)
    atoms.set_positions(result.atoms.positions, apply_constraint=False)
    if not result.converged:
        console.print(f"relaxation {result.reason}", style=BOLD)
    return relaxation_results(result, options)


def relaxation_results(result: RelaxResult, options: dict[str, Any]) -> dict[str, Any]:
    """What happened in a relaxation."""
    return {
        "converged": result.converged,
        "outcome": result.outcome.name.lower(),
        "reason": result.reason,
        "steps": result.n_gradients,
        "hessian_vector_products": result.n_hvps,
        "cell_relaxed": bool(options["relax_cell"]) and bool(result.atoms.pbc.any()),
        "fmax_eV_per_A": options["fmax"],
        "largest_force_eV_per_A": result.last.largest_force,
    }
