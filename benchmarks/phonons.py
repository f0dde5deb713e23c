"""Compare exact phonons with phonopy's finite displacements by mace-torch: times and errors.

    python benchmarks/phonons.py                  silicon and quartz, a framework, a supercell
    python benchmarks/phonons.py --part crystals
    python benchmarks/phonons.py --part constants   exact force constants and meshes from them
    python benchmarks/phonons.py --part mesh        RSM0010 on a mesh that stands for 7 700 atoms

Weights and structures are read from `../shared`, or from `$MACE_FUNCTIONAL_SHARED`. Every task runs
in its own process, so that peak memory is measured for each task.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF
from statistics import median
from typing import Any

import ase.io
import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

import mace_functional as mf
from mace_functional.mace.subnormal import flush_subnormal
from mace_functional.phonons import Mesh, band_structure, dynamical_matrix_fn, mesh_modes
from mace_functional.phonons.force_constants import operations_of
from mace_functional.phonons.mesh_sums import mesh_thermo
from mace_functional.structure.symmetry import plan
from mace_functional.support.defaults import SYMPREC

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("MACE_FUNCTIONAL_SHARED", ROOT.parent / "shared"))
WEIGHTS = SHARED / "weights" / "MACE-MP-0_small.model"
FRAMEWORK = SHARED / "heatcapacity" / "relaxed" / "RSM0011.xyz"
MESH, POINTS = (10, 10, 10), 200
CONSTANTS = {"silicon": (10, 10, 10), "quartz": (10, 10, 10), "RSM0010": (10, 7, 5)}
"""Crystals whose force constants are timed, with the size of a mesh."""

DISPLACEMENT = 0.01
"""Displacement of the finite differences, Å; phonopy's default."""

SUPERCELLS = {"silicon": (2, 3, 4, 5), "quartz": (1, 2, 3)}
"""Supercells for finite differences: the number of cells along each lattice vector."""


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--part", choices=("all", "crystals", "framework", "constants", "mesh"), default="all"
    )
    parser.add_argument("--model", default=str(WEIGHTS), help="%(default)s")
    options = parser.parse_args()
    if options.part in ("all", "crystals"):
        for name in SUPERCELLS:
            _crystal(name, options.model)
    if options.part in ("all", "framework"):
        _framework(options.model)
    if options.part in ("all", "constants"):
        _constants(options.model)
    if options.part in ("all", "mesh"):
        _large_mesh(options.model)


def _crystal(name: str, model: str) -> None:
    """Print a table for a mesh and a band path, by exact force constants and by supercells."""
    exact = _in_new_process(_exact, name, model)
    print(
        f"\n{name}: {exact['atoms']} atoms; mesh {MESH}, {exact['mesh_q']} inequivalent q; ", end=""
    )
    print(f"band path, {exact['band_q']} q; largest frequency {exact['largest']:.2f} THz\n")
    print("| | s | MiB | rms error, THz | largest, THz |\n| --- | ---: | ---: | ---: | ---: |")
    print(f"| exact: force constants | {exact['constants_s']:.1f} | {exact['MiB']:.0f} | | |")
    print(f"| ... then the mesh | {exact['mesh_s']:.2f} | | | |")
    print(f"| ... then the band path | {exact['bands_s']:.2f} | | | |")
    difference = exact["difference"]
    print(f"| exact: one D(q) by replicas | {exact['replicas_s']:.2f} | | | {difference:.0e} |")
    for repeats in SUPERCELLS[name]:
        result = _in_new_process(_differences, name, model, repeats, exact["q"])
        error = result["frequencies"] - exact["frequencies"]
        cells = f"{repeats}x{repeats}x{repeats}, {result['atoms']} atoms"
        print(
            f"| phonopy {cells}, {result['displacements']} displacements | "
            f"{result['s']:.1f} | {result['MiB']:.0f} | {np.sqrt((error**2).mean()):.4f} | "
            f"{abs(error).max():.3f} |",
            flush=True,
        )


