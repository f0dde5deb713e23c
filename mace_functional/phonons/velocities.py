r"""Group velocities, from the derivative of the dynamical matrix by the wave vector.

    d omega / dq = e^H (dD / dq) e / (2 omega)

In a degenerate block, D does not determine e. It is chosen to diagonalise e^H (n.dD/dq) e within
the block, for a direction n. These modes continue smoothly along n, and their slopes along n are
the eigenvalues of the block (Hellmann-Feynman theorem for degenerate states).

At Gamma the acoustic frequencies have a cusp, omega = c(n) |q|, and velocities depend on the
direction n from Gamma. By second-order perturbation theory, the squared speeds of sound are the
eigenvalues of the Christoffel matrix

    M(n) = A^T [ n.D''.n / 2 - (n.D') G (n.D') ] A

with the rigid motions A and the inverse G of D on all other motions. Velocities are the gradients
of c(n) |q|. All derivatives are exact, and none divides by a frequency of zero.

Source: Born, Huang, *Dynamical Theory of Crystal Lattices* (1954), sections 26 and 27.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mace_functional.autodiff.concrete import refuse_transforms
from mace_functional.autodiff.forward_mode import jvp
from mace_functional.phonons.modes import (
    WITH_DERIVATIVES,
    check_crystal,
    checked_q,
    degenerate_blocks,
    rigid_basis,
    warn_if_not_relaxed,
)
from mace_functional.structure.arrays import as_array
from mace_functional.units import ANGULAR_FREQUENCY
from mace_functional.vibrations.rigid import internal_motions

if TYPE_CHECKING:
    from mace_functional.phonons.phonons import Phonons

VELOCITY_UNITS: dict[str, float] = {
    "km/s": ANGULAR_FREQUENCY * 1e-13,
    "m/s": ANGULAR_FREQUENCY * 1e-10,
    "THz Å": ANGULAR_FREQUENCY * 1e-12,
}
"""Factors from sqrt(eV/amu), the unit of sqrt(eV/Å²/amu) times Å, to each unit of velocity."""


def group_velocities(
    phonons: Phonons,
    q: Tensor | Sequence[float],
    *,
    direction: Sequence[float] | Tensor = (1.0, 2.0, 3.0),
    unit: str = "km/s",
) -> Tensor:
    """Compute the group velocities of all modes at a wave vector.

    Args:
        phonons: Phonons of `phonons_of`.
        q: Wave vector in units of the reciprocal lattice vectors, (3,).
        direction: Cartesian direction n, of any length, (3,). It splits degenerate modes, and at
            Gamma the acoustic velocities are for q along n. The default lies in no mirror plane of
            a cubic crystal in its usual setting.
        unit: Unit of the velocities: "km/s", "m/s" or "THz Å".

    Returns:
        Cartesian d omega / dq in `unit`, (3N, 3), in the order of the ascending frequencies; for
        imaginary modes the derivative of the negative frequency. A mode of frequency exactly zero,
        other than the acoustic ones at Gamma, has velocity zero.

    Raises:
        ValueError: If the structure is a molecule, q or the direction have the wrong shape, the
            direction has no component along which the crystal is periodic, or the unit is unknown.

    Warns:
        UserWarning: The structure is far from relaxed.
    """
    if unit not in VELOCITY_UNITS:
        raise ValueError(
            f"unknown unit of velocity {unit!r}: choose one of {', '.join(VELOCITY_UNITS)}"
        )
    refuse_transforms(
        "group_velocities", f"{WITH_DERIVATIVES} or velocities_of", phonons.masses, q, direction
    )
    check_crystal(phonons.atoms, "a group velocity")
    warn_if_not_relaxed(phonons)
    q = checked_q(phonons, q)
    n = torch.as_tensor(direction, dtype=q.dtype, device=q.device)
    # The columns are the Cartesian unit vectors, 1/Å, in units of reciprocal lattice vectors.
    periodic = torch.as_tensor(phonons.atoms.pbc, device=q.device)
    to_lattice = torch.as_tensor(phonons.atoms.cell.array).to(q) / (2 * math.pi)
    to_lattice = to_lattice * periodic[:, None]
    if n.shape != (3,) or not n.isfinite().all() or not (to_lattice @ n).norm() > 0:
        raise ValueError(
            f"the direction must be three numbers, with a component along which the crystal is "
            f"periodic (pbc {periodic.tolist()}), not {direction!r}"
        )
    n = n / n.norm()
    if rigid_basis(phonons, q).shape[1]:
        velocities = _with_rigid(phonons, q, n, to_lattice)
    else:
        matrix, slopes = _derivatives(phonons, q, to_lattice)
        _, velocities = velocities_of(matrix, slopes, n)
    return VELOCITY_UNITS[unit] * velocities


def velocities_of(matrix: Tensor, slopes: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Compute squared frequencies and velocities from D and dD/dq: a pure function for `vmap`.

    Args:
        matrix: Dynamical matrix D, hermitian, eV/Å²/amu, (M, M).
        slopes: Derivatives dD/dq, hermitian, eV/Å/amu, (3, M, M).
        direction: Direction n that splits degenerate modes, (3,).

    Returns:
        Eigenvalues in eV/Å²/amu, ascending, (M,), and d omega / dq in sqrt(eV/amu), (M, 3).
    """
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    slopes = vectors.mH @ slopes @ vectors
    slopes_n = torch.tensordot(direction.to(slopes.dtype), slopes, 1)
    blocks = degenerate_blocks(eigenvalues)
    # The shift separates the blocks, so that eigenvectors lie within blocks, in their order.
    within_blocks = torch.where(blocks[:, None] == blocks, slopes_n, 0)
    separation = 1 + 2 * within_blocks.norm()
    e = torch.linalg.eigh(within_blocks + torch.diag(separation * blocks)).eigenvectors
    diagonal = (e.conj() * (slopes @ e)).sum(1).real
    zero = eigenvalues == 0
    abs_omega = torch.where(zero, 1.0, eigenvalues.abs()).sqrt()
    return eigenvalues, torch.where(zero, 0.0, diagonal / (2 * abs_omega)).mT


