"""Modes of one structure: at the Gamma point, or on a mesh of wave vectors."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any, NamedTuple

from ase import Atoms

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
from mace_functional.screening.record import Spectrum
from mace_functional.screening.saved_eigenvectors import Eigenvectors
from mace_functional.screening.screen_settings import MeshChoice
from mace_functional.screening.task import Task, resume_from
from mace_functional.units import frequency_factor
from mace_functional.vibrations.gamma import gamma_modes
from mace_functional.vibrations.harmonic_modes import NormalModes

MESH = "mesh.npz"
"""Name of the checkpoint of a mesh."""

MESHES = "mesh*.npz"
"""Pattern of all checkpoints of meshes: a refinement has one for each size, `mesh-2x2x2.npz`."""


class Modes(NamedTuple):
    """Modes of a structure.

    Attributes:
        spectrum: Their frequencies.
        facts: Part of the record about them.
        eigenvectors: Eigenvectors if the settings ask for them.
    """

    spectrum: Spectrum
    facts: dict[str, Any]
    eigenvectors: Eigenvectors | None


def modes_at_gamma(task: Task, model: Potential, atoms: Atoms) -> Modes:
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


def modes_on_mesh(task: Task, model: Potential, atoms: Atoms) -> Modes:
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
        modes, error = resume_from(task.folder, MESHES, lambda: _mesh_modes(task, lattice, size))
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
    return Modes(spectrum, facts, eigenvectors)


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
