"""Third-order force constants of a crystal: exact derivatives, no displacements of finite length.

phono3py enumerates pairs of displacements that determine all force constants by symmetry. The third
derivative of the energy is computed along each pair, and phono3py solves for the force constants
and symmetrises them.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mace_functional.anharmonic.displaced_pairs import AllPairs, InequivalentPairs
from mace_functional.anharmonic.pair_derivatives import pair_derivatives
from mace_functional.anharmonic.phono3py import phono3py_of, require_phono3py
from mace_functional.anharmonic.supercells import (
    FrequencyError,
    ase_supercell,
    frequency_error,
    second_order,
)
from mace_functional.anharmonic.third_order_constants import ThirdOrderForceConstants
from mace_functional.autodiff.concrete import refuse_transforms
from mace_functional.autodiff.memory import check_fits
from mace_functional.derivatives.third import third
from mace_functional.interop.phonopy import Supercell, to_phonopy
from mace_functional.phonons.modes import warn_if_not_relaxed
from mace_functional.phonons.phonons import Phonons, phonons_of
from mace_functional.potential.protocol import Potential, features_of, is_mirror_symmetric
from mace_functional.structure.arrays import as_array
from mace_functional.structure.selection import refuse_constraints
from mace_functional.support import validation
from mace_functional.support.defaults import SYMPREC
from mace_functional.support.validation import in_order

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ase import Atoms
    from phono3py import Phono3py

    from mace_functional.autodiff.columns import ChunkSize

LARGEST_ERROR = 1e-6
"""Relative error of the third order above which there is a warning, if there is no cutoff.

