"""One structure from beginning to end: relaxation, modes, and the files with the results.

A task holds everything that is needed, and all results go to the folder of the structure. Any
thread or process can do a task, on any machine that sees the folder.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms
from ase.units import GPa

from mace_functional.interop.ase import MaceCalculator
from mace_functional.mace.loading import load_model
from mace_functional.optimize.relax import RelaxResult, relax
from mace_functional.phonons import Mesh
from mace_functional.potential.protocol import Potential
from mace_functional.screening.changes import changes
from mace_functional.screening.constant_pressure import at_constant_pressure, save_modes
from mace_functional.screening.provenance import now, package_versions
from mace_functional.screening.record import Record
from mace_functional.screening.sampled_thermo import PASSES, sampled_facts
from mace_functional.screening.saved_structures import write_geometry
from mace_functional.screening.screen_settings import ScreenSettings
from mace_functional.screening.structure_modes import MESHES, modes_at_gamma, modes_on_mesh
from mace_functional.screening.task import Task, remove_checkpoints, resume_from
from mace_functional.screening.wording import reason_of
from mace_functional.structure.contacts import shortest_contact

RELAXATION = "relax.npz"
"""Name of the checkpoint of a relaxation, which exists while a structure is computed."""

MODELS = 8
"""Most models that a process keeps: its threads need one for each device."""


def evaluate(task: Task) -> Record:
    """Compute a structure and write its files, the record last.

    Args:
        task: The structure. The calculation continues from checkpoints in its folder.

    Returns:
        The record, with the reason if the structure failed.

    Raises:
        Exception: If the model cannot be loaded (this is no failure of the structure), or files
            cannot be written.
    """
    model = task.potential
    if model is None:
        model = cached_model(task.settings, task.device)
    task.folder.mkdir(parents=True, exist_ok=True)
    try:
        record = _computed(task, model)
    except Exception as error:
        record = task.failed(reason_of(error))
    else:
        record.save(task.folder)
    for checkpoints in RELAXATION, MESHES, PASSES:
        remove_checkpoints(task.folder, checkpoints)
    return record


def cached_model(settings: ScreenSettings, device: str) -> Potential:
    """The model of a screening, loaded once in a process and shared by its threads."""
    return _load(settings.model, settings.head, settings.dtype, settings.dispersion, device)


@lru_cache(maxsize=MODELS)
def _load(
    model: str, head: str | None, dtype: str | torch.dtype, dispersion: str | None, device: str
) -> Potential:
    return load_model(model, dtype=dtype, device=device, head=head, dispersion=dispersion)


def _computed(task: Task, model: Potential) -> Record:
    """Compute what a structure lacks, write all files but the record, and return the record."""
    point = None
    if task.earlier is not None and task.relaxed is not None:
        atoms = task.relaxed
        known = replace(
            task.earlier, name=task.name, file=task.file, findings=list(task.findings), no_cp=None
        )
    else:
        atoms, relaxation = _relaxed(task, model)
        point = _single_point(atoms, model)
        known = Record(
            key=task.key,
            name=task.name,
            file=task.file,
            findings=list(task.findings),
            **relaxation,
            **_facts_of(atoms, model, point),
        )
        if not task.is_sampled:
            known = replace(known, **_of_modes(task, model, atoms))
    if task.is_sampled:
        known = replace(known, **_sampled(task, model, atoms))
    elif task.settings.cp:
        known = replace(known, **_at_constant_pressure(task, model, atoms, known))
    if point is not None:
        write_geometry(
            task.folder, atoms, energy=point.energy, forces=point.forces, stress=point.stress
        )
    return replace(known, computed=now(), versions=package_versions())


def _of_modes(task: Task, model: Potential, atoms: Atoms) -> dict[str, Any]:
    """Compute the modes, write their files, and return the part of the record about them.

    Raises:
        ValueError: If frequencies are not finite.
    """
    started = time.perf_counter()
    on_mesh = task.settings.mesh is not None and bool(atoms.pbc.any())
    modes = (modes_on_mesh if on_mesh else modes_at_gamma)(task, model, atoms)
    seconds = time.perf_counter() - started
    frequencies = modes.spectrum.frequencies
    vibrating = frequencies[frequencies != 0]
    if not frequencies.isfinite().all():
        raise ValueError(
            "there are frequencies that are not finite: look for atoms on top of each other, or "
            "overflow in low precision"
        )
    modes.spectrum.save(task.folder)
    if modes.eigenvectors is not None:
        modes.eigenvectors.save(task.folder)
    return {
        **modes.facts,
        "lowest_frequency": float(vibrating.min()) if len(vibrating) else None,
        "seconds_modes": seconds,
    }


def _sampled(task: Task, model: Potential, atoms: Atoms) -> dict[str, Any]:
    """Sample the thermodynamics, and return the part of the record about them."""
    started = time.perf_counter()

    def run() -> dict[str, Any]:
        return sampled_facts(
            model,
            atoms,
            task.temperatures,
            task.settings,
            checkpoint=task.folder / PASSES,
            memory_budget=task.memory_budget,
        )

    facts = resume_from(task.folder, PASSES, run)
    return {**facts, "seconds_modes": time.perf_counter() - started}


def _at_constant_pressure(
    task: Task, model: Potential, atoms: Atoms, record: Record
) -> dict[str, Any]:
    """Compute what Cp - Cv is made of, write its file, and return the part of the record about it.

    The record has the mesh and the number of imaginary modes.
    """
    symprec, mesh = task.settings.symprec, None
    if record.mesh is not None:
        n1, n2, n3 = record.mesh
        mesh = Mesh.of(atoms, (n1, n2, n3), symprec=symprec)
    modes, facts = at_constant_pressure(
        model,
        atoms,
        mesh,
        record.n_imaginary or 0,
        symprec=symprec,
        memory_budget=task.memory_budget,
    )
    if modes is not None:
        save_modes(task.folder, modes)
    return facts


def _relaxed(task: Task, model: Potential) -> tuple[Atoms, dict[str, Any]]:
    """The relaxed structure, or the structure as it is, with the part of the record on this."""
    if task.atoms.constraints:
        raise ValueError(
            "some of its atoms are held by constraints, and a screening lets all atoms move: "
            "remove them from the file"
        )
    if not task.settings.relax:
        return task.atoms, {}
    path, started = task.folder / RELAXATION, time.perf_counter()

    def run() -> RelaxResult:
        return relax(
            model,
            task.atoms,
            relax_cell=task.settings.relax_cell,
            fmax=task.settings.fmax,
            max_steps=task.settings.max_steps,
            checkpoint=path,
        )

    result = resume_from(task.folder, RELAXATION, run)
    return result.atoms, {
        **changes(task.atoms, result.atoms),
        "converged": result.converged,
        "relaxation": result.reason,
        "n_gradients": result.n_gradients,
        "n_hvps": result.n_hvps,
        "seconds_relaxation": time.perf_counter() - started,
    }


class _SinglePoint(NamedTuple):
    """Energy, eV; forces, eV/Å, (N, 3); stress of a crystal, eV/Å³, (3, 3)."""

    energy: float
    forces: np.ndarray
    stress: np.ndarray | None


def _single_point(atoms: Atoms, model: Potential) -> _SinglePoint:
    """Energy, forces and stress of a structure.

    Raises:
        ValueError: If energy or forces are not finite.
    """
    here = atoms.copy()
    here.calc = MaceCalculator(model)
    energy, forces = float(here.get_potential_energy()), here.get_forces()
    if not math.isfinite(energy) or not np.isfinite(forces).all():
        raise ValueError(
            "its energy or forces are not finite: look for atoms on top of each other, or a "
            "structure far from all that the model was made for"
        )
    return _SinglePoint(energy, forces, here.get_stress(voigt=False) if here.pbc.all() else None)


def _facts_of(atoms: Atoms, model: Potential, point: _SinglePoint) -> dict[str, Any]:
    """Values of the record that describe the structure and its distance from a minimum."""
    here = atoms.copy()
    here.calc = MaceCalculator(model)
    contact, stress = shortest_contact(here), point.stress
    return {
        "formula": here.get_chemical_formula(),
        "n_atoms": len(here),
        "mass": float(here.get_masses().sum()),
        "volume": float(here.get_volume()) if here.pbc.all() else None,
        "shortest_contact": None if contact is None else contact.ratio,
        "energy": point.energy,
        "binding": (point.energy - _energy_of_free_atoms(here)) / len(here),
        "largest_force": float((point.forces**2).sum(1).max() ** 0.5),
        "largest_stress": None if stress is None else float(abs(stress).max() / GPa),
    }


def _energy_of_free_atoms(atoms: Atoms) -> float:
    """Energy of the atoms, each alone in space, eV; `atoms` has the calculator."""
    total = 0.0
    for number in set(atoms.numbers):
        (same,) = (atoms.numbers == number).nonzero()
        alone = atoms[same[:1]]
        alone.pbc, alone.calc = False, atoms.calc
        total += len(same) * float(alone.get_potential_energy())
    return total