def _framework(model: str) -> None:
    """Print the cost of one D(q), and a comparison of a mesh with the equivalent supercell."""
    cost = _in_new_process(_cost, model)
    print(f"\nRSM0011, {cost['atoms']} atoms, one matrix\n\n| | s | over the Hessian |")
    print("| --- | ---: | ---: |")
    for name, seconds in cost["s"].items():
        print(f"| {name} | {seconds:.2f} | {seconds / cost['s']['Hessian at Gamma']:.2f} |")
    mesh, cell = _in_new_process(_mesh, model), _in_new_process(_supercell, model)
    difference = mesh["cv"] - cell["cv"]
    print("\n| heat capacity at 300 K | J/(g K) | s | MiB |\n| --- | ---: | ---: | ---: |")
    print(f"| 2x2x2 mesh, {mesh['q']} q | {mesh['cv']:.6f} | {mesh['s']:.1f} | {mesh['MiB']:.0f} |")
    print(f"| 2x2x2 supercell | {cell['cv']:.6f} | {cell['s']:.1f} | {cell['MiB']:.0f} |")
    print(f"| Gamma | {mesh['gamma']:.6f} | | |\n\ndifference {difference:.1e} J/(g K)")


def _constants(model: str) -> None:
    """Print processor time and memory of exact force constants, and of a mesh from them."""
    print("\n| | rows | s | MiB | mesh | q | s | one D(q), s | difference, eV/Å²/amu |")
    print("| --- |" + " ---: |" * 8)
    for name, mesh in CONSTANTS.items():
        print("| " + " | ".join(_in_new_process(_cost_of_constants, name, mesh, model)) + " |")


def _cost_of_constants(name: str, mesh: tuple[int, int, int], source: str) -> list[str]:
    torch.set_num_threads(1)
    model = mf.load_model(source)
    if name == "silicon":
        atoms = bulk("Si", "diamond", a=5.43)
    elif name == "quartz":
        atoms = mf.example_structure(name)
    else:
        atoms = ase.io.read(FRAMEWORK.with_stem(name))
    s = mf.from_ase(atoms, model)
    mf.energy_fn(model, s.graph)(s.positions, s.cell, model.params)
    before, start = _peak_memory(), time.process_time()
    phonons = mf.phonons_of(model, atoms, method="force-constants")
    constants_s, memory = time.process_time() - start, _peak_memory() - before
    start = time.process_time()
    points = Mesh.of(atoms, mesh)
    mesh_modes(phonons, points)
    mesh_s = time.process_time() - start
    matrix, q = dynamical_matrix_fn(model, s.graph), torch.tensor([0.13, -0.29, 0.41]).double()
    args = q, s.positions, s.cell, model.params, s.masses
    matrix(*args)
    start = time.process_time()
    expected = matrix(*args)
    matrix_s = time.process_time() - start
    difference = float((expected - phonons.dynamical_matrix(q)).abs().max())
    rows = len(plan(operations_of(model, atoms, SYMPREC)).sources)
    size = " x ".join(map(str, mesh))
    cost = f"{constants_s:.1f}", f"{memory:.0f}", size, f"{len(points.q)}", f"{mesh_s:.1f}"
    return [name, f"{rows}", *cost, f"{matrix_s:.2f}", f"{difference:.0e}"]


