"""Thermal conductivities from exact third derivatives, beside differences of mace-torch's forces.

    python benchmarks/conductivity.py                           all parts
    python benchmarks/conductivity.py --part published --materials NaCl MgO GaN-186
    python benchmarks/conductivity.py --part published --without-differences
    python benchmarks/conductivity.py --part steps              differences with several steps
    python benchmarks/conductivity.py --part quartz             nine atoms, two workers, one kill
    python benchmarks/conductivity.py --part modes              RSM0010, third derivatives of modes

Crystals are built by ASE, relaxed with their symmetry, and computed with MACE-MP-0 small, float64.
Third-order force constants come from supercells of 64 or 72 atoms, second-order ones from larger
ones. The conductivity at 300 K is phono3py's by relaxation times, with isotopes and Wigner's
coherences as in the published values, and without charges. Published values are those of
`../shared/conductivity/kappa103.csv`. Seconds are those of the processor, one thread; every
calculation has its own process.
"""

from __future__ import annotations

import argparse
import csv
import math
import multiprocessing
import os
import resource
import signal
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import ase.io
import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.data import atomic_numbers, covalent_radii
from ase.formula import Formula
from mace.calculators import MACECalculator
from torch.func import grad, vmap

import mace_functional as mf
from mace_functional.anharmonic import conductivity_of, from_phono3py
from mace_functional.anharmonic.phono3py import phono3py_of

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("MACE_FUNCTIONAL_SHARED", ROOT.parent / "shared"))
WEIGHTS = SHARED / "weights" / "MACE-MP-0_small.model"
PUBLISHED = SHARED / "conductivity" / "kappa103.csv"

MATERIALS = (
    *("NaCl-225", "MgO-225", "LiF-225", "KCl-225", "CaO-225", "NaF-225", "PbTe-225", "CaS-225"),
    *("GaAs-216", "ZnS-216", "SiC-216", "AlAs-216", "BP-216"),
    *("GaN-186", "ZnO-186"),
)
"""Compounds with the numbers of their space groups: rock salt, zincblende and wurtzite."""

STEP = 0.03
"""Displacement of finite differences, Å; phono3py's default."""

STEPS = (0.03, 0.01)
"""Displacements that part "steps" compares, Å."""

TIGHT = 1e-5
"""Tolerance of the symmetry for differences, Å; phono3py mistakes displacements below it."""

TEMPERATURE = 300.0


class Setting(NamedTuple):
    """Supercells and mesh of a structure type.

    Attributes:
        supercell: Supercell of the third order.
        phonon_supercell: Supercell of the second order.
        mesh: Mesh of wave vectors.
    """

    supercell: tuple[int, int, int]
    phonon_supercell: tuple[int, int, int]
    mesh: tuple[int, int, int]


CUBIC = Setting((2, 2, 2), (3, 3, 3), (11, 11, 11))
HEXAGONAL = Setting((3, 3, 2), (5, 5, 3), (11, 11, 7))


class Result(NamedTuple):
    """Conductivity by one method.

    Attributes:
        kappa: Conductivity, mean of the three directions, W/(m K).
        evaluations: Third derivatives along pairs, or supercells with displaced atoms.
        seconds: Processor time of the force constants, without loading of the model.
        memory: Peak memory over that of the loaded model, MiB.
        solver_seconds: Processor time of the conductivity from force constants.
    """

    kappa: float
    evaluations: int
    seconds: float
    memory: float
    solver_seconds: float


def built(formula: str, group: int) -> Atoms:
    """Return a conventional cell, or the primitive one of wurtzite, from covalent radii."""
    elements = list(Formula(formula).count())
    distance = sum(covalent_radii[atomic_numbers[e]] for e in elements)
    if group == 225:
        return bulk(formula, "rocksalt", a=2 * distance, cubic=True)
    if group == 216:
        return bulk(formula, "zincblende", a=4 * distance / math.sqrt(3), cubic=True)
    return bulk(formula, "wurtzite", a=math.sqrt(8 / 3) * distance, c=8 / 3 * distance)


def relaxed(model: mf.MaceModel, atoms: Atoms) -> Atoms:
    """Relax positions and cell with the symmetry kept."""
    found = mf.relax(model, atoms, symmetry=True, fmax=1e-6)
    if not found.converged:
        raise RuntimeError(f"{atoms} is not relaxed: {found}")
    atoms = found.atoms
    atoms.calc = None
    return atoms


def conductivity(
    constants: mf.ThirdOrderForceConstants, mesh: tuple[int, int, int]
) -> tuple[float, float]:
    """Return the mean conductivity in W/(m K), and processor time."""
    start = time.process_time()
    found = conductivity_of(constants, TEMPERATURE, mesh=mesh, wigner=True, isotopes=True)
    return float(np.trace(found.kappa[0])) / 3, time.process_time() - start


def exact(atoms: Atoms, setting: Setting) -> Result:
    """Compute the conductivity from exact derivatives."""
    model = _model()
    before, start = _peak_memory(), time.process_time()
    constants = mf.third_order_force_constants(
        model, atoms, setting.supercell, phonon_supercell=setting.phonon_supercell
    )
    seconds, memory = time.process_time() - start, _peak_memory() - before
    kappa, solver = conductivity(constants, setting.mesh)
    return Result(kappa, constants.n_pairs, seconds, memory, solver)