Rounding leaves 1e-12. Larger errors are those of a symmetry that holds only approximately.
"""

VANISHING = 1e-8
"""Third order relative to the second, 1/Å, below which it is zero but for rounding."""

LARGEST_FREQUENCY_ERROR = 0.02
"""Error of frequencies from the supercell, relative to the highest, with a warning above."""


def third_order_force_constants(
    potential: Potential,
    atoms: Atoms,
    supercell: Supercell,
    *,
    phonon_supercell: Supercell | None = None,
    phonons: Phonons | None = None,
    cutoff: float | None = None,
    symmetry: bool = True,
    symprec: float = SYMPREC,
    chunk_size: ChunkSize = "auto",
    memory_budget: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
    progress: bool = False,
) -> ThirdOrderForceConstants:
    """Compute third-order force constants of a crystal in a supercell, and those of second order.

    The derivatives are exact. The supercell is an approximation: it adds the force constants of an
    atom and its images, so that interactions beyond half of its width count at other distances.
    Second-order force constants are exact at the wave vectors that are commensurate with their
    supercell.

    Args:
        potential: A potential, such as a model of `load_model`.
        atoms: The crystal, relaxed, periodic in all directions; its smallest cell or a larger one.
        supercell: Repetitions along the lattice vectors, (3,), or phonopy's supercell matrix.
        phonon_supercell: Supercell of the second order; None for the same. A larger one costs
            little.
        phonons: Result of `phonons_of` for this potential and crystal, from which the second order
            is taken; None to compute it.
        cutoff: Largest distance of two displaced atoms, Å, with symmetry only; force constants of
            pairs beyond it are zero unless a permutation of the three atoms gives them. None for
            all pairs.
        symmetry: False to use translations alone. Potentials that are not known to be mirror
            symmetric, and atoms of one element with different masses or features, always have it
            False.
        symprec: Tolerance of the symmetry, Å. Operations that hold only approximately are imposed
            on the force constants, which change in proportion.
        chunk_size: Second displacements at once; see `hessian`.
        memory_budget: Bytes that "auto" may fill; see `hessian`.
        checkpoint: File (npz) to which finished derivatives are written, and from which an
            interrupted calculation continues.
        executor: Executor whose workers share the pairs; see `WorkerProcesses`. None to compute in
            this process.
        progress: Show progress bars.

    Returns:
        The force constants, with an estimate of their error.

    Raises:
        TypeError: If the arguments are of other classes, or swapped.
        ValueError: If the structure does not fit the potential, is not periodic in all directions,
            has constraints, a supercell or an option is not valid, the phonons or the checkpoint
            belong to another crystal or calculation, or parameters require grad or are inside of a
            transform.
        ArithmeticError: If a derivative is not finite.
        ChildProcessError: If the executor is broken, or its workers die again and again.
        ImportError: If phono3py is not installed.

    Warns:
        UserWarning: The structure is not relaxed, the supercell is too small for the second order,
            or the force constants do not give back random third derivatives.

    Source: Togo, Chaput, Tanaka, Phys. Rev. B 91, 094306 (2015), doi:10.1103/PhysRevB.91.094306.
    """
    kinds = (potential, "Potential"), (atoms, "Atoms")
    in_order("third_order_force_constants(potential, atoms, supercell)", *kinds)
    require_phono3py()
    refuse_transforms("third_order_force_constants", "third", potential.params)
    refuse_constraints(atoms, "third_order_force_constants", "remove them: atoms.set_constraint()")
    if not atoms.pbc.all():
        raise ValueError(
            "third-order force constants need a crystal that is periodic in all directions, not "
            f"pbc {atoms.pbc.tolist()}: take third(...) for molecules and layers"
        )
    symprec = validation.symmetry_tolerance("symprec", symprec)
    if cutoff is not None:
        cutoff = validation.pair_cutoff("cutoff", cutoff)
    chunk_size = validation.chunk_size(chunk_size)
    memory_budget = validation.memory_budget(memory_budget)
    symmetry = symmetry and has_symmetry_of_elements(potential, atoms)
    if cutoff is not None and not symmetry:
        raise ValueError(
            "a cutoff needs the symmetry of the crystal, which is not used: leave it out"
        )
    phono3py = phono3py_of(
        atoms, supercell, phonon_supercell=phonon_supercell, symmetry=symmetry, symprec=symprec
    )
    _check_memory(phono3py, cutoff)
    columns: dict[str, Any] = {
        "chunk_size": chunk_size,
        "memory_budget": memory_budget,
        "executor": executor,
    }
    if phonons is None:
        phonons = phonons_of(
            potential, atoms, symmetry=symmetry, symprec=symprec, progress=progress, **columns
        )
    elif phonons.atoms != atoms:
        raise ValueError("the phonons are those of another crystal: compute them by phonons_of")
    warn_if_not_relaxed(phonons)
    matrix = phono3py.phonon_supercell_matrix
    phonopy = to_phonopy(phonons, phono3py.supercell_matrix if matrix is None else matrix)
    missing = frequency_error(phonons, phonopy)
    _warn_of_frequencies(missing)

    cell = ase_supercell(phono3py.supercell, atoms)
    plan = InequivalentPairs(phono3py, cutoff) if symmetry else AllPairs(phono3py)
    derivatives = pair_derivatives(
        potential,
        cell,
        plan.pairs,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        progress=progress,
        **columns,
    )
    constants = ThirdOrderForceConstants(
        values=plan.force_constants(derivatives),
        second_order=second_order(phonopy, phono3py.phonon_primitive),
        atoms=atoms.copy(),
        supercell=np.array(phono3py.supercell_matrix),
        phonon_supercell=np.array(phonopy.supercell_matrix),
        symprec=symprec,
        symmetry=symmetry,
        cutoff=cutoff,
        n_pairs=sum(map(len, plan.pairs)),
        frequency_error=missing.largest,
        largest_force=phonons.diagnostics.largest_force,
    )
    return _with_error(constants, potential, cell, phono3py.primitive.p2s_map)


def has_symmetry_of_elements(potential: Potential, atoms: Atoms) -> bool:
    """Return True if all operations that keep the elements keep the energy and the masses."""
    features = [as_array(f) for f in features_of(potential, atoms).values()]
    labels = [atoms.get_masses(), *(f for f in features if len(f) == len(atoms))]
    same = (
        np.ptp(label[atoms.numbers == element], axis=0).max() == 0
        for label in labels
        for element in np.unique(atoms.numbers)
    )
    return is_mirror_symmetric(potential) and all(same)


def _check_memory(phono3py: Phono3py, cutoff: float | None) -> None:
    """Raise an error if the force constants do not fit into memory.

    Raises:
        MemoryError: If they do not. phono3py expands them to all atoms for a cutoff.
    """
    size = len(phono3py.supercell)
    first = len(phono3py.primitive) if cutoff is None else size
    check_fits(
        "third-order force constants",
        2 * first * size**2 * 27 * 8,
        torch.device("cpu"),
        "take a smaller supercell" + ("" if cutoff is None else ", or no cutoff"),
    )


def _warn_of_frequencies(error: FrequencyError) -> None:
    """Warn if the supercell is too small for the second order."""
    if error.largest > LARGEST_FREQUENCY_ERROR * error.highest:
        warnings.warn(
            f"frequencies from the supercell of the second order are up to {error.largest:.2g} THz "
            f"off, with a highest frequency of {error.highest:.3g} THz: take a larger "
            "phonon_supercell. The third order, in a supercell that is no larger, will be less "
            "accurate than this",
            stacklevel=3,
        )


def _with_error(
    constants: ThirdOrderForceConstants, potential: Potential, cell: Atoms, first: np.ndarray
) -> ThirdOrderForceConstants:
    """Return the force constants with their error along random displacements.

    For independent displacements of unit variance, the mean square of the error is the sum of the
    squares of the errors of all force constants.
    """
    random = np.random.default_rng(0)
    u = np.zeros((len(cell), 3))
    u[first] = random.standard_normal((len(first), 3))
    v = random.standard_normal(u.shape)
    s = potential.structure(cell)
    energy = potential.energy_fn(s.topology)
    directions = (torch.as_tensor(w).to(s.positions) for w in (u, v))
    exact = as_array(third(energy)(s.positions, s.cell, potential.params, *directions))
    difference = constants.along(u[first], v) - exact
    smallest = VANISHING * np.linalg.norm(constants.second_order)
    error = float(np.linalg.norm(difference) / max(np.linalg.norm(exact), smallest))
    if error > LARGEST_ERROR and constants.cutoff is None:
        warnings.warn(
            f"the third-order force constants have a relative error of {error:.1e}: the symmetry "
            f"with symprec {constants.symprec:g} Å holds only approximately. Relax with this "
            "symmetry, or lower symprec",
            stacklevel=3,
        )
    return replace(constants, error=error)