def _large_mesh(model: str) -> None:
    """Compare meshes of RSM0010 by force constants, alone and by two workers, and by D(q)."""
    ways = {
        "force constants": ("force-constants", 0),
        "force constants, two workers": ("force-constants", 2),
        "one D(q) after the other": ("replicas", 0),
    }
    found = {name: _in_new_process(_mesh_of_framework, model, *way) for name, way in ways.items()}
    cv, frequencies = (found["force constants"][key] for key in ("cv", "frequencies"))
    print(f"\nRSM0010 on {CONSTANTS['RSM0010']}, {len(frequencies)} q\n")
    columns = "s", "s of processors", "MiB", "Cv, J/(g K)", "difference", "of a frequency, cm-1"
    print(f"| | {' | '.join(columns)} |\n| --- |" + " ---: |" * len(columns))
    for name, way in found.items():
        cost = f"{way['s']:.1f} | {way['processor_s']:.1f} | {way['MiB']:.0f}"
        differences = abs(way["cv"] - cv), abs(way["frequencies"] - frequencies).max()
        print(
            f"| {name} | {cost} | {way['cv']:.12f} | {differences[0]:.0e} | {differences[1]:.0e} |"
        )


def _mesh_of_framework(source: str, method: str, workers: int) -> dict[str, Any]:
    """Compute the heat capacity of RSM0010 on its mesh, from the weights and the file on."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    model, atoms = mf.load_model(source), ase.io.read(FRAMEWORK.with_stem("RSM0010"))
    with mf.WorkerProcesses(workers, threads=1) if workers else nullcontext() as executor:
        phonons = mf.phonons_of(model, atoms, method=method, executor=executor)
    modes = mesh_modes(phonons, Mesh.of(atoms, CONSTANTS["RSM0010"]))
    thermo = mesh_thermo(modes, 300.0)
    seconds = time.perf_counter() - start
    own, others = (resource.getrusage(who) for who in (RUSAGE_SELF, RUSAGE_CHILDREN))
    return {
        "cv": float(thermo.specific_heat_capacity),
        "frequencies": modes.frequencies_in("cm-1").numpy(),
        "s": seconds,
        "processor_s": sum(u.ru_utime + u.ru_stime for u in (own, others)),
        "MiB": (own.ru_maxrss + workers * others.ru_maxrss) / 1024,
    }


def _structure(name: str, source: str) -> Atoms:
    """Return the relaxed crystal."""
    atoms = bulk("Si", "diamond", a=5.43) if name == "silicon" else mf.example_structure(name)
    atoms.calc = mf.MaceCalculator(mf.load_model(source))
    BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-4, steps=500)
    atoms.calc = None
    return atoms


def _exact(name: str, source: str) -> dict[str, Any]:
    model, atoms = mf.load_model(source), _structure(name, source)
    before, start = _peak_memory(), time.perf_counter()
    phonons = mf.phonons_of(model, atoms, method="force-constants")
    constants_s, memory = time.perf_counter() - start, _peak_memory() - before
    mesh = Mesh.of(atoms, MESH)
    modes, mesh_s = _timed(lambda: mesh_modes(phonons, mesh))
    bands, bands_s = _timed(lambda: band_structure(phonons, points=POINTS))
    s = mf.from_ase(atoms, model)
    replicas = dynamical_matrix_fn(model, s.graph)
    q = torch.tensor([0.13, -0.29, 0.41], dtype=model.dtype)
    matrix, replicas_s = _timed(lambda: replicas(q, s.positions, s.cell, model.params, s.masses))
    return {
        "atoms": len(atoms),
        "constants_s": constants_s,
        "MiB": memory,
        "mesh_s": mesh_s,
        "mesh_q": len(mesh.q),
        "bands_s": bands_s,
        "band_q": len(bands.q),
        "replicas_s": replicas_s,
        "difference": float((matrix - phonons.dynamical_matrix(q)).abs().max()),
        "q": mesh.q.numpy(),
        "frequencies": modes.frequencies_in("THz").numpy(),
        "largest": float(modes.frequencies_in("THz").max()),
    }


def _differences(name: str, source: str, repeats: int, q: np.ndarray) -> dict[str, Any]:
    """Compute frequencies with phonopy and forces of mace-torch's calculator."""
    from mace.calculators import MACECalculator
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    atoms = _structure(name, source)
    calculator = MACECalculator(model_paths=source, device="cpu", default_dtype="float64")
    for module in calculator.models:  # as in load_model, so that both use the same weights
        flush_subnormal(module)
    before, start = _peak_memory(), time.perf_counter()
    phonopy = Phonopy(
        PhonopyAtoms(
            symbols=atoms.get_chemical_symbols(),
            cell=atoms.cell.array,
            scaled_positions=atoms.get_scaled_positions(),
        ),
        supercell_matrix=np.diag(3 * [repeats]),
        primitive_matrix=np.eye(3),
    )
    phonopy.generate_displacements(distance=DISPLACEMENT)
    forces = []
    for cell in phonopy.supercells_with_displacements:
        displaced = Atoms(cell.numbers, cell.positions, cell=cell.cell, pbc=True)
        forces.append(calculator.get_forces(displaced))
    phonopy.forces = np.array(forces)
    phonopy.produce_force_constants(show_drift=False)
    phonopy.run_qpoints(q)
    frequencies = phonopy.get_qpoints_dict()["frequencies"]
    return {
        "s": time.perf_counter() - start,
        "MiB": _peak_memory() - before,
        "displacements": len(forces),
        "atoms": len(forces[0]),
        "frequencies": np.array(frequencies),
    }


