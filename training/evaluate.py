"""Compare a student with its teacher on structures that it never saw.

    python training/evaluate.py --teacher MACE-MP-0_small.model --frameworks FOLDER --output FOLDER

prints the table of the model card. Each structure is relaxed with each model: positions, and the
cell of crystals. The teacher's results are kept in the output folder.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.filters import FrechetCellFilter
from ase.io import read
from ase.optimize import BFGS

import mace_functional as mf

FRAMEWORKS = ("RSM0010", "AFI", "13180N3")
MOLECULES = ("ethanol", "benzene")
TEMPERATURE = 300.0


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
    student, teacher = mf.load_model(options.student), None
    print("| | atoms | teacher | student | difference | lowest mode | steps |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, atoms in _held_out(options.frameworks):
        if options.only and name not in options.only:
            continue
        kept = options.output / f"teacher-{name}.json"
        if not kept.exists():
            teacher = teacher or mf.load_model(options.teacher)
            kept.write_text(json.dumps(_measure(atoms, teacher)) + "\n")
        found, wanted = _measure(atoms, student), json.loads(kept.read_text())
        (options.output / f"student-{name}.json").write_text(json.dumps(found) + "\n")
        print(_row(name, len(atoms), wanted, found), flush=True)


def _held_out(folder: Path) -> Iterator[tuple[str, Atoms]]:
    for name in (*MOLECULES, "quartz"):
        yield name, mf.example_structure(name)
    for name in FRAMEWORKS:
        yield name, read(folder / f"{name}.cif")


def _measure(atoms: Atoms, model: mf.MaceModel) -> dict[str, Any]:
    """Relax, and take frequencies and heat capacity."""
    atoms = atoms.copy()
    atoms.calc = mf.MaceCalculator(model)
    optimiser = BFGS(FrechetCellFilter(atoms) if atoms.pbc.all() else atoms, logfile=None)
    converged = optimiser.run(fmax=0.002, steps=1000)
    modes = mf.gamma_modes(model, atoms)
    thermo = mf.harmonic_thermo(modes, [TEMPERATURE])
    return {
        "converged": bool(converged),
        "steps": optimiser.nsteps,
        "energy_per_atom": atoms.get_potential_energy() / len(atoms),
        "volume_per_atom": atoms.get_volume() / len(atoms) if atoms.pbc.all() else None,
        "heat_capacity_J_per_gK": float(
            thermo.specific_heat_capacity(atoms.get_masses().tolist())[0]
        ),
        "frequencies_cm-1": modes.frequencies.tolist(),
    }


def _row(name: str, size: int, wanted: dict[str, Any], found: dict[str, Any]) -> str:
    lowest = f"{found['frequencies_cm-1'][0]:.1f} ({wanted['frequencies_cm-1'][0]:.1f})"
    steps = f"{found['steps']} ({wanted['steps']})"
    if name in MOLECULES:
        both = np.array([found["frequencies_cm-1"], wanted["frequencies_cm-1"]])
        rms = np.sqrt(((both[0] - both[1]) ** 2).mean())
        return f"| {name} | {size} | | | {rms:.1f} cm-1 RMS | {lowest} | {steps} |"
    cv = [m["heat_capacity_J_per_gK"] for m in (wanted, found)]
    change = 100 * (cv[1] / cv[0] - 1)
    return f"| {name} | {size} | {cv[0]:.4f} | {cv[1]:.4f} | {change:+.2f} % | {lowest} | {steps} |"


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    main()
