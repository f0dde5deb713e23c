"""The modes of a crystal at one wave vector, with the rigid motions at exactly zero."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mace_functional.autodiff.concrete import refuse_transforms
from mace_functional.phonons.wave_vector import WaveVector, wave_vector
from mace_functional.structure.arrays import as_array
from mace_functional.units import frequency_factor
from mace_functional.vibrations.harmonic_modes import signed_sqrt
from mace_functional.vibrations.rigid import internal_motions

if TYPE_CHECKING:
    from ase import Atoms

    from mace_functional.phonons.phonons import Phonons

GAMMA_TOLERANCE = 1e-8
"""Closer to a reciprocal lattice vector than this, acoustic frequencies drown in rounding."""

ROUNDING = 1e3
"""Rounding of eigenvalues, in units of the machine precision times the norm of the matrix."""

WITH_DERIVATIVES = "frequencies(phonons.dynamical_matrix(q))"
"""What to use in place of functions of phonons that have no derivatives."""

LARGEST_FORCE = 0.05
"""Above this, in eV/Å, a structure is not at rest."""


def modes_at_q(phonons: Phonons, q: WaveVector) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of the dynamical matrix, D e = omega^2 e.

    Rigid motions are taken out by projection and come back with eigenvalues of exactly zero,
    whatever rounding makes of them. At a reciprocal lattice vector they are the acoustic modes, and
    rotations of molecules and chains that are connected to nothing else; such a molecule moves as a
    whole in every wave. The matrix is made hermitian, (D + D^H) / 2.

    Args:
        phonons: From `phonons_of`.
        q: Wave vector in units of the reciprocal lattice vectors, (3,).

    Returns:
        Eigenvalues (3N,) in eV/Å²/amu, ascending, and the orthonormal eigenvectors that belong to
        them, complex, (3N, N, 3). In cell R they are multiplied by exp(2 pi i q.R).

    Raises:
        ValueError: If q has the wrong shape, is not finite or has a component along a direction
            that is not periodic, or the dynamical matrix is not finite.
    """
    refuse_transforms("modes_at_q", WITH_DERIVATIVES, phonons.masses, q)
    q = checked_q(phonons, q)
    matrix = phonons.dynamical_matrix(q)
    if not matrix.isfinite().all():
        raise ValueError(
            f"the dynamical matrix at q = {q.tolist()} has entries that are not finite: look for "
            "atoms on top of each other, or overflow in low precision"
        )
    matrix = (matrix + matrix.mH) / 2
    rigid = rigid_basis(phonons, q)
    if not rigid.shape[1]:
        values, columns = torch.linalg.eigh(matrix)
    else:
        internal = internal_motions(rigid)
        inner = matrix if rigid.is_complex() else matrix.real
        values, columns = torch.linalg.eigh(internal.mH @ inner @ internal)
        values = torch.cat([values.new_zeros(rigid.shape[1]), values])
        values, order = values.sort(stable=True)
        columns = torch.cat([rigid, internal @ columns], 1)[:, order].to(matrix.dtype)
    return values, columns.mT.unflatten(1, (-1, 3))


def rigid_basis(phonons: Phonons, q: Tensor) -> Tensor:
    """Orthonormal basis of the motions that cost no energy, mass-weighted.

    Args:
        phonons: From `phonons_of`.
        q: Wave vector in units of the reciprocal lattice vectors, (3,).

    Returns:
        (3N, r); real at reciprocal lattice vectors, complex elsewhere.
    """
    masses = phonons.masses
    if is_gamma(q):
        return torch.as_tensor(phonons.rigid.basis).to(masses)
    basis = torch.as_tensor(phonons.rigid.at(as_array(q)))
    return basis.to(device=masses.device, dtype=masses.dtype.to_complex())


def signed_frequencies(eigenvalues: Tensor, unit: str) -> Tensor:
    """Frequencies sign(omega^2) sqrt(|omega^2|) from eigenvalues in eV/Å²/amu, in `unit`."""
    return frequency_factor(unit) * signed_sqrt(eigenvalues)


def degenerate_blocks(eigenvalues: Tensor) -> Tensor:
    """Number of the block of equal eigenvalues that each of them belongs to, (3N,).

    Equal is what differs by less than the root of the machine precision, as a share of the larger,
    to which relaxed structures seldom keep their symmetry; or by less than the rounding of all.

    Args:
        eigenvalues: Ascending, (3N,).
    """
    eps, size = torch.finfo(eigenvalues.dtype).eps, eigenvalues.abs()
    tolerance = eps**0.5 * torch.maximum(size, size.roll(1)) + ROUNDING * eps * size.norm()
    return (eigenvalues.diff(prepend=eigenvalues[:1]) > tolerance).cumsum(0)


def is_gamma(q: Tensor) -> Tensor:
    """Whether wave vectors (..., 3) are reciprocal lattice vectors, (...)."""
    return ((q - q.round()).abs() < GAMMA_TOLERANCE).all(-1)


def checked_q(phonons: Phonons, q: WaveVector) -> Tensor:
    """A wave vector with the precision of the phonons.

    Raises:
        ValueError: If its shape is not (3,), it is not finite, or it has a component along a
            direction that is not periodic.
    """
    periodic = torch.as_tensor(phonons.atoms.pbc, device=phonons.masses.device)
    return wave_vector(q, periodic, phonons.masses)


def check_crystal(atoms: Atoms, what: str) -> None:
    """Refuse a molecule.

    Args:
        atoms: The structure.
        what: What was asked for, to be named.

    Raises:
        ValueError: If no direction is periodic.
    """
    if not atoms.pbc.any():
        raise ValueError(
            f"{what} needs a crystal, and the structure is not periodic in any direction: for the "
            "vibrations of a molecule call gamma_modes()"
        )


def warn_if_not_relaxed(phonons: Phonons) -> None:
    """Warn of a structure far from rest.

    Warns:
        UserWarning: The largest force is above `LARGEST_FORCE`.
    """
    force = phonons.diagnostics.largest_force
    if force > LARGEST_FORCE:
        warnings.warn(
            f"the largest force is {force:.3g} eV/Å: the structure is not at rest, and its "
            "harmonic frequencies mean little; relax it first",
            stacklevel=3,
        )