def _derivatives(phonons: Phonons, q: Tensor, to_lattice: Tensor) -> tuple[Tensor, Tensor]:
    """Return D and its derivatives along the three Cartesian directions, made hermitian."""
    pairs = [jvp(phonons.dynamical_matrix, (q,), (axis,)) for axis in to_lattice.mT]
    return _hermitian(pairs[0][0]), _hermitian(torch.stack([pair[1] for pair in pairs]))


def _with_rigid(phonons: Phonons, q: Tensor, n: Tensor, to_lattice: Tensor) -> Tensor:
    """Compute velocities at a q with rigid motions; those that leave q along n are acoustic."""
    rigid = rigid_basis(phonons, q)
    internal = internal_motions(rigid)
    # Motions that stay rigid along n have no dispersion: their velocity is zero.
    acoustic_mask = torch.as_tensor(~phonons.rigid.still(as_array(q), as_array(to_lattice @ n)))
    n_still, rigid = int((~acoustic_mask).sum()), rigid[:, acoustic_mask.to(rigid.device)]
    matrix, slopes = _derivatives(phonons, q, to_lattice)
    rigid, internal = rigid.to(matrix.dtype), internal.to(matrix.dtype)
    optical, velocities = velocities_of(
        internal.mH @ matrix @ internal, internal.mH @ slopes @ internal, n
    )

    def along_n(q: Tensor) -> Tensor:
        return jvp(phonons.dynamical_matrix, (q,), (to_lattice @ n,))[1]

    curvatures = _hermitian(torch.stack([jvp(along_n, (q,), (axis,))[1] for axis in to_lattice.mT]))
    couplings = internal.mH @ slopes @ rigid  # (3, 3N - r, r)
    coupling = torch.tensordot(n.to(couplings.dtype), couplings, 1)
    response = torch.linalg.solve(internal.mH @ matrix @ internal, coupling)
    coupling_term = couplings.mH @ response
    # omega^2 = |q|^2 M(n) is quadratic in q. Its gradient is linear in n, and n.gradient / 2 = M.
    gradients = rigid.mH @ curvatures @ rigid - coupling_term - coupling_term.mH
    christoffel = torch.tensordot(n.to(gradients.dtype), gradients, 1) / 2
    _, acoustic = velocities_of(christoffel, gradients, n)

    acoustic = torch.cat([acoustic.new_zeros(n_still, 3), acoustic])
    order = torch.cat([optical.new_zeros(len(acoustic)), optical]).argsort(stable=True)
    return torch.cat([acoustic, velocities])[order]


def _hermitian(matrix: Tensor) -> Tensor:
    return (matrix + matrix.mH) / 2
