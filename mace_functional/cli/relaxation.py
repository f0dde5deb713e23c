"""Relaxation of a structure with ASE's optimiser and cell filter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from rich.console import Console

from mace_functional.cli.files import read_structure, write_structure
from mace_functional.interop.ase import MaceCalculator
from mace_functional.model import Model


def relax(
    atoms: Atoms,
    model: Model,
    *,
    fmax: float,
    max_steps: int,
    fixed_cell: bool,
    output: Path | None,
    console: Console,
) -> dict[str, Any]:
    """Relax a structure in place: positions, and the cell where all directions are periodic.

    Args:
        atoms: The structure.
        model: The potential.
        fmax: Largest force to stop at, eV/Å.
        max_steps: Steps to stop at.
        fixed_cell: Keep the cell.
        output: Where the structure is written after every step. If the file is there already, the
            relaxation continues from it.
        console: Where the progress is shown.

    Returns:
        What happened: converged, steps, largest force.

    Raises:
        ValueError: If the file to continue from holds another structure.
    """
    if output is not None and output.exists():
        before = read_structure(output)
        if not np.array_equal(before.numbers, atoms.numbers):
            raise ValueError(f"{output} holds another structure: remove it, or name another file")
        atoms.positions, atoms.cell = before.positions, before.cell
        console.print(f"continuing from {output}")
    atoms.calc = MaceCalculator(model)
    with_cell = bool(atoms.pbc.all()) and not fixed_cell
    target: Any = FrechetCellFilter(atoms) if with_cell else atoms
    optimiser = BFGS(target, logfile=None)
    with console.status("relaxing") as status:

        def show() -> None:
            largest = np.linalg.norm(target.get_forces(), axis=1).max()
            status.update(
                f"relaxing: step {optimiser.nsteps}, energy {atoms.get_potential_energy():.6f} eV, "
                f"largest force {largest:.4f} eV/Å"
            )
            if output is not None:
                write_structure(output, atoms)

        optimiser.attach(show)
        converged = bool(optimiser.run(fmax=fmax, steps=max_steps))
    largest = float(np.linalg.norm(target.get_forces(), axis=1).max())
    if not converged:
        console.print(
            f"[bold]not converged[/bold] after {optimiser.nsteps} steps: largest force "
            f"{largest:.4f} eV/Å (raise --max-steps)"
        )
    return {
        "converged": converged,
        "steps": optimiser.nsteps,
        "cell_relaxed": with_cell,
        "fmax_eV_per_A": fmax,
        "largest_force_eV_per_A": largest,
    }
