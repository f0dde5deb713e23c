"""Compare a student with its teacher on structures outside of the training data.

    python training/evaluate.py --teacher MACE-MP-0_small.model --frameworks FOLDER --output FOLDER

prints the table of the model card. Each structure is relaxed with each model, including the cell of
crystals. Results of the teacher in the output folder are reused.
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
"""Temperature of the heat capacities, K."""


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
    for name, atoms in _test_structures(options.frameworks):
        if options.only and name not in options.only:
            continue
        reference_file = options.output / f"teacher-{name}.json"
        if not reference_file.exists():
            teacher = teacher or mf.load_model(options.teacher)
            reference_file.write_text(json.dumps(_measure(atoms, teacher)) + "\n")
        result, reference = _measure(atoms, student), json.loads(reference_file.read_text())
        (options.output / f"student-{name}.json").write_text(json.dumps(result) + "\n")
        print(_row(name, len(atoms), reference, result), flush=True)


def _test_structures(folder: Path) -> Iterator[tuple[str, Atoms]]:
    for name in (*MOLECULES, "quartz"):
        yield name, mf.example_structure(name)
    for name in FRAMEWORKS:
        yield name, read(folder / f"{name}.cif")


def _measure(atoms: Atoms, model: mf.MaceModel) -> dict[str, Any]:
    """Relax a structure, and compute its frequencies and heat capacity."""
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


def _row(name: str, size: int, reference: dict[str, Any], result: dict[str, Any]) -> str:
    lowest = f"{result['frequencies_cm-1'][0]:.1f} ({reference['frequencies_cm-1'][0]:.1f})"
    steps = f"{result['steps']} ({reference['steps']})"
    if name in MOLECULES:
        frequencies = np.array([m["frequencies_cm-1"] for m in (result, reference)])
        rms = np.sqrt(((frequencies[0] - frequencies[1]) ** 2).mean())
        return f"| {name} | {size} | | | {rms:.1f} cm-1 RMS | {lowest} | {steps} |"
    cv = [m["heat_capacity_J_per_gK"] for m in (reference, result)]
    change = 100 * (cv[1] / cv[0] - 1)
    return f"| {name} | {size} | {cv[0]:.4f} | {cv[1]:.4f} | {change:+.2f} % | {lowest} | {steps} |"


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    main()
