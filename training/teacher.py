"""Training configurations, and the teacher's results for them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import structures
import torch
from ase import Atoms, units
from ase.filters import FrechetCellFilter
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

import mace_functional as mf
from mace_functional.support.atomic_write import atomic_write
from mace_functional.training import Curvature, LabelledStructure

RATTLES = (0.02, 0.05, 0.1, 0.15)
"""Standard deviations of random displacements, Å."""

TEMPERATURES = (400.0, 1000.0)
"""Temperatures of the short molecular dynamics, K."""

LARGE = 60
"""Number of atoms above which a structure has half as many configurations.

Each of them shows more surroundings of atoms than one of a small structure.
"""

STRAIN = 0.02
"""Standard deviation of the entries of random strains of crystals."""

CLOSE = 0.25
"""Standard deviation of the random displacements of the structure with close contacts, Å."""

LARGEST_FORCE, LARGEST_CLOSE_FORCE = 40.0, 200.0
"""Largest force of a configuration, and of one with close contacts, eV/Å.

Those with larger forces are left out.
"""

SOFT_MODES, SOFT = 8, 1.0
"""Largest number of soft modes whose Hessian products are labels, and their largest |H v|, eV/Å².

The displacements v have unit length.
"""

SOFT_WEIGHT = 300.0
"""Weight of these products in the loss.

They are 10 to 100 times smaller than those with random directions, and so are their errors.
"""


def label_all(
    teacher: Path, frameworks: Path, output: Path, workers: int, report: Callable[[str], None]
) -> None:
    """Generate and label all configurations; existing files in the output folder are kept.

    Args:
        teacher: Checkpoint of the teacher.
        frameworks: Folder for `structures.training_structures`.
        output: Folder for the results, one file for each structure.
        workers: Number of processes.
        report: Function that is called with a line for each structure.
    """
    output.mkdir(parents=True, exist_ok=True)
    # The largest structures come first, so that all processes end at about the same time.
    named_structures = sorted(
        structures.training_structures(frameworks),
        key=lambda pair: -len(pair[1]) * (1 + 5 * pair[1].pbc.all()),
    )
    jobs = [
        (name, atoms, teacher, output / f"{name.replace('/', '-')}.pt")
        for name, atoms in named_structures
    ]
    jobs = [job for job in jobs if not job[3].exists()]
    with ProcessPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for line in pool.map(_label, *zip(*jobs, strict=True)) if jobs else ():
            report(line)


def read_all(folder: Path) -> list[LabelledStructure]:
    """Read all labelled structures that `label_all` wrote to a folder."""
    files = sorted(folder.glob("*.pt"))
    return [labelled for path in files for labelled in torch.load(path, weights_only=False)]


def _label(name: str, atoms: Atoms, teacher: Path, path: Path) -> str:
    """Relax one structure, generate configurations, and write them with the teacher's results."""
    model = mf.load_model(teacher, dtype=torch.float32)
    seed = zlib.crc32(name.encode())  # the same whatever other structures there are
    rng = np.random.default_rng(seed)
    relaxed = _relaxed(atoms, model)
    relaxed.info["name"] = name
    found = mf.labelled_by(model, [relaxed], directions=6, seed=seed)
    others = [c for c in _configurations(relaxed, model, rng) if _is_gentle(c, model)]
    found += mf.labelled_by(model, others, directions=2, seed=seed + 1)
    close = _strained(relaxed, 0.0, CLOSE, rng)
    if len(relaxed) <= LARGE and _is_gentle(close, model, LARGEST_CLOSE_FORCE):
        found += mf.labelled_by(model, [close], directions=0)
    found += _soft(relaxed, model)
    with atomic_write(path) as partial:
        torch.save(found, partial)
    force = 0.0 if found[0].forces is None else abs(found[0].forces).max()
    return f"{name}: {len(atoms)} atoms, {len(found)} structures, largest force {force:.3f} eV/Å"


def _soft(relaxed: Atoms, model: mf.MaceModel) -> list[LabelledStructure]:
    """Return a structure with the Hessian products of its soft modes, if it has any."""
    k = min(SOFT_MODES, 3 * len(relaxed) - 6)
    if k < 1:
        return []
    weighted = mf.HessianOperator.from_potential(model, relaxed)
    found = mf.lowest_modes(weighted, k, tolerance=0.02)
    masses = torch.as_tensor(relaxed.get_masses())
    modes = found.modes / masses.sqrt()[:, None]
    v = modes / modes.flatten(1).norm(dim=1)[:, None, None]
    plain = mf.HessianOperator.from_potential(model, relaxed, mass_weighted=False)
    products = plain @ v.flatten(1).T.to(plain.dtype)
    is_soft = products.norm(dim=0) < SOFT
    if not is_soft.any():
        return []
    products = products.T.reshape(v.shape)[is_soft]
    curvature = Curvature(v[is_soft].numpy(), products.double().numpy())
    name = f"{relaxed.info['name']}, soft modes"
    return [LabelledStructure(relaxed, curvature=curvature, weight=SOFT_WEIGHT, name=name)]


def _is_gentle(atoms: Atoms, model: mf.MaceModel, largest: float = LARGEST_FORCE) -> bool:
    """Return True if no force on an atom is as large as a limit, eV/Å."""
    atoms = atoms.copy()
    atoms.calc = mf.MaceCalculator(model)
    return bool(abs(atoms.get_forces()).max() < largest)


def _relaxed(atoms: Atoms, model: mf.MaceModel) -> Atoms:
    atoms = atoms.copy()
    atoms.calc = mf.MaceCalculator(model)
    target = FrechetCellFilter(atoms) if atoms.pbc.all() else atoms
    BFGS(target, logfile=None).run(fmax=0.02, steps=80)
    return atoms


def _configurations(
    relaxed: Atoms, model: mf.MaceModel, rng: np.random.Generator
) -> Iterator[Atoms]:
    """Yield rattled, strained and thermally disordered copies of a structure."""
    crystal, large = bool(relaxed.pbc.all()), len(relaxed) > LARGE
    for sigma in RATTLES * 2 if crystal and not large else RATTLES:
        yield _strained(relaxed, STRAIN * crystal, sigma, rng)
    for _ in range((2 - large) * crystal):
        yield _strained(relaxed, 2 * STRAIN, 0.01, rng)
    for temperature in TEMPERATURES:
        atoms = relaxed.copy()
        atoms.calc = mf.MaceCalculator(model)
        MaxwellBoltzmannDistribution(atoms, temperature_K=2 * temperature, rng=rng)
        Stationary(atoms)
        dynamics = VelocityVerlet(atoms, timestep=1.0 * units.fs)
        for _ in range(2 - large):
            dynamics.run(15 * (1 + large))
            yield atoms.copy()


def _strained(atoms: Atoms, strain: float, sigma: float, rng: np.random.Generator) -> Atoms:
    new = atoms.copy()
    random = strain * rng.normal(size=(3, 3))
    new.set_cell(atoms.cell.array @ (np.eye(3) + (random + random.T) / 2), scale_atoms=True)
    new.positions += sigma * rng.normal(size=new.positions.shape)
    return new
