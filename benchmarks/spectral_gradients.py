"""Time and memory of gradients of spectra by all parameters of a model.

    python benchmarks/spectral_gradients.py                      relaxed quartz, embedded model
    python benchmarks/spectral_gradients.py --mesh 2 2 2
    python benchmarks/spectral_gradients.py --model FILE --structure FILE

Gradients of the free energy and of the heat capacity at 300 K on a mesh, with one of each pair q
and -q, and on a mesh that is reduced by the space group; of the free energy and of one frequency at
one wave vector; and beside them the same where torch records whole dynamical matrices. Every
gradient has its own process of one thread. Seconds are those of the processor; memory is the peak
of the process, and what it is above the loaded model after a gradient of forces.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from ase import Atoms
from ase.io import read, write
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.func import grad
from torch.utils._pytree import tree_map

import mace_functional as mf
from mace_functional.phonons.edge_matrix import EdgeMatrix
from mace_functional.vibrations.mode_functions import mode_functions

TEMPERATURE = 300.0
Q = (0.13, -0.29, 0.41)
"""The wave vector of the gradients at one wave vector."""
METHODS = {
    "free_energy": "free energy, mesh",
    "free_energy_recorded": "... the same mesh, D(q) recorded one by one",
    "heat_capacity": "heat capacity, mesh",
    "free_energy_reduced": "free energy, reduced mesh",
    "one_q": "free energy, one wave vector",
    "one_q_recorded": "... with D(q) recorded",
    "one_phonon": "one frequency",
    "one_phonon_recorded": "... with D(q) recorded",
    "forces": "sum of squared forces",
}


def function_of(method: str, model: Any, atoms: Atoms, mesh: mf.Mesh) -> Callable[[Any], Tensor]:
    """Return the function of the parameters whose gradient is taken."""
    s = mf.from_ase(atoms, model)
    if method == "forces":
        energy = mf.energy_fn(model, s.topology)
        return lambda params: grad(energy)(s.positions, s.cell, params).square().sum()
    if not method.startswith("one"):
        thermo = mf.mesh_thermo_fn(model, s.topology, mesh, TEMPERATURE)
        name = method.removesuffix("_reduced").removesuffix("_recorded")
        return lambda params: getattr(thermo(s.positions, s.cell, params, s.masses), name)
    matrix = mf.dynamical_matrix_fn(model, s.topology)

    def at_one_q(params: Any) -> Tensor:
        values = torch.linalg.eigvalsh(matrix(Q, s.positions, s.cell, params, s.masses))
        if method.startswith("one_phonon"):
            return values[-1].sqrt()
        return mode_functions(values, TEMPERATURE).free_energy.sum()

    return at_one_q


def gradient_of(method: str, model: Any, atoms: Atoms, mesh: mf.Mesh) -> Any:
    """Return the gradient by the parameters.

    Recorded matrices of a mesh do not fit into memory together: their gradients are summed.
    """
    if method != "free_energy_recorded":
        return grad(function_of(method, model, atoms, mesh))(model.params)
    total = tree_map(torch.zeros_like, model.params)
    for k, weight in enumerate(mesh.weights.tolist()):
        single = replace(mesh, q=mesh.q[k : k + 1], weights=torch.ones(1, dtype=torch.float64))
        part = grad(function_of(method, model, atoms, single))(model.params)
        total = tree_map(lambda t, g, w=weight: t + w * g, total, part)
    return total


def megabytes() -> float:
    """Return the peak memory of this process, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(method: str, model: str, structure: str, size: list[int], result: Path) -> None:
    """Take one gradient, print time and memory, and write the gradient to a file."""
    torch.set_num_threads(1)
    atoms, potential = read(structure), mf.load_model(model)
    assert isinstance(atoms, Atoms)
    mesh = mf.Mesh.of(atoms, size, symmetry=method.endswith("reduced"), symprec=1e-3)
    gradient_of("forces", potential, atoms, mesh)  # loads what torch needs
    recorded = patch.object(EdgeMatrix, "is_recorded", lambda self, args: True)
    before, started = megabytes(), time.process_time()
    with recorded if method.endswith("recorded") else nullcontext():
        gradient = gradient_of(method, potential, atoms, mesh)
    seconds = time.process_time() - started
    torch.save(gradient, result)
    print(json.dumps([seconds, megabytes(), megabytes() - before, len(mesh.q)]))


def difference(one: Path, other: Path, names: Sequence[str]) -> float:
    """Return the largest difference of two gradients by weights, relative to the largest entry."""
    a, b = (torch.load(path) for path in (one, other))
    scale = max(float(b[name].abs().max()) for name in names)
    return max(float((a[name] - b[name]).abs().max()) for name in names) / scale


def main() -> None:
    """Run every method in its own process, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--structure")
    parser.add_argument("--mesh", type=int, nargs=3, default=[4, 4, 4])
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.method:
        measure(given.method, given.model, given.structure, given.mesh, given.result)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        atoms = read(given.structure) if given.structure else mf.example_structure("quartz")
        model = mf.load_model(given.model)
        relaxed = mf.relax(model, atoms, symmetry=True)
        write(folder / "relaxed.xyz", relaxed.atoms)
        table = Table("gradient of", "wave vectors", "s", "peak, MiB", "above the model, MiB")
        for method, title in METHODS.items():
            command = [sys.executable, __file__, "--method", method, "--model", given.model]
            command += ["--structure", str(folder / "relaxed.xyz"), "--result"]
            command += [str(folder / f"{method}.pt"), "--mesh", *map(str, given.mesh)]
            done = subprocess.run(command, env=os.environ, capture_output=True, text=True)
            if done.returncode:
                table.add_row(title, "", "failed", "", "")
                print(done.stderr, file=sys.stderr)
                continue
            seconds, peak, above, count = json.loads(done.stdout.splitlines()[-1])
            n_q = str(count) if "mesh" in title else "1"
            table.add_row(title, n_q, f"{seconds:.2f}", f"{peak:.0f}", f"{above:.0f}")
        Console(width=120).print(table)
        for one, other in (
            ("free_energy", "free_energy_recorded"),
            ("one_q", "one_q_recorded"),
            ("one_phonon", "one_phonon_recorded"),
            ("free_energy_reduced", "free_energy"),
        ):
            paths = folder / f"{one}.pt", folder / f"{other}.pt"
            if all(path.exists() for path in paths):
                print(f"{one}: {difference(*paths, model.weights):.1e} from {other}")


if __name__ == "__main__":
    main()
