"""Compare the times of `relax` and of ASE's BFGS with our calculator and with mace-torch's.

    python benchmarks/relaxation.py                       four frameworks, positions and cell
    python benchmarks/relaxation.py --cases RSM0011 --repeats 5
    python benchmarks/relaxation.py --structure FILE --model CHECKPOINT
    python benchmarks/relaxation.py --large               MOF-5 of 106 and 848 atoms, rattled

Weights and structures are read from `../shared`, or from `$MACE_FUNCTIONAL_SHARED`. Every run has
its own process; the methods alternate.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import ase.io
import large_relaxation
import torch
from ase import Atoms
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

import mace_functional as mf
from mace_functional.mace.subnormal import flush_subnormal

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("MACE_FUNCTIONAL_SHARED", ROOT.parent / "shared"))
WEIGHTS = SHARED / "weights" / "MACE-MP-0_small.model"
CASES = ("RSM0004", "RSM0010", "RSM0011", "RSM0020")
LOOSE, TIGHT = 0.005, 1e-6
"""Largest forces at which relaxations end, eV/Å."""


class Run(NamedTuple):
    """Result of a relaxation.

    Attributes:
        seconds: Time without loading of the model.
        gradients: Number of gradients.
        products: Number of Hessian products.
        energy: Final energy, eV.
        volume: Final volume, Å³.
        memory: Peak memory minus that of the loaded model, MiB.
    """

    seconds: float
    gradients: int
    products: int
    energy: float
    volume: float
    memory: float


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--structure", help="a structure of your own instead of the cases")
    parser.add_argument("--model", default=str(WEIGHTS), help="%(default)s")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each method (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--large",
        nargs="*",
        type=int,
        metavar="N",
        help="MOF-5 repeated N x N x N, rattled and strained; see `large_relaxation.py` (1 2)",
    )
    parser.add_argument(
        "--methods", nargs="+", choices=large_relaxation.METHODS, default=large_relaxation.METHODS
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="with --large")
    parser.add_argument(
        "--max-gradients",
        type=int,
        default=large_relaxation.MAX_GRADIENTS,
        help="gradients after which a relaxation is given up, with --large (%(default)s)",
    )
    options = parser.parse_args()
    if options.large is not None:
        repeats = options.large or [1, 2]
        large_relaxation.print_table(
            repeats, options.methods, options.seeds, options.threads, options.max_gradients
        )
        return
    paths = {case: SHARED / "heatcapacity" / "structures" / f"{case}.cif" for case in options.cases}
    if options.structure:
        paths = {Path(options.structure).stem: Path(options.structure)}
    print(
        "| | atoms | method | gradients | products | s | over `relax` | MiB | energy, eV | "
        "volume, Å³ |\n| --- | ---: | --- " + "| ---: " * 7 + "|"
    )
    ratios: dict[str, list[float]] = {name: [] for name in METHODS}
    for case, path in paths.items():
        results: dict[str, list[Run]] = {name: [] for name in METHODS}
        for _ in range(options.repeats):
            for name in METHODS:
                run = _in_new_process(name, str(path), options.model, options.threads)
                results[name].append(run)
        relax_s = median(run.seconds for run in results["relax"])
        for name, runs in results.items():
            seconds, run = median(r.seconds for r in runs), runs[0]
            ratios[name].append(seconds / relax_s)
            print(
                f"| {case} | {len(ase.io.read(path))} | {name} | {run.gradients} | {run.products} "
                f"| {seconds:.2f} | {seconds / relax_s:.2f} | {run.memory:.0f} | {run.energy:.5f} "
                f"| {run.volume:.2f} |",
                flush=True,
            )
    print(f"\nmedians over the structures, {options.threads} threads\n")
    for name, values in ratios.items():
        print(f"- {name}: {median(values):.2f} times `relax`")


def _bfgs(atoms: Atoms) -> tuple[Atoms, int, int]:
    optimiser = BFGS(FrechetCellFilter(atoms), logfile=None)
    if not optimiser.run(fmax=LOOSE, steps=2000):
        raise RuntimeError("BFGS has not converged")
    return atoms, optimiser.nsteps + 1, 0


def _bfgs_mace_torch(source: str) -> Callable[[Atoms], tuple[Atoms, int, int]]:
    from mace.calculators import MACECalculator

    calculator = MACECalculator(model_paths=source, device="cpu", default_dtype="float64")
    for module in calculator.models:  # as in load_model, so that both use the same weights
        flush_subnormal(module)

    def run(atoms: Atoms) -> tuple[Atoms, int, int]:
        atoms.calc = calculator
        return _bfgs(atoms)

    return run


def _bfgs_ours(source: str) -> Callable[[Atoms], tuple[Atoms, int, int]]:
    model = mf.load_model(source)

    def run(atoms: Atoms) -> tuple[Atoms, int, int]:
        atoms.calc = mf.MaceCalculator(model)
        return _bfgs(atoms)

    return run


def _relax(fmax: float) -> Callable[[str], Callable[[Atoms], tuple[Atoms, int, int]]]:
    def load(source: str) -> Callable[[Atoms], tuple[Atoms, int, int]]:
        model = mf.load_model(source)

        def run(atoms: Atoms) -> tuple[Atoms, int, int]:
            result = mf.relax(model, atoms, fmax=fmax)
            if not result.converged:
                raise RuntimeError(result.reason)
            return result.atoms, result.n_gradients, result.n_hvps

        return run

    return load


METHODS: dict[str, Callable[[str], Callable[[Atoms], tuple[Atoms, int, int]]]] = {
    "BFGS, mace-torch": _bfgs_mace_torch,
    "BFGS, our calculator": _bfgs_ours,
    "relax": _relax(LOOSE),
    f"relax to {TIGHT:g}": _relax(TIGHT),
}


def _in_new_process(name: str, path: str, model: str, threads: int) -> Run:
    """Run a relaxation in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_run, (name, path, model, threads))


def _run(name: str, path: str, source: str, threads: int) -> Run:
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    relax, atoms = METHODS[name](source), ase.io.read(path)
    before, start = _peak_memory(), time.perf_counter()
    final, gradients, products = relax(atoms)
    seconds = time.perf_counter() - start
    return Run(
        seconds,
        gradients,
        products,
        final.get_potential_energy(),
        final.get_volume(),
        _peak_memory() - before,
    )


def _peak_memory() -> float:
    """Return the peak memory of this process, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