def _cost(source: str) -> dict[str, Any]:
    model, atoms = mf.load_model(source), ase.io.read(FRAMEWORK)
    s = mf.from_ase(atoms, model)
    args = (s.positions, s.cell, model.params)
    hessian = mf.hessian(mf.energy_fn(model, s.graph))
    matrix = dynamical_matrix_fn(model, s.graph)

    def at(*q: float) -> Callable[[], object]:
        return lambda: matrix(torch.tensor(q, dtype=model.dtype), *args, s.masses)

    tasks = {
        "Hessian at Gamma": lambda: hessian(*args),
        "D(q), general q": at(0.13, -0.29, 0.41),
        "D(q), real phases": at(0.5, 0.5, 0.0),
        "D(0)": at(0.0, 0.0, 0.0),
    }
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(4):  # tasks alternate, so that noise affects all of them
        for name, task in tasks.items():
            seconds[name].append(_timed(task)[1])
    return {"atoms": len(atoms), "s": {k: median(v[1:]) for k, v in seconds.items()}}


def _mesh(source: str) -> dict[str, Any]:
    model, atoms = mf.load_model(source), ase.io.read(FRAMEWORK)
    before, start = _peak_memory(), time.perf_counter()
    phonons = mf.phonons_of(model, atoms, method="replicas")
    mesh = Mesh.of(atoms, (2, 2, 2))
    thermo = mesh_thermo(mesh_modes(phonons, mesh), 300.0)
    seconds, memory = time.perf_counter() - start, _peak_memory() - before
    gamma = mesh_thermo(mesh_modes(phonons, Mesh.of(atoms, (1, 1, 1))), 300.0)
    return {
        "cv": float(thermo.specific_heat_capacity),
        "gamma": float(gamma.specific_heat_capacity),
        "q": len(mesh.q),
        "s": seconds,
        "MiB": memory,
    }


def _supercell(source: str) -> dict[str, Any]:
    model, atoms = mf.load_model(source), ase.io.read(FRAMEWORK)
    before, start = _peak_memory(), time.perf_counter()
    supercell = make_supercell(atoms, np.diag([2, 2, 2]))
    thermo = mf.harmonic_thermo(mf.gamma_modes(model, supercell), 300.0)
    cv = thermo.specific_heat_capacity(supercell.get_masses().tolist())
    return {"cv": float(cv), "s": time.perf_counter() - start, "MiB": _peak_memory() - before}


def _timed(task: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return task(), time.perf_counter() - start


def _peak_memory() -> float:
    """Return the peak memory of this process, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _in_new_process(task: Callable[..., Any], *args: Any) -> Any:
    """Run a task in a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(task, *args).result()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    main()
