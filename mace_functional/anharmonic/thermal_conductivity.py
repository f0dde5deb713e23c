"""Lattice thermal conductivity of a crystal, from its potential: relaxation to conductivity."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from mace_functional.anharmonic.conductivity import (
    checked_options,
    conductivity_of,
    warn_of_imaginary_modes,
)
from mace_functional.anharmonic.conductivity_result import ThermalConductivity
from mace_functional.anharmonic.phono3py import require_phono3py
from mace_functional.anharmonic.supercell_choice import thick_supercell
from mace_functional.anharmonic.third_order import (
    has_symmetry_of_elements,
    third_order_force_constants,
)
from mace_functional.interop.phonopy import Supercell, supercell_matrix
from mace_functional.optimize.relax import relax
from mace_functional.phonons.mesh import Mesh, mesh_size
from mace_functional.phonons.modes import signed_frequencies
from mace_functional.phonons.phonons import Phonons, phonons_of
from mace_functional.phonons.solved_modes import solved_modes
from mace_functional.potential.protocol import Potential
from mace_functional.structure.selection import refuse_constraints
from mace_functional.support.defaults import FMAX, SYMPREC, ConductivityMethod
from mace_functional.support.validation import in_order

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ase import Atoms

    from mace_functional.autodiff.columns import ChunkSize

THICKNESS, MOST_ATOMS = 10.0, 200
"""Thickness of a chosen supercell of the third order, Å, and its largest number of atoms."""

PHONON_THICKNESS, MOST_PHONON_ATOMS = 16.0, 300
"""Thickness of a chosen supercell of the second order, Å, and its largest number of atoms.

