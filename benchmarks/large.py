"""Heat capacities of large cells from Hessian-vector products, against the exact value of a mesh.

    python benchmarks/large.py                       MOF-5 and AFI, two models, published times
    python benchmarks/large.py --models embedded     without MACE-MP-0 small: five minutes
    python benchmarks/large.py --structures MOF-5 --models embedded --repeats 6x6x6
    python benchmarks/large.py --part published      published times beside stored ones of ours

The Gamma point of a x b x c cells is the a x b x c mesh of the primitive cell, which has the exact
values. Every calculation runs in its own process, on one thread. Time is that of the processor,
memory the peak of the process. Weights and the structure AFI are read from `../shared`, or from
`$MACE_FUNCTIONAL_SHARED`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ase.io
import numpy as np
import torch
from ase import Atoms
from published_times import print_published_times

import mace_functional as mf

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("MACE_FUNCTIONAL_SHARED", ROOT.parent / "shared"))

STRUCTURES = {"MOF-5": None, "AFI": SHARED / "heatcapacity" / "structures" / "AFI.cif"}
"""Structures by name: a file, or None for an example of the package."""

MODELS = {"embedded": "embedded", "small": str(SHARED / "weights" / "MACE-MP-0_small.model")}
"""Names for `load_model`."""

QUANTITIES = "heat_capacity", "entropy", "free_energy"
"""Quantities that are compared with their exact values."""

Cells = tuple[int, int, int]
"""Number of primitive cells along each lattice vector."""


class Run(NamedTuple):
    """One calculation: its cost, its results and their standard errors.

    Attributes:
        atoms: Number of atoms.
        products: Number of Hessian-vector products.
        seconds: Processor time without loading of the model.
        gib: Peak memory of the process, GiB.
        base: Memory of the process with the model, before the calculation, GiB.
        values: Results, in the order of `QUANTITIES`.
        errors: Their standard errors.
    """

    atoms: int
    products: int
    seconds: float
    gib: float
    base: float
    values: list[float]
    errors: list[float]

    @property
    def product_seconds(self) -> float:
        """Processor time over the number of products."""
        return self.seconds / self.products


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--part", choices=("all", "runs", "published"), default="all")
    parser.add_argument("--structures", nargs="+", choices=STRUCTURES, default=list(STRUCTURES))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--dtype", choices=("float64", "float32"), default="float64")
    parser.add_argument(
        "--repeats",
        nargs="+",
        type=cells,
        default=[(n, n, n) for n in (1, 2, 3)],
        help="3 or 4x4x2",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--temperature", type=float, default=300.0, help="K")
    parser.add_argument("--rel-error", type=float, default=1.5e-3)
    parser.add_argument("--entropy-error", type=float)
    options = parser.parse_args()
    if options.part != "published":
        for model in options.models:
            for structure in options.structures:
                files = [f for f in (STRUCTURES[structure], MODELS[model]) if f != "embedded"]
                missing = [str(f) for f in files if f is not None and not Path(f).exists()]
                if missing:
                    print(f"{structure}, {model}: skipped, there is no {', '.join(missing)}\n")
                else:
                    print_runs(structure, model, options)
    if options.part != "runs":
        print_published_times()


def cells(text: str) -> Cells:
    """Read "3" or "4x4x2"."""
    numbers = [int(part) for part in text.split("x")]
    a, b, c = numbers * 3 if len(numbers) == 1 else numbers
    return a, b, c


def print_runs(structure: str, model: str, options: argparse.Namespace) -> None:
    """Print a row for each size and seed, and how time and memory grow."""
    print(f"{structure}, {model}, {options.dtype}, {options.temperature:g} K\n")
    cell, exact = in_new_process(
        exact_values, structure, MODELS[model], options.repeats, options.temperature
    )
    print(
        "| atoms | seed | products | s | s, product | GiB | standard errors of Cv, S, F, % "
        "| deviation of Cv, % | deviations, standard errors |\n| ---: |"
        + " ---: |" * 5
        + " --- | ---: | --- |"
    )
    errors = {"rel_error": options.rel_error, "entropy_error": options.entropy_error}
    runs = []
    for repeats, values in zip(options.repeats, exact, strict=True):
        for seed in options.seeds:
            arguments = {**errors, "temperatures": options.temperature, "seed": seed}
            run = in_new_process(
                calculation, cell.repeat(repeats), MODELS[model], options.dtype, arguments
            )
            runs.append(run)
            print(row(run, seed, values), flush=True)
    if len({run.atoms for run in runs}) > 1:
        print(
            f"\nTime of a product grows as N^{growth(runs, lambda run: run.product_seconds):.2f}, "
            f"all time as N^{growth(runs, lambda run: run.seconds):.2f}, memory above that of the "
            f"loaded model ({runs[0].base:.2f} GiB) as N^"
            f"{growth(runs, lambda run: run.gib - run.base):.2f}."
        )
    print(flush=True)


def row(run: Run, seed: int, exact: Sequence[float]) -> str:
    """Return a row of the table: costs, standard errors, and deviations from the exact values."""
    relative = [100 * error / abs(value) for error, value in zip(run.errors, exact, strict=True)]
    differences = [found - value for found, value in zip(run.values, exact, strict=True)]
    deviations = ", ".join(
        f"{difference / error:+.1f}"
        for difference, error in zip(differences, run.errors, strict=True)
        if error
    )
    return (
        f"| {run.atoms} | {seed} | {run.products} | {run.seconds:.0f} "
        f"| {run.product_seconds:.3f} | {run.gib:.2f} | {', '.join(f'{e:.2g}' for e in relative)} "
        f"| {100 * differences[0] / exact[0]:+.2g} | {deviations or 'all modes'} |"
    )


def growth(runs: Sequence[Run], cost: Callable[[Run], float]) -> float:
    """Return the exponent of a cost as a power of the number of atoms, by least squares."""
    sizes = [run.atoms for run in runs]
    return float(np.polyfit(np.log(sizes), np.log([cost(run) for run in runs]), 1)[0])


def exact_values(
    structure: str, model: str, repeats: Sequence[Cells], temperature: float
) -> tuple[Atoms, list[list[float]]]:
    """Return a relaxed primitive cell, and the exact values of its supercells from meshes."""
    potential = mf.load_model(model)
    cell = relaxed_cell(structure, potential)
    phonons = mf.phonons_of(potential, cell, method="force-constants")
    values = []
    for size in repeats:
        modes = mf.mesh_modes(phonons, mf.Mesh.of(cell, size), eigenvectors=False)
        thermo = mf.mesh_thermo(modes, temperature).thermo
        values.append([np.prod(size) * float(getattr(thermo, name)) for name in QUANTITIES])
    return cell, values


def relaxed_cell(structure: str, potential: mf.MaceModel) -> Atoms:
    """Return a primitive cell at its minimum, without a calculator."""
    file = STRUCTURES[structure]
    cell = mf.example_structure(structure) if file is None else ase.io.read(file)
    cell = mf.relax(potential, cell, fmax=1e-3).atoms
    return Atoms(cell.numbers, cell.positions, cell=cell.cell, pbc=cell.pbc)


def calculation(atoms: Atoms, model: str, dtype: str, arguments: dict[str, Any]) -> Run:
    """Compute the thermodynamics of a large cell by products."""
    potential = mf.load_model(model, dtype=dtype)
    base, before = peak_memory(), time.process_time()
    found = mf.stochastic_thermo(potential, atoms, **arguments)
    return Run(
        atoms=len(atoms),
        products=found.n_products,
        seconds=time.process_time() - before,
        gib=peak_memory(),
        base=base,
        values=[float(getattr(found, name)) for name in QUANTITIES],
        errors=[float(getattr(found, f"{name}_error")) for name in QUANTITIES],
    )


def peak_memory() -> float:
    """Return the largest memory that this process has taken, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def in_new_process(task: Callable[..., Any], *arguments: Any) -> Any:
    """Run a task in a new process, on one thread."""
    with multiprocessing.get_context("spawn").Pool(1, initializer=one_thread) as pool:
        return pool.apply(task, arguments)


def one_thread() -> None:
    """Prepare a process."""
    torch.set_num_threads(1)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


if __name__ == "__main__":
    main()
