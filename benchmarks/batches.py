"""Compare derivatives of a batch of structures by one `vmap` with those by a loop.

    python benchmarks/batches.py                     small molecules and quartz, the embedded model
    python benchmarks/batches.py --model MODEL       another model

Times are processor times of all structures together, the shortest of several calls. The structures
of a batch are displaced differently. A mixture holds molecules of different sizes and elements,
padded to one shape.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
from ase.spacegroup import crystal
from torch import Tensor
from torch.func import vmap

import mace_functional as mf

MIXTURE = ("H2O", "CO2", "NH3", "CH4", "CH3OH", "C2H6", "CH3CH2OH", "C6H6")
"""Molecules of 3 to 12 atoms."""
QUANTITIES = ("gradient", "hvp", "hessian")


def dimer() -> Atoms:
    """Make a complex of benzene and ethane, 20 atoms."""
    ethane = molecule("C2H6")
    ethane.translate([0, 0, 4.5])
    return molecule("C6H6") + ethane


def quartz() -> Atoms:
    """Make a primitive cell of alpha quartz, 9 atoms."""
    basis = [(0.4697, 0, 0), (0.4133, 0.2672, 0.1188)]
    cell = [4.9134, 4.9134, 5.4052, 90, 90, 120]
    return crystal(("Si", "O"), basis, spacegroup=152, cellpar=cell, onduplicates="error")


def cases() -> dict[str, list[Atoms]]:
    """Return the structures of each batch."""
    return {
        "water, 3 atoms": repeated([molecule("H2O")], 4),
        "water, 3 atoms, more": repeated([molecule("H2O")], 32),
        "methanol, 6 atoms": repeated([molecule("CH3OH")], 8),
        "benzene, 12 atoms": repeated([molecule("C6H6")], 8),
        "benzene and ethane, 20 atoms": repeated([dimer()], 8),
        "mixture, 3 to 12 atoms": repeated([molecule(name) for name in MIXTURE], 16),
        "quartz, 9 atoms": repeated([quartz()], 4),
    }


def repeated(structures: Sequence[Atoms], count: int) -> list[Atoms]:
    """Repeat structures up to a number, each displaced at random."""
    copies = [atoms.copy() for atoms in islice(cycle(structures), count)]
    for seed, atoms in enumerate(copies):
        atoms.rattle(0.03, seed=seed)
    return copies


def quantity(name: str, model: Any) -> Callable[..., Tensor]:
    """Return a derivative as a function of graph, positions and cell."""

    def function(graph: Any, x: Tensor, cell: Tensor) -> Tensor:
        energy, args = mf.energy_fn(model, graph), (x, cell, model.params)
        if name == "gradient":
            return torch.func.grad(energy)(*args)
        if name == "hvp":
            return mf.hvp(energy)(*args, torch.sin(x + 1))
        return mf.hessian(energy)(*args)

    return function


def shortest(calls: Sequence[Callable[[], Any]], repeats: int) -> list[float]:
    """Return the shortest processor times of calls, s; they alternate."""
    times = np.full((repeats + 1, len(calls)), np.inf)
    for round_times in times:
        for k, call in enumerate(calls):
            started = time.process_time()
            call()
            round_times[k] = time.process_time() - started
    return times[1:].min(0).tolist()


def row(name: str, structures: Sequence[Atoms], model: Any, repeats: int) -> list[str]:
    """Measure all quantities of one batch."""
    several = [mf.from_ase(atoms, model) for atoms in structures]
    batch = mf.batch(several)
    out = [name, f"{len(several)}"]
    for key in QUANTITIES:
        function = quantity(key, model)
        mapped, loop = shortest(
            [
                lambda f=function: vmap(f)(batch.graph, batch.positions, batch.cell),
                lambda f=function: [f(s.graph, s.positions, s.cell) for s in several],
            ],
            repeats,
        )
        out += [f"{1e3 * loop:.3g}", f"{1e3 * mapped:.3g}", f"{loop / mapped:.2f}"]
    return out


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--model", default="embedded", help="a name or a file for load_model (%(default)s)")
    add("--repeats", type=int, default=5, help="timed calls of each function (%(default)s)")
    options = parser.parse_args()
    model = mf.load_model(options.model)
    columns = [f"{key}: {part}" for key in QUANTITIES for part in ("loop, ms", "vmap, ms", "ratio")]
    header = ["batch", "structures", *columns]
    print(f"| {' | '.join(header)} |")
    print(f"| --- | {' | '.join(['---:'] * (len(header) - 1))} |")
    for name, structures in cases().items():
        print(f"| {' | '.join(row(name, structures, model, options.repeats))} |", flush=True)


if __name__ == "__main__":
    main()