Its force constants cost nothing more, but phonopy's search for its symmetry takes ten seconds for
216 atoms, three times, and longer with the square of their number.
"""


def thermal_conductivity(
    potential: Potential,
    atoms: Atoms,
    temperatures: Sequence[float] | float,
    *,
    supercell: Supercell | None = None,
    phonon_supercell: Supercell | None = None,
    mesh: Sequence[int] | float | None = None,
    method: ConductivityMethod = "relaxation-time",
    wigner: bool = False,
    isotopes: bool = False,
    boundary: float | None = None,
    relaxed: bool = False,
    fmax: float = FMAX,
    cutoff: float | None = None,
    symmetry: bool = True,
    symprec: float = SYMPREC,
    chunk_size: ChunkSize = "auto",
    memory_budget: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
    progress: bool = False,
) -> ThermalConductivity:
    """Compute the lattice thermal conductivity of a crystal from a potential.

    The crystal is relaxed with its symmetry, force constants of second and third order are exact
    derivatives in supercells, and phono3py computes the conductivity. What makes it wrong, such as
    imaginary modes, is said before the third order, which takes the time.

    Args:
        potential: A potential, such as a model of `load_model`.
        atoms: The crystal, periodic in all directions.
        temperatures: Temperatures, K, above zero.
        supercell: Supercell of the third order; see `third_order_force_constants`. None for the
            smallest multiple of the conventional cell that is 10 Å thick, with at most 200 atoms.
        phonon_supercell: Supercell of the second order; None for one that is 16 Å thick, with at
            most 300 atoms.
        mesh: Mesh of wave vectors; see `conductivity_of`.
        method: "relaxation-time" or "direct"; see `conductivity_of`.
        wigner: Add the coherences of Wigner's transport equation.
        isotopes: Add the scattering by isotopes of natural abundance.
        boundary: Mean free path of boundary scattering, µm; None for none.
        relaxed: True if the crystal is relaxed already; it is taken as it is.
        fmax: Largest force after the relaxation, eV/Å.
        cutoff: Largest distance of two displaced atoms, Å; see `third_order_force_constants`.
        symmetry: False to use translations alone.
        symprec: Tolerance of the symmetry, Å.
        chunk_size: Columns at once; see `hessian`.
        memory_budget: Bytes that "auto" may fill; see `hessian`.
        checkpoint: File (npz) from which an interrupted third order continues. The relaxation
            before it must give the same crystal, and does for the same input.
        executor: Executor whose workers share the derivatives; see `WorkerProcesses`. None to
            compute in this process.
        progress: Show progress bars.

    Returns:
        The conductivity; its `constants` have the relaxed crystal, the supercells and the errors.

    Raises:
        TypeError: If the arguments are of other classes, or swapped.
        ValueError: If an option or the structure is not valid; see `third_order_force_constants`
            and `conductivity_of`.
        ArithmeticError: If a derivative is not finite.
        MemoryError: If force constants or collision matrices do not fit into memory.
        ChildProcessError: If the executor is broken, or its workers die again and again.
        ImportError: If phono3py is not installed.

    Warns:
        UserWarning: The relaxation did not converge, there are imaginary modes, a supercell is too
            small, or the symmetry holds only approximately.
    """
    kinds = (potential, "Potential"), (atoms, "Atoms")
    in_order("thermal_conductivity(potential, atoms, temperatures)", *kinds)
    require_phono3py()
    checked_options(temperatures, mesh, method, boundary)
    refuse_constraints(atoms, "thermal_conductivity", "remove them: atoms.set_constraint()")
    if not atoms.pbc.all():
        raise ValueError(
            "a thermal conductivity needs a crystal that is periodic in all directions, not pbc "
            f"{atoms.pbc.tolist()}"
        )
    for given in supercell, phonon_supercell:
        if given is not None:
            supercell_matrix(atoms, given)
    symmetry = symmetry and has_symmetry_of_elements(potential, atoms)
    if not relaxed:
        found = relax(
            potential, atoms, fmax=fmax, symmetry=symmetry, symprec=symprec, progress=progress
        )
        if not found.converged:
            warnings.warn(f"the relaxation {found.reason}", stacklevel=2)
        atoms = found.atoms
    options: dict[str, Any] = {
        "symmetry": symmetry,
        "symprec": symprec,
        "chunk_size": chunk_size,
        "memory_budget": memory_budget,
        "executor": executor,
        "progress": progress,
    }
    if supercell is None:
        supercell = thick_supercell(atoms, THICKNESS, MOST_ATOMS, symprec)
    if phonon_supercell is None:
        phonon_supercell = thick_supercell(atoms, PHONON_THICKNESS, MOST_PHONON_ATOMS, symprec)
    phonons = phonons_of(potential, atoms, **options)
    n_imaginary, lowest, size = _imaginary_modes(phonons, symmetry, symprec)
    if n_imaginary:
        warn_of_imaginary_modes(n_imaginary, lowest, f"on the mesh {size}")
    constants = third_order_force_constants(
        potential,
        atoms,
        supercell,
        phonon_supercell=phonon_supercell,
        phonons=phonons,
        cutoff=cutoff,
        checkpoint=checkpoint,
        **options,
    )
    with warnings.catch_warnings():
        if n_imaginary:  # and the user knows
            warnings.filterwarnings("ignore", message=".*imaginary modes")
        return conductivity_of(
            constants,
            temperatures,
            mesh=mesh,
            method=method,
            wigner=wigner,
            isotopes=isotopes,
            boundary=boundary,
        )


def _imaginary_modes(phonons: Phonons, symmetry: bool, symprec: float) -> tuple[int, float, str]:
    """Return the number of imaginary modes on a mesh, the lowest frequency in THz, and its size."""
    atoms = phonons.atoms
    mesh = Mesh.of(atoms, mesh_size(atoms), symmetry=symmetry, symprec=symprec)
    solved = solved_modes(phonons, mesh.q, eigenvectors=False, executor=None)
    frequencies = signed_frequencies(torch.stack([values for values, _ in solved]), "THz").cpu()
    share = float((frequencies < 0).sum(1).double() @ mesh.weights)
    count = round(share * math.prod(mesh.size))
    return count, float(frequencies.min()), " x ".join(map(str, mesh.size))
