"""Count gradients of `relax` and of ASE's optimisers for large cells: MOF-5, rattled and strained.

    python benchmarks/relaxation.py --large                      106 and 848 atoms, 3 seeds
    python benchmarks/relaxation.py --large 3 --seeds 0          2 862 atoms, one start
    python benchmarks/relaxation.py --large 2 --methods relax
    python benchmarks/relaxation.py --large 3 --max-gradients 200    give up after 200 gradients

Atoms are displaced by random numbers of 0.1 Å in each direction. The cell is strained by a random
symmetric matrix with 2 % along the axis that changes most. Positions and cell are relaxed to
1e-3 eV/Å with the embedded model in float64. Products are also given in gradients, by the ratio of
their processor times in the same run. Every run has its own process.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
import warnings
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms
from ase.filters import FrechetCellFilter
from ase.optimize import LBFGS, BFGSLineSearch
from ase.optimize.precon import Exp, PreconLBFGS

import mace_functional as mf
from mace_functional.optimize.surface import Surface

FMAX = 1e-3
"""Largest force at which relaxations end, eV/Å."""

RATTLE, STRAIN = 0.1, 0.02
"""Displacement of atoms in each direction, Å; largest principal strain."""

MAX_GRADIENTS = 3000
"""Number of gradients after which a relaxation is given up, unless another number is asked for."""

DENSE_ONLY_BELOW = 300
"""Number of atoms above which BFGSLineSearch, which has a dense matrix, is left out."""

OPTIMISERS: dict[str, Callable[[Any], Any]] = {
    "LBFGS": lambda target: LBFGS(target, logfile=None),
    "BFGSLineSearch": lambda target: BFGSLineSearch(target, logfile=None),
    "PreconLBFGS": lambda target: PreconLBFGS(target, precon=Exp(), logfile=None),
}
"""ASE's optimisers by name, with their default settings."""

METHODS = ("relax", *OPTIMISERS)


class LargeRun(NamedTuple):
    """Result of a relaxation of a large cell.

    Attributes:
        atoms: Number of atoms.
        converged: True if it has reached the largest force.
        gradients: Number of gradients.
        products: Number of Hessian products.
        products_as_gradients: Processor time of products over that of a gradient.
        seconds: Processor time without loading of the model.
        gradient_seconds: Processor time of a gradient.
        energy: Final energy per cell of 106 atoms, eV.
        memory: Peak memory minus that of the loaded model, MiB.
    """

    atoms: int
    converged: bool
    gradients: int
    products: int
    products_as_gradients: float
    seconds: float
    gradient_seconds: float
    energy: float
    memory: float


def distorted(repeats: int, seed: int) -> Atoms:
    """Return MOF-5 as a supercell, rattled and strained."""
    atoms = mf.example_structure("MOF-5") * (repeats, repeats, repeats)
    random = np.random.default_rng(seed)
    strain = random.normal(size=(3, 3))
    strain = strain + strain.T
    strain *= STRAIN / np.abs(np.linalg.eigvalsh(strain)).max()
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    atoms.positions += random.normal(scale=RATTLE, size=(len(atoms), 3))
    return atoms


def print_table(
    repeats: Sequence[int],
    methods: Sequence[str],
    seeds: Sequence[int],
    threads: int,
    max_gradients: int,
) -> None:
    """Run all relaxations and print a row for each, and medians over the seeds."""
    print(
        "| atoms | seed | method | gradients | products | products, in gradients | s | s, gradient "
        "| MiB | energy of 106 atoms, eV |\n| ---: | ---: | --- " + "| ---: " * 7 + "|"
    )
    for n in repeats:
        totals: dict[str, list[float]] = {}
        for seed in seeds:
            for method in methods:
                if method == "BFGSLineSearch" and 106 * n**3 > DENSE_ONLY_BELOW:
                    continue
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    run = pool.apply(relaxed, (method, n, seed, threads, max_gradients))
                mark = "" if run.converged else "more than "
                print(
                    f"| {run.atoms} | {seed} | {method} | {mark}{run.gradients} | {run.products} "
                    f"| {run.products_as_gradients:.1f} | {run.seconds:.0f} "
                    f"| {run.gradient_seconds:.3f} | {run.memory:.0f} | {run.energy:.5f} |",
                    flush=True,
                )
                total = run.gradients + run.products_as_gradients
                totals.setdefault(method, []).append(total)
        print(f"\n{106 * n**3} atoms, gradients and products in gradients, medians:")
        for method, values in totals.items():
            print(f"- {method}: {median(values):.0f}")
        print(flush=True)


def relaxed(method: str, repeats: int, seed: int, threads: int, max_gradients: int) -> LargeRun:
    """Relax one start by one method."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    model, atoms = mf.load_model("embedded"), distorted(repeats, seed)
    before, start = _peak_memory(), time.process_time()
    run = _by_relax if method == "relax" else _by_ase
    final, counts = run(method, model, atoms, max_gradients)
    seconds = time.process_time() - start
    energy = final.get_potential_energy() / repeats**3
    return LargeRun(len(atoms), *counts[:4], seconds, counts[4], energy, _peak_memory() - before)


Counts = tuple[bool, int, int, float, float]
"""Converged, gradients, products, products in gradients, processor seconds of a gradient."""


def _by_relax(
    _: str, model: mf.MaceModel, atoms: Atoms, max_gradients: int
) -> tuple[Atoms, Counts]:
    gradients, products = _Timer(), _Timer()
    at, of_products = Surface.at, Surface.products
    Surface.at = gradients.timed(at)  # type: ignore[method-assign]
    Surface.products = (  # type: ignore[method-assign]
        lambda *arguments: products.timed(products.timed(of_products)(*arguments))
    )
    result = mf.relax(model, atoms, fmax=FMAX, max_steps=max_gradients)
    each = gradients.seconds / result.n_gradients
    counts = (
        result.converged,
        result.n_gradients,
        result.n_hvps,
        products.seconds / each,
        each,
    )
    return result.atoms, counts


def _by_ase(
    method: str, model: mf.MaceModel, atoms: Atoms, max_gradients: int
) -> tuple[Atoms, Counts]:
    gradients = _Timer()
    calculator = mf.MaceCalculator(model)
    calculator.calculate = gradients.timed(calculator.calculate)  # type: ignore[method-assign]
    atoms.calc = calculator
    optimiser = OPTIMISERS[method](FrechetCellFilter(atoms))
    converged = optimiser.run(fmax=FMAX, steps=max_gradients)
    return atoms, (converged, gradients.calls, 0, 0.0, gradients.seconds / gradients.calls)


class _Timer:
    """Counter of calls and of their processor time."""

    def __init__(self) -> None:
        self.calls, self.seconds = 0, 0.0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed."""

        def call(*arguments: Any, **options: Any) -> Any:
            start = time.process_time()
            result = function(*arguments, **options)
            self.seconds += time.process_time() - start
            self.calls += 1
            return result

        return call


def _peak_memory() -> float:
    """Return the peak memory of this process, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