def by_differences(atoms: Atoms, setting: Setting, step: float = STEP) -> Result:
    """Compute the conductivity from phono3py's finite displacements and mace-torch's forces."""
    calculator = MACECalculator(model_paths=str(WEIGHTS), device="cpu", default_dtype="float64")
    before, start = _peak_memory(), time.process_time()
    phono3py = phono3py_of(
        atoms,
        setting.supercell,
        phonon_supercell=setting.phonon_supercell,
        symmetry=True,
        symprec=TIGHT,
    )
    phono3py.generate_displacements(distance=step)

    def forces(cells: list[Any]) -> np.ndarray:
        displaced = (Atoms(c.numbers, c.positions, cell=c.cell, pbc=True) for c in cells)
        return np.array([calculator.get_forces(structure) for structure in displaced])

    third, second = (
        phono3py.supercells_with_displacements,
        phono3py.phonon_supercells_with_displacements,
    )
    phono3py.forces, phono3py.phonon_forces = forces(third), forces(second)
    phono3py.produce_fc3()
    phono3py.symmetrize_fc3()
    phono3py.produce_fc2()
    phono3py.symmetrize_fc2()
    seconds, memory = time.process_time() - start, _peak_memory() - before
    kappa, solver = conductivity(from_phono3py(phono3py), setting.mesh)
    return Result(kappa, len(third) + len(second), seconds, memory, solver)


def print_published(materials: list[str], differences: bool) -> None:
    """Print a row for each compound, and the mean errors of all models."""
    rows = {f"{r['formula']}-{r['space_group']}": r for r in csv.DictReader(PUBLISHED.open())}
    keys = next(iter(rows.values()))
    names = [key.removeprefix("kappa_") for key in keys if key.startswith("kappa_")]
    names.remove("dft_W_mK")
    columns = ["DFT", "MACE-MP-0 small", "error, %", *(f"{name}, %" for name in names)]
    columns += ["pairs", "s", "MiB", "solver, s"]
    columns += ["by differences", "difference, %", "supercells", "s", "times", "MiB"]
    print(f"\n| | {' | '.join(columns)} |\n| --- |" + " ---: |" * len(columns))
    errors: dict[str, list[float]] = {}
    for name in materials:
        row = rows[name]
        formula, group = row["formula"], int(row["space_group"])
        setting = HEXAGONAL if group == 186 else CUBIC
        atoms = _in_new_process(_relaxed, formula, group)
        ours = _in_new_process(exact, atoms, setting)
        dft = float(row["kappa_dft_W_mK"])
        theirs = {"MACE-MP-0 small": ours.kappa}
        theirs |= {n: float(row[f"kappa_{n}"] or "nan") for n in names}
        relative = {n: 100 * (kappa / dft - 1) for n, kappa in theirs.items()}
        for n, kappa in theirs.items():
            errors.setdefault(n, []).append(2 * abs(kappa - dft) / (kappa + dft))
        cells = [f"{dft:.2f}", f"{ours.kappa:.2f}", *(f"{e:+.0f}" for e in relative.values())]
        cells += [f"{ours.evaluations}", f"{ours.seconds:.0f}", f"{ours.memory:.0f}"]
        cells += [f"{ours.solver_seconds:.0f}"]
        if differences:
            other = _in_new_process(by_differences, atoms, setting)
            cells += [f"{other.kappa:.2f}", f"{100 * (other.kappa / ours.kappa - 1):+.2f}"]
            cells += [f"{other.evaluations}", f"{other.seconds:.0f}"]
            cells += [f"{other.seconds / ours.seconds:.1f}", f"{other.memory:.0f}"]
        else:
            cells += [""] * 6
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print("\nmean of 2 |k - k_DFT| / (k + k_DFT):")
    for n, values in errors.items():
        print(f"- {n}: {np.nanmean(values):.2f}")


def print_steps() -> None:
    """Print conductivities by differences with several steps, beside the exact one."""
    columns = ["exact, W/(m K)", "pairs", "s", "MiB"]
    for step in STEPS:
        columns += [f"{step} Å, %", "supercells", "s", "times", "MiB"]
    print(f"\n| | {' | '.join(columns)} |\n| --- |" + " ---: |" * len(columns))
    for formula, group in (("Si", 227), ("NaCl", 225), ("MgO", 225)):
        atoms = _in_new_process(_relaxed, formula, group)
        ours = _in_new_process(exact, atoms, CUBIC)
        cells = [f"{ours.kappa:.3f}", f"{ours.evaluations}", f"{ours.seconds:.0f}"]
        cells += [f"{ours.memory:.0f}"]
        for step in STEPS:
            other = _in_new_process(by_differences, atoms, CUBIC, step)
            cells += [f"{100 * (other.kappa / ours.kappa - 1):+.2f}", f"{other.evaluations}"]
            cells += [f"{other.seconds:.0f}", f"{other.seconds / ours.seconds:.1f}"]
            cells += [f"{other.memory:.0f}"]
        print(f"| {formula} | {' | '.join(cells)} |", flush=True)


