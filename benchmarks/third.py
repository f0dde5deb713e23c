"""Cost of third derivatives along two directions, in gradients and beside central differences.

    python benchmarks/third.py                 silicon, quartz and the framework RSM0010
    python benchmarks/third.py --repeats 3

`third(E)` is called for one pair (u, v), and with `vmap` for one u and many v. Central differences
of gradients take four for a pair; mace-torch's are four of its force calls. One thread; seconds are
those of the processor, medians of the repeats.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from ase import Atoms
from ase.build import bulk
from ase.io import read
from mace.calculators import MACECalculator
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.func import grad, vmap

import mace_functional as mf
from mace_functional.autodiff.memory import MemoryMeter

SHARED = Path(os.environ.get("MACE_FUNCTIONAL_SHARED", "../shared"))
WEIGHTS = SHARED / "weights" / "MACE-MP-0_small.model"
VECTORS = 16
"""Number of v that share one u."""


def structures() -> dict[str, Atoms]:
    """Return the structures, rattled by 0.03 Å."""
    found = {
        "silicon": bulk("Si", "diamond", a=5.43, cubic=True) * (2, 2, 2),
        "quartz": mf.example_structure("quartz") * (2, 2, 2),
        "RSM0010": read(SHARED / "heatcapacity" / "structures" / "RSM0010.cif"),
    }
    for atoms in found.values():
        atoms.rattle(0.03, seed=1)
    return found


def seconds(function: Callable[[], Any], repeats: int) -> float:
    """Return the median processor time of a call, after a first one."""
    function()
    times = []
    for _ in range(repeats):
        before = time.process_time()
        function()
        times.append(time.process_time() - before)
    return median(times)


def row(atoms: Atoms, model: mf.MaceModel, repeats: int) -> list[str]:
    """Time one structure."""
    s = model.structure(atoms)
    energy, x, rest = model.energy_fn(s.topology), s.positions, (s.cell, model.params)
    torch.manual_seed(0)
    u, *vs = torch.randn(1 + VECTORS, *x.shape, dtype=x.dtype)
    many, third, gradient = torch.stack(vs), mf.third(energy), grad(energy)

    def along_u(vectors: Tensor) -> Tensor:
        return vmap(third, (None, None, None, None, 0))(x, *rest, u, vectors)

    def differences(step: float) -> Tensor:
        product = mf.hvp(energy)
        ends = (product(x + sign * step * vs[0], *rest, u) for sign in (1, -1))
        forwards, backwards = ends
        return (forwards - backwards) / (2 * step)

    one = seconds(lambda: gradient(x, *rest), repeats)
    pair = seconds(lambda: third(x, *rest, u, vs[0]), repeats)
    batch = seconds(lambda: along_u(many), repeats) / VECTORS
    with MemoryMeter() as meter:
        found = along_u(many)
    near, far = (differences(step) for step in (1e-3, 2e-3))
    error = (found[0] - (4 * near - far) / 3).abs().max() / found[0].abs().max()
    theirs = MACECalculator(models=[model_of_mace_torch()], device="cpu", default_dtype="float64")
    calls = seconds(lambda: theirs.calculate(atoms), repeats)
    return [
        str(len(atoms)),
        f"{one:.3f}",
        f"{pair / one:.1f}",
        f"{batch / one:.2f}",
        f"{4 * calls / batch:.0f}",
        f"{meter.peak / 2**20:.0f}",
        f"{float(error):.0e}",
    ]


def model_of_mace_torch() -> torch.nn.Module:
    """Return the model of mace-torch."""
    module: torch.nn.Module = torch.load(WEIGHTS, map_location="cpu", weights_only=False)
    return module.double()


def main() -> None:
    """Time all structures, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=1)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    model = mf.load_model(WEIGHTS)
    table = Table("structure", "atoms", "gradient, s", "one pair / gradient")
    for title in (
        f"one of {VECTORS} / gradient",
        "four force calls of mace-torch / one of them",
        "MiB",
        "error",
    ):
        table.add_column(title)
    for name, atoms in structures().items():
        table.add_row(name, *row(atoms, model, repeats))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
