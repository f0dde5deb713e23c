"""Compare the cost of lowest modes and of stability checks with that of the whole Hessian.

    python benchmarks/lowest_modes.py                                three frameworks, on CPU
    python benchmarks/lowest_modes.py --cases RSM0011 --k 1 10 20
    python benchmarks/lowest_modes.py --structure FILE --model MODEL

Weights and structures are read from `../shared`, or from `$MACE_FUNCTIONAL_SHARED`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import torch
from ase import Atoms
from ase.optimize import LBFGS

import mace_functional as mf
from mace_functional.optimize.lowest_modes import lowest_modes
from mace_functional.optimize.stability import check_stability
from mace_functional.vibrations.harmonic_modes import internal_motions, rigid_motions

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("MACE_FUNCTIONAL_SHARED", ROOT.parent / "shared"))
WEIGHTS = SHARED / "weights" / "MACE-MP-0_small.model"
CASES = {
    "RSM0004": Path("relaxed", "RSM0004.xyz"),
    "RSM0011": Path("relaxed", "RSM0011.xyz"),
    "13180N3": Path("structures", "13180N3.cif"),
}


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return the time of a call, s, and its result."""
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def relaxed(atoms: Atoms, model: mf.MaceModel, largest_force: float) -> Atoms:
    """Return the structure with its atoms relaxed in a fixed cell."""
    atoms = atoms.copy()
    atoms.calc = mf.MaceCalculator(model)
    LBFGS(atoms, logfile=None).run(largest_force, 1000)
    atoms.calc = None
    return atoms


def study(name: str, atoms: Atoms, model: mf.MaceModel, sizes: list[int], tolerance: float) -> None:
    """Print the rows of the table for one structure."""
    s = mf.from_ase(atoms, model)
    pbc = s.graph.pbc.tolist()

    def operator() -> mf.HessianOperator:
        energy = mf.energy_fn(model, s.graph)
        return mf.HessianOperator(energy, s.positions, s.cell, model.params, s.masses)

    operator() @ s.positions  # warm-up: the first call is slower
    dense_s, matrix = timed(lambda: operator().dense())
    internal = internal_motions(rigid_motions(s.positions, s.masses, pbc=pbc, cell=s.cell))
    projected = internal.mT @ matrix @ internal
    exact = torch.linalg.eigvalsh((projected + projected.mT) / 2)

    def row(task: str, hvps: int, seconds: float, error: str, result: str) -> None:
        cells = f"{name} | {matrix.shape[0]} | {task} | {hvps} | {seconds:.2f} | {dense_s:.2f}"
        print(f"| {cells} | {error} | {result} |", flush=True)

    for k in sizes:
        seconds, modes = timed(
            lambda k=k: lowest_modes(operator(), k, pbc=pbc, numbers=s.numbers, tolerance=tolerance)
        )
        error = ((modes.eigenvalues - exact[:k]) / exact[:k]).abs().max()
        lowest = f"{modes.frequencies[0]:.2f} cm-1"
        result = lowest if modes.converged else f"{lowest}; {modes.reason}"
        row(f"{k} lowest", modes.n_hvps, seconds, f"{error:.0e}", result)
    seconds, check = timed(lambda: check_stability(model, atoms))
    verdict = "minimum" if check.stable else "no minimum"
    certainty = "" if check.certain else " (uncertain)"
    correct = "right" if check.stable == bool(exact[0] > 0) else "wrong"
    result = f"{verdict}{certainty}, {check.frequency:.2f} cm-1"
    row("stability", check.n_hvps, seconds, correct, result)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    add("--structure", type=Path, help="a structure of your own")
    add("--model", default=str(WEIGHTS), help="%(default)s")
    add("--k", nargs="+", type=int, default=[1, 3, 10], help="numbers of modes (%(default)s)")
    add("--tolerance", type=float, default=1e-8, help="error of eigenvalues (%(default)s)")
    add("--relax", type=float, metavar="FORCE", help="relax to this largest force first, eV/Å")
    add("--device", default="cpu", help="cpu, cuda, cuda:1, ... (%(default)s)")
    options = parser.parse_args()
    if options.structure is not None:
        files = {options.structure.stem: options.structure}
    else:
        files = {name: SHARED / "heatcapacity" / CASES[name] for name in options.cases}
    missing = [str(file) for file in files.values() if not file.is_file()]
    if missing:
        sys.exit(f"missing {', '.join(missing)}: set MACE_FUNCTIONAL_SHARED, or use --structure")
    model = mf.load_model(options.model, device=options.device)
    print("| | 3N | | products | s | s, whole matrix | relative error | lowest |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: | --- |")
    for name, file in files.items():
        atoms: Any = ase.io.read(file)
        if options.relax is not None:
            atoms = relaxed(atoms, model, options.relax)
        study(name, atoms, model, options.k, options.tolerance)


if __name__ == "__main__":
    main()