def print_quartz() -> None:
    """Compute quartz by two workers, kill it once something is saved, and continue."""
    atoms = _in_new_process(_relaxed, "quartz", 0)
    with tempfile.TemporaryDirectory() as folder:
        path, start = Path(folder) / "pairs.npz", time.perf_counter()
        process = multiprocessing.get_context("spawn").Process(target=_quartz, args=(atoms, path))
        process.start()
        while process.is_alive() and not path.exists():
            time.sleep(1)
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        print(f"\nquartz: killed after {time.perf_counter() - start:.0f} s, when ", end="")
        print(f"{path.stat().st_size / 2**20:.1f} MiB were saved", flush=True)
        result = _in_new_process(_quartz, atoms, path)
        seconds = time.perf_counter() - start
    print(
        f"{result['pairs']} pairs; in all {seconds:.0f} s with two workers; conductivity at "
        f"{TEMPERATURE:g} K along x {result['x']:.3f} and z {result['z']:.3f} W/(m K); relative "
        f"error of the third order {result['error']:.0e}"
    )


def _quartz(atoms: Atoms, path: Path) -> dict[str, float]:
    model = _model()
    with mf.WorkerProcesses(2, threads=1) as executor:
        constants = mf.third_order_force_constants(
            model,
            atoms,
            (2, 2, 2),
            phonon_supercell=(3, 3, 3),
            checkpoint=path,
            executor=executor,
        )
    kappa = conductivity_of(constants, TEMPERATURE, mesh=(7, 7, 7)).kappa[0]
    return {
        "pairs": constants.n_pairs,
        "error": constants.error,
        "x": float(kappa[0, 0]),
        "z": float(kappa[2, 2]),
    }


def print_modes() -> None:
    """Compare third derivatives of RSM0010 along ten pairs of modes with differences."""
    result = _in_new_process(_modes)
    print(
        f"\nRSM0010, {result['atoms']} atoms, ten pairs of modes: largest difference from central "
        f"differences of exact products, relative, {result['error']:.0e}; a pair takes "
        f"{result['one']:.1f} gradients, and {result['many']:.1f} if ten v share one u"
    )


def _modes() -> dict[str, float]:
    model = _model()
    atoms = ase.io.read(SHARED / "heatcapacity" / "relaxed" / "RSM0010.xyz")
    s = mf.from_ase(atoms, model)
    energy, x, rest = mf.energy_fn(model, s.graph), s.positions, (s.cell, model.params)
    modes = mf.gamma_modes(model, atoms)
    vectors = modes.displacements
    chosen = torch.linspace(0, len(vectors) - 1, 20).long()
    pairs = list(zip(vectors[chosen[:10]], vectors[chosen[10:].flip(0)], strict=True))
    third, product = mf.third(energy), mf.hvp(energy)
    error = 0.0
    for u, v in pairs:
        found = third(x, *rest, u, v)

        def difference(step: float, u: Any = u, v: Any = v) -> Any:
            ends = (product(x + sign * step * v, *rest, u) for sign in (1, -1))
            forwards, backwards = ends
            return (forwards - backwards) / (2 * step)

        expected = (4 * difference(1e-3) - difference(2e-3)) / 3
        error = max(error, float((found - expected).abs().max() / expected.abs().max()))
    u, v = pairs[0]
    vs = torch.stack([v for _, v in pairs])
    gradient = _seconds(lambda: grad(energy)(x, *rest))
    one = _seconds(lambda: third(x, *rest, u, v))
    many = _seconds(lambda: vmap(third, (None, None, None, None, 0))(x, *rest, u, vs))
    return {
        "atoms": len(atoms),
        "error": error,
        "one": one / gradient,
        "many": many / gradient / len(vs),
    }


def _relaxed(formula: str, group: int) -> Atoms:
    if formula == "quartz":
        return relaxed(_model(), mf.example_structure("quartz"))
    if formula == "Si":
        return relaxed(_model(), bulk("Si", "diamond", a=5.43, cubic=True))
    return relaxed(_model(), built(formula, group))


def _model() -> mf.MaceModel:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    return mf.load_model(WEIGHTS)


def _seconds(function: Callable[[], Any]) -> float:
    function()
    start = time.process_time()
    function()
    return time.process_time() - start


def _peak_memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _in_new_process(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in a new process, which may have its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parts = {"all", "published", "steps", "quartz", "modes"}
    parser.add_argument("--part", choices=sorted(parts), default="all")
    parser.add_argument("--materials", nargs="+", default=list(MATERIALS))
    parser.add_argument("--without-differences", action="store_true")
    options = parser.parse_args()
    chosen = parts - {"all"} if options.part == "all" else {options.part}
    if "modes" in chosen:
        print_modes()
    if "steps" in chosen:
        print_steps()
    if "quartz" in chosen:
        print_quartz()
    if "published" in chosen:
        print_published(options.materials, not options.without_differences)


if __name__ == "__main__":
    main()
