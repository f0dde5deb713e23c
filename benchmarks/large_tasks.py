"""Time and memory of what can be asked of a large cell: MOF-5 with the embedded model.

    python benchmarks/large_tasks.py                       848 atoms
    python benchmarks/large_tasks.py --repeats 3 --tasks stability density

Every calculation runs in its own process, on one thread. Time is that of the processor, without
relaxation of the primitive cell, memory the peak of the process.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from ase import Atoms
from large import in_new_process, peak_memory, relaxed_cell

import mace_functional as mf


def mesh(model: mf.MaceModel, cell: Atoms, repeats: int) -> mf.phonons.MeshModes:
    """Return all modes of a supercell, by force constants of the primitive cell."""
    phonons = mf.phonons_of(model, cell, method="force-constants")
    return mf.mesh_modes(phonons, mf.Mesh.of(cell, (repeats, repeats, repeats)), eigenvectors=False)


TASKS: dict[str, tuple[str, Callable[[mf.MaceModel, Atoms, int], object]]] = {
    "gradient": (
        "energy and forces",
        lambda model, cell, n: mf.MaceCalculator(model).get_forces(cell.repeat(n)).shape,
    ),
    "density": (
        "density of states, resolution 20 cm-1, 2 passes",
        lambda model, cell, n: mf.stochastic_dos(model, cell.repeat(n), resolution=20, n_passes=2),
    ),
    "stability": (
        "lowest mode",
        lambda model, cell, n: mf.check_stability(model, cell.repeat(n)),
    ),
    "sparse": ("sparse Hessian", lambda model, cell, n: mf.sparse_hessian(model, cell.repeat(n))),
    "truncated": (
        "sparse Hessian, two hops",
        lambda model, cell, n: mf.sparse_hessian(model, cell.repeat(n), hops=2),
    ),
    "mesh": ("force constants and mesh", mesh),
}
"""Tasks by name: what is computed, and how from model, primitive cell and repeats."""


def measured(task: str, repeats: int) -> str:
    """Return a row of the table."""
    model = mf.load_model("embedded")
    cell = relaxed_cell("MOF-5", model)
    title, compute = TASKS[task]
    started = time.process_time()
    result = compute(model, cell, repeats)
    seconds = time.process_time() - started
    atoms = len(cell) * repeats**3
    return f"| {atoms} | {title} | {seconds:.1f} | {peak_memory():.2f} | {result} |"


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=2, help="cells along each lattice vector")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    options = parser.parse_args()
    print("| atoms | | s | GiB | result |\n| ---: | --- | ---: | ---: | --- |", flush=True)
    for task in options.tasks:
        print(in_new_process(measured, task, options.repeats), flush=True)


if __name__ == "__main__":
    main()
