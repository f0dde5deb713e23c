"""Heat capacities of large cells from Hessian-vector products, against the exact value of a mesh.

    python benchmarks/large.py                       MOF-5 as 106, 848 and 2 862 atoms
    python benchmarks/large.py --repeats 3 --seeds 0 1 2 --rel-error 1e-3 --entropy-error 1e-2

The Gamma point of n x n x n cells is the n x n x n mesh of the primitive cell, which has the exact
values. Each size runs in its own process; time is that of the processor, on one thread.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
import warnings
from typing import NamedTuple

import torch
from ase import Atoms
from rich.console import Console
from rich.table import Table

import mace_functional as mf

NAMES = "heat_capacity", "entropy", "free_energy"
"""Quantities that are compared with their exact values."""


class Run(NamedTuple):
    """One calculation: cost, and deviations from the exact values in standard errors."""

    atoms: int
    products: int
    seconds: float
    gib: float
    errors: list[float]
    deviations: list[float]


def calculation(
    cell: Atoms, model: str, n: int, temperature: float, options: dict[str, float | None], seed: int
) -> Run:
    """Run one calculation, in a process of its own."""
    torch.set_num_threads(1)
    potential = mf.load_model(model)
    mesh = mf.mesh_modes(
        mf.phonons_of(potential, cell), mf.Mesh.of(cell, (n, n, n)), eigenvectors=False
    )
    exact = mf.mesh_thermo(mesh, temperature).thermo
    before = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = mf.stochastic_thermo(potential, cell.repeat(n), temperature, seed=seed, **options)
    seconds = time.process_time() - before
    values = [n**3 * float(getattr(exact, name)) for name in NAMES]
    errors = [float(getattr(found, f"{name}_error")) for name in NAMES]
    return Run(
        atoms=len(cell) * n**3,
        products=found.n_products,
        seconds=seconds,
        gib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        errors=[100 * e / abs(v) for e, v in zip(errors, values, strict=True)],
        deviations=[
            (float(getattr(found, name)) - value) / error if error else 0.0
            for name, value, error in zip(NAMES, values, errors, strict=True)
        ],
    )


def main() -> None:
    """Run all sizes and seeds, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--structure", default="MOF-5")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--repeats", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--temperature", type=float, default=300.0)
    parser.add_argument("--rel-error", type=float, default=1.5e-3)
    parser.add_argument("--entropy-error", type=float)
    arguments = parser.parse_args()
    options = {"rel_error": arguments.rel_error, "entropy_error": arguments.entropy_error}
    cell = mf.example_structure(arguments.structure)
    cell = mf.relax(mf.load_model(arguments.model), cell, fmax=1e-3).atoms
    cell = Atoms(cell.numbers, cell.positions, cell=cell.cell, pbc=cell.pbc)
    table = Table("atoms", "seed", "products", "s", "GiB", "errors of Cv, S, F, %", "deviations")
    for n in arguments.repeats:
        for seed in arguments.seeds:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                job = (cell, arguments.model, n, arguments.temperature, options, seed)
                run = pool.apply(calculation, job)
            table.add_row(
                f"{run.atoms}",
                f"{seed}",
                f"{run.products}",
                f"{run.seconds:.0f}",
                f"{run.gib:.2f}",
                ", ".join(f"{e:.2f}" for e in run.errors),
                ", ".join(f"{d:+.1f}" for d in run.deviations),
            )
    Console().print(table)


if __name__ == "__main__":
    main()
