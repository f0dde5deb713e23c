"""Compare a student with its teacher on structures outside of the training data.

    python training/evaluate.py --teacher MACE-MP-0_small.model --frameworks FOLDER --output FOLDER

prints the table of the model card. The teacher relaxes each structure to a minimum. The student
relaxes that minimum and keeps its space group, so that an instability which it alone has remains as
an imaginary mode. Results of the teacher in the output folder are reused.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase import Atoms
from structures import held_out

import mace_functional as mf
from mace_functional.phonons import mesh_size

TEMPERATURE = 300.0
"""Temperature of the heat capacities, K."""

SPACING = 0.5
"""Largest distance of neighbouring wave vectors, 1/Å."""

FMAX = 1e-3
"""Largest force on an atom after a relaxation, eV/Å."""


@dataclass(frozen=True)
class Measured:
    """What a model says of a structure.

    Attributes:
        converged: True if the relaxation ended in a minimum, or for the student in a stationary
            point of the space group.
        volume: Volume of the cell, Å³; 0 for molecules.
        heat_capacity: Heat capacity at `TEMPERATURE` and constant volume, J/(g K).
        frequencies: Signed frequencies, cm-1, (Q, 3N), for each wave vector in ascending order.
    """

    converged: bool
    volume: float
    heat_capacity: float
    frequencies: list[list[float]]


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--teacher", type=Path, required=True, help="MACE-MP-0 small")
    parser.add_argument("--student", default="embedded", help="model to test (%(default)s)")
    parser.add_argument("--frameworks", type=Path, required=True, help="folder of the CIF files")
    parser.add_argument("--output", type=Path, required=True, help="folder for the results")
    parser.add_argument("--only", nargs="+", help="names of structures")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    options.output.mkdir(parents=True, exist_ok=True)
    student, teacher = mf.load_model(options.student), mf.load_model(options.teacher)
    print("| | atoms | teacher | student | difference | volume | frequencies | lowest | s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, atoms in held_out(options.frameworks):
        if options.only and name not in options.only:
            continue
        started = time.perf_counter()
        relaxed, reference = _reference(name, atoms, teacher, options.output)
        between = time.perf_counter()
        _, found = _measured(relaxed, student, symmetry=True)
        seconds = time.perf_counter() - between, between - started
        print(_row(name, len(atoms), reference, found, seconds), flush=True)


def _reference(
    name: str, atoms: Atoms, teacher: mf.MaceModel, folder: Path
) -> tuple[Atoms, Measured]:
    """Return the minimum of the teacher, and its results there, from files if they exist."""
    structure, results = folder / f"{name}.extxyz", folder / f"{name}.json"
    if not results.exists():
        relaxed, measured = _measured(atoms, teacher, symmetry=False)
        ase.io.write(structure, relaxed)
        results.write_text(json.dumps(asdict(measured)) + "\n")
    return ase.io.read(structure), Measured(**json.loads(results.read_text()))


def _measured(atoms: Atoms, model: mf.MaceModel, *, symmetry: bool) -> tuple[Atoms, Measured]:
    """Relax a structure with its cell, and compute its frequencies and heat capacity."""
    found = mf.relax(model, atoms, symmetry=symmetry, fmax=FMAX)
    relaxed = found.atoms
    if not atoms.pbc.any():
        modes = mf.gamma_modes(model, relaxed)
        thermo, frequencies = mf.harmonic_thermo(modes, [TEMPERATURE]), modes.frequencies[None]
    else:
        mesh = mf.Mesh.of(relaxed, mesh_size(relaxed, SPACING), symmetry=False)
        on_mesh = mf.mesh_modes(mf.phonons_of(model, relaxed), mesh, eigenvectors=False)
        thermo, frequencies = mf.mesh_thermo(on_mesh, [TEMPERATURE]).thermo, on_mesh.frequencies
    return relaxed, Measured(
        converged=found.converged,
        volume=relaxed.get_volume() if atoms.pbc.any() else 0.0,
        heat_capacity=float(thermo.specific_heat_capacity()[0]),
        frequencies=frequencies.tolist(),
    )


def _row(
    name: str, size: int, reference: Measured, found: Measured, seconds: tuple[float, float]
) -> str:
    cells = [name, str(size), f"{reference.heat_capacity:.4f}", f"{found.heat_capacity:.4f}"]
    cells.append(_change(reference.heat_capacity, found.heat_capacity))
    cells.append(_change(reference.volume, found.volume) if reference.volume else "")
    theirs, ours = np.array(reference.frequencies), np.array(found.frequencies)
    same = theirs.shape == ours.shape  # else their cells differ so much that their meshes do
    cells.append(f"{np.sqrt(((ours - theirs) ** 2).mean()):.1f}" if same else "")
    cells.append(f"{ours.min():.1f} ({theirs.min():.1f})")
    cells.append(f"{seconds[0]:.0f} ({seconds[1]:.0f})")
    unfinished = [w for w, m in (("teacher", reference), ("student", found)) if not m.converged]
    cells[0] += f" (not converged: {', '.join(unfinished)})" if unfinished else ""
    return f"| {' | '.join(cells)} |"


def _change(reference: float, value: float) -> str:
    return f"{100 * (value / reference - 1):+.2f} %"


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    main()
