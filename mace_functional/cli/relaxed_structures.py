"""Relaxation in subcommands, with progress on the console and the geometry in a file."""

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
    """Relax a structure in place, or continue its relaxation from a file.

    Args:
        atoms: The structure.
        model: The potential.
        output: File in which the structure is written after every step. If the file exists, the
            relaxation continues from it.
        console: Console for the progress.
        **options: Options of `relax`.

    Returns:
        Results of the relaxation for JSON.

    Raises:
        ValueError: If the existing file contains another structure; see also `relax`.
    """
    if output is not None and output.exists():
        last = read(output).atoms
        if not np.array_equal(last.numbers, atoms.numbers):
            raise ValueError(f"{output} has another structure: remove it, or name another file")
        atoms.set_cell(last.cell)
        atoms.set_positions(last.positions, apply_constraint=False)
        console.print(f"continuing from {output}")
    result = relax(
        model,
        atoms,
        callback=None if output is None else lambda current, _: write_structure(output, current),
        progress=console.is_terminal,
        **options,
    )
    atoms.set_cell(result.atoms.cell)
    atoms.set_positions(result.atoms.positions, apply_constraint=False)
    if not result.converged:
        console.print(f"relaxation {result.reason}", style=BOLD)
    return relaxation_results(result, options)


def relaxation_results(result: RelaxResult, options: dict[str, Any]) -> dict[str, Any]:
    """Return the results of a relaxation for JSON."""
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
