"""One structure from beginning to end: relaxation, modes, and the files with the results.

A task holds everything that is needed, and all results go to the folder of the structure. Any
thread or process can do a task, on any machine that sees the folder.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from ase import Atoms
from ase.units import GPa

from mace_functional.interop.ase import MaceCalculator
from mace_functional.mace.loading import load_model
from mace_functional.optimize.relax import RelaxResult, relax
from mace_functional.phonons import (
    AcousticBranches,
    Mesh,
    MeshModes,
    Phonons,
    acoustic_branches,
    converged_mesh_thermo,
    mesh_modes,
    mesh_size,
    phonons_of,
)
from mace_functional.potential.protocol import Potential
from mace_functional.screening.changes import changes
from mace_functional.screening.constant_pressure import at_constant_pressure, save_modes
from mace_functional.screening.provenance import now, package_versions
from mace_functional.screening.record import Record, Spectrum
from mace_functional.screening.saved_eigenvectors import Eigenvectors
from mace_functional.screening.saved_structures import write_geometry
from mace_functional.screening.screen_settings import MeshChoice, ScreenSettings
from mace_functional.screening.wording import reason_of
from mace_functional.structure.contacts import shortest_contact
from mace_functional.units import frequency_factor
from mace_functional.vibrations.gamma import gamma_modes
from mace_functional.vibrations.harmonic_modes import NormalModes

RELAXATION, MESH = "relax.npz", "mesh.npz"
"""Names of checkpoints, which exist while a structure is computed."""

MESHES = "mesh*.npz"
"""Pattern of all checkpoints of meshes: a refinement has one for each size, `mesh-2x2x2.npz`."""

MODELS = 8
"""Most models that a process keeps: its threads need one for each device."""

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Task:
    """A structure to be computed.

    Attributes:
        key: Key of the result.
        name: Name of the structure.
        file: File that the structure was read from.
        atoms: The structure.
        folder: Folder for the files of the structure; absolute.
        settings: Settings of the screening.
        device: Device to compute on.
        memory_budget: Bytes for second derivatives; half of what is free if None.
        findings: Remarks on the file, from reading it.
        potential: Potential to compute with, on the device; if None, the model that the settings
            name.
    """

    key: str
    name: str
    file: str
    atoms: Atoms
    folder: Path
    settings: ScreenSettings
    device: str = "cpu"
    memory_budget: int | None = None
    findings: tuple[str, ...] = ()
    potential: Potential | None = None

    @property
    def cost(self) -> float:
        """Relative cost, without a unit: a Hessian has 3N columns of N atoms each."""
        return float(len(self.atoms)) ** 2

    def failed(self, reason: str) -> Record:
        """Write the record of a failure to the folder, and return it."""
        record = Record(self.key, self.name, self.file, reason, list(self.findings))
        self.folder.mkdir(parents=True, exist_ok=True)
        record.save(self.folder)
        return record


class Modes(NamedTuple):
    """Modes of a structure.

    Attributes:
        spectrum: Their frequencies.
        facts: Part of the record about them.
        eigenvectors: Eigenvectors if the settings ask for them.
        mesh: Mesh of wave vectors; None for Gamma alone.
    """

    spectrum: Spectrum
    facts: dict[str, Any]
    eigenvectors: Eigenvectors | None
    mesh: Mesh | None = None


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
    for checkpoints in RELAXATION, MESHES:
        _remove(task.folder, checkpoints)
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
    """Compute a structure, write all files but the record, and return the record."""
    atoms, relaxation = _relaxed(task, model)
    point = _single_point(atoms, model)
    started = time.perf_counter()
    periodic = bool(atoms.pbc.any())
    on_mesh = task.settings.mesh is not None and periodic
    modes = _on_mesh(task, model, atoms) if on_mesh else _at_gamma(task, model, atoms)
    seconds = time.perf_counter() - started
    frequencies = modes.spectrum.frequencies
    vibrating = frequencies[frequencies != 0]
    if not frequencies.isfinite().all():
        raise ValueError(
            "there are frequencies that are not finite: look for atoms on top of each other, or "
            "overflow in low precision"
        )
    constant_pressure: dict[str, Any] = {}
    if task.settings.cp:
        strained, constant_pressure = at_constant_pressure(
            model,
            atoms,
            modes.mesh,
            modes.facts["n_imaginary"],
            symprec=task.settings.symprec,
            memory_budget=task.memory_budget,
        )
        if strained is not None:
            save_modes(task.folder, strained)
    modes.spectrum.save(task.folder)
    if modes.eigenvectors is not None:
        modes.eigenvectors.save(task.folder)
    write_geometry(
        task.folder, atoms, energy=point.energy, forces=point.forces, stress=point.stress
    )
    return Record(
        key=task.key,
        name=task.name,
        file=task.file,
        findings=list(task.findings),
        **relaxation,
        **_facts_of(atoms, model, point),
        **modes.facts,
        **constant_pressure,
        lowest_frequency=float(vibrating.min()) if len(vibrating) else None,
        seconds_modes=seconds,
        computed=now(),
        versions=package_versions(),
    )


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

    result = _resume_from(task.folder, RELAXATION, run)
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


def _at_gamma(task: Task, model: Potential, atoms: Atoms) -> Modes:
    """Modes at the Gamma point alone, and the acoustic branches that are missing there."""
    modes = gamma_modes(model, atoms, memory_budget=task.memory_budget)
    branches = acoustic_branches(model, atoms, modes, memory_budget=task.memory_budget)
    return _gamma_alone(task, modes, branches)


def _gamma_alone(task: Task, modes: NormalModes, branches: AcousticBranches) -> Modes:
    frequencies = modes.frequencies[None]
    spectrum = Spectrum(frequencies, frequencies.new_ones(1), frequencies.new_zeros(1, 3))
    eigenvectors = None
    if task.settings.eigenvectors:
        eigenvectors = Eigenvectors(modes.modes[None], modes.masses, spectrum.q)
    facts = {
        **_facts(modes),
        "n_acoustic_branches": branches.n_branches,
        "acoustic_edges": branches.edges,
        "no_acoustic_estimate": branches.reason,
        "n_imaginary": modes.n_imaginary,
    }
    return Modes(spectrum, facts, eigenvectors)


def _on_mesh(task: Task, model: Potential, atoms: Atoms) -> Modes:
    """Modes on the mesh of the settings, with one point along directions without periodicity."""
    size, symprec = _mesh_size(task.settings.mesh, atoms), task.settings.symprec
    lattice = phonons_of(model, atoms, symprec=symprec, memory_budget=task.memory_budget)
    at_gamma = replace(lattice.gamma_modes(), largest_force=lattice.diagnostics.largest_force)
    if size in (None, (1, 1, 1)):
        branches = acoustic_branches(model, atoms, at_gamma, memory_budget=task.memory_budget)
        # Where parts do not interact with their images, all wave vectors are equal to Gamma.
        if size is not None or not branches.n_branches:
            return _gamma_alone(task, at_gamma, branches)
    with warnings.catch_warnings():
        # The record has all of these.
        warnings.filterwarnings("ignore", message="the largest force is")
        warnings.filterwarnings("ignore", message=".*imaginary modes")
        warnings.filterwarnings("ignore", message="the heat capacity has an error")
        modes, error = _resume_from(task.folder, MESHES, lambda: _mesh_modes(task, lattice, size))
    frequencies, mesh = modes.frequencies_in("cm-1"), modes.mesh
    spectrum = Spectrum(frequencies, mesh.weights.to(frequencies), mesh.q.to(frequencies))
    eigenvectors = None
    if modes.eigenvectors is not None:
        eigenvectors = Eigenvectors(modes.eigenvectors, modes.masses, spectrum.q)
    facts = {
        **_facts(at_gamma),
        "mesh": mesh.size,
        "mesh_error": error,
        "n_imaginary": modes.n_imaginary,
    }
    return Modes(spectrum, facts, eigenvectors, mesh)


def _mesh_size(wanted: MeshChoice, atoms: Atoms) -> tuple[int, int, int] | None:
    """The size of the mesh for a crystal; None if it has to be found."""
    if wanted is None or isinstance(wanted, str):
        return None
    if isinstance(wanted, float):
        return mesh_size(atoms, wanted)
    n1, n2, n3 = (n if periodic else 1 for n, periodic in zip(wanted, atoms.pbc, strict=True))
    return n1, n2, n3


def _mesh_modes(
    task: Task, lattice: Phonons, size: tuple[int, int, int] | None
) -> tuple[MeshModes, float | None]:
    """Modes on a mesh, and the error of the heat capacity if the mesh was refined."""
    path, settings = task.folder / MESH, task.settings
    vectors = settings.eigenvectors
    if size is not None:
        mesh = Mesh.of(lattice.atoms, size, symprec=settings.symprec)
        return mesh_modes(lattice, mesh, eigenvectors=vectors, checkpoint=path), None
    found = converged_mesh_thermo(
        lattice,
        settings.mesh_temperature,
        tolerance=settings.mesh_tolerance,
        symprec=settings.symprec,
        checkpoint=path,
    )
    modes = found.result.modes
    if vectors:  # the meshes on the way have none
        modes = mesh_modes(lattice, modes.mesh, checkpoint=task.folder / MESH)
    return modes, found.steps[-1].error


def _facts(at_gamma: NormalModes) -> dict[str, Any]:
    """Diagnostics of the Hessian at Gamma."""
    # Near a minimum the largest force constant is on the diagonal.
    squares = (
        at_gamma.frequencies.abs() * at_gamma.frequencies / frequency_factor(at_gamma.unit) ** 2
    )
    own = (squares[:, None, None] * at_gamma.modes**2).sum(0) * at_gamma.masses[:, None]
    return {
        "n_rigid": at_gamma.n_rigid,
        "stiffness": float(own.abs().max()) if own.numel() else None,
        "acoustic_sum_residual": at_gamma.acoustic_sum_residual,
        "asymmetry": at_gamma.asymmetry,
    }


def _resume_from(folder: Path, checkpoints: str, compute: Callable[[], T]) -> T:
    """Compute from the checkpoints that match a pattern; if that fails, once more without them."""
    resumed = any(folder.glob(checkpoints))
    try:
        return compute()
    except MemoryError:
        raise
    except Exception:
        if not resumed:
            raise
        _remove(folder, checkpoints)
        return compute()


def _remove(folder: Path, checkpoints: str) -> None:
    for path in folder.glob(checkpoints):
        path.unlink(missing_ok=True)
