"""Modes of a crystal at one wave vector; the rigid motions have exactly zero frequency."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mace_functional.autodiff.concrete import refuse_transforms
from mace_functional.phonons.wave_vector import WaveVector, checked_where_given, wave_vector
from mace_functional.structure.arrays import as_array
from mace_functional.units import frequency_factor
from mace_functional.vibrations.harmonic_modes import (
    LARGEST_FORCE,
    signed_sqrt,
    vibrational_frequencies,
)
from mace_functional.vibrations.rigid import internal_motions

if TYPE_CHECKING:
    from ase import Atoms

    from mace_functional.phonons.phonons import Phonons

GAMMA_TOLERANCE = 1e-8
"""Largest distance of q from a reciprocal lattice vector at which q counts as Gamma.

It is in units of the reciprocal lattice vectors. Closer to Gamma, acoustic frequencies are smaller
than their rounding errors.
"""

EIGENVALUE_NOISE = 1e3
"""Rounding error of eigenvalues, in units of the machine precision times the norm of the matrix."""

WITH_DERIVATIVES = "frequencies(phonons.dynamical_matrix(q))"
"""Call that error messages recommend in place of functions of phonons without derivatives."""


def modes_at_q(phonons: Phonons, q: WaveVector) -> tuple[Tensor, Tensor]:
    """Compute eigenvalues and eigenvectors of the dynamical matrix, D e = omega^2 e.

    Rigid motions are removed by projection, and returned with eigenvalues of exactly zero, free of
    rounding errors. At a reciprocal lattice vector they are the acoustic modes. A molecule that is
    connected to nothing else has its own rigid motions at every q, a chain at some q. The matrix is
    made hermitian, (D + D^H) / 2.

    Args:
        phonons: Phonons of `phonons_of`.
        q: Wave vector in units of the reciprocal lattice vectors, (3,).

    Returns:
        Eigenvalues in eV/Å²/amu, ascending, (3N,), and the orthonormal eigenvectors, complex,
        (3N, N, 3). In cell R they are multiplied by exp(2 pi i q.R).

    Raises:
        ValueError: If q has the wrong shape, is not finite or has a component along a direction
            that is not periodic, or the dynamical matrix is not finite.
    """
    refuse_transforms("modes_at_q", WITH_DERIVATIVES, phonons.masses, q)
    q = checked_where_given(q, phonons.atoms.pbc.tolist(), phonons.masses.dtype)
    d = phonons.dynamical_matrix(q)
    if not d.isfinite().all():
        raise ValueError(
            f"the dynamical matrix at q = {q.tolist()} has entries that are not finite: look for "
            "atoms on top of each other, or overflow in low precision"
        )
    d = (d + d.mH) / 2
    rigid = rigid_basis(phonons, q)
    if not rigid.shape[1]:
        values, columns = torch.linalg.eigh(d)
    else:
        internal = internal_motions(rigid)
        inner_d = d if rigid.is_complex() else d.real
        values, columns = torch.linalg.eigh(internal.mH @ inner_d @ internal)
        values = torch.cat([values.new_zeros(rigid.shape[1]), values])
        values, order = values.sort(stable=True)
        columns = torch.cat([rigid, internal @ columns], 1)[:, order].to(d.dtype)
    return values, columns.mT.unflatten(1, (-1, 3))


def rigid_basis(phonons: Phonons, q: Tensor) -> Tensor:
    """Return an orthonormal basis of the rigid motions at q, mass-weighted.

    Args:
        phonons: Phonons of `phonons_of`.
        q: Wave vector in units of the reciprocal lattice vectors, (3,).

    Returns:
        Rigid motions as columns, (3N, r); real at reciprocal lattice vectors, complex elsewhere.
    """
    masses = phonons.masses
    if is_gamma(q):
        return torch.as_tensor(phonons.rigid.basis).to(masses)
    basis = torch.as_tensor(phonons.rigid.at(as_array(q)))
    return basis.to(device=masses.device, dtype=masses.dtype.to_complex())


def signed_frequencies(eigenvalues: Tensor, unit: str) -> Tensor:
    """Compute frequencies sign(omega^2) sqrt(|omega^2|) in `unit`, from omega^2 in eV/Å²/amu."""
    return frequency_factor(unit) * signed_sqrt(eigenvalues)


def degenerate_blocks(eigenvalues: Tensor) -> Tensor:
    """Return the number of the degenerate block of each eigenvalue, (3N,).

    Neighbouring eigenvalues are degenerate if they differ by less than the rounding error, or by
    less than the square root of the machine precision relative to the larger one: the symmetry of
    relaxed structures is rarely more exact.

    Args:
        eigenvalues: Eigenvalues, ascending, (3N,).
    """
    eps, size = torch.finfo(eigenvalues.dtype).eps, eigenvalues.abs()
    tolerance = eps**0.5 * torch.maximum(size, size.roll(1)) + EIGENVALUE_NOISE * eps * size.norm()
    return (eigenvalues.diff(prepend=eigenvalues[:1]) > tolerance).cumsum(0)


def is_gamma(q: Tensor) -> Tensor:
    """Return True for wave vectors (..., 3) that are reciprocal lattice vectors, (...)."""
    return ((q - q.round()).abs() < GAMMA_TOLERANCE).all(-1)


def vibrations_at_gamma(
    matrix: Tensor, masses: Tensor, positions: Tensor, **options: Any
) -> Tensor:
    """Compute the frequencies of D(0), without rigid motions, as a pure function.

    Args:
        matrix: Dynamical matrix at Gamma, eV/Å²/amu, (3N, 3N), real or complex.
        masses: Masses in amu, (N,).
        positions: Positions in Å, (N, 3).
        **options: Options of `vibrational_frequencies`.
    """
    sqrt_m = masses.sqrt().repeat_interleave(3)
    hessian = matrix.real * (sqrt_m[:, None] * sqrt_m)
    return vibrational_frequencies(hessian, masses, positions, **options)


def checked_q(phonons: Phonons, q: WaveVector) -> Tensor:
    """Convert a wave vector to the dtype and device of the phonons.

    Raises:
        ValueError: If its shape is not (3,), it is not finite, or it has a component along a
            direction that is not periodic.
    """
    return wave_vector(q, phonons.atoms.pbc.tolist(), phonons.masses)


def check_crystal(atoms: Atoms, what: str) -> None:
    """Raise an error if the structure is a molecule.

    Args:
        atoms: The structure.
        what: Name of the requested result, for the message.

    Raises:
        ValueError: If no direction is periodic.
    """
    if not atoms.pbc.any():
        raise ValueError(
            f"{what} needs a crystal, and the structure is not periodic in any direction: for the "
            "vibrations of a molecule call gamma_modes()"
        )


def warn_if_not_relaxed(phonons: Phonons) -> None:
    """Warn if the structure is far from relaxed.

    Warns:
        UserWarning: The largest force is above `LARGEST_FORCE`.
    """
    force = phonons.diagnostics.largest_force
    if force > LARGEST_FORCE:
        warnings.warn(
            f"the largest force is {force:.3g} eV/Å: the structure is not relaxed, and its "
            "harmonic frequencies mean little; relax it first",
            stacklevel=3,
        )
