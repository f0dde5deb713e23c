r"""Group velocities, from the derivative of the dynamical matrix by the wave vector.

    d omega / dq = e^H (dD / dq) e / (2 omega)

Within a degenerate block e is not defined by D. It is chosen to diagonalise the block of
e^H (n.dD/dq) e for a direction n: these modes continue smoothly along n, and their slopes along it
are the eigenvalues of the block (Hellmann-Feynman theorem for degenerate states).

At Gamma the acoustic frequencies have a cusp, omega = c(n) |q|, and velocities depend on the
direction in which Gamma is left. Second-order perturbation theory gives the squared speeds of sound
as the eigenvalues of the matrix (Christoffel's)

    M(n) = A^T [ n.D''.n / 2 - (n.D') G (n.D') ] A

with the rigid motions A and the inverse G of D on all other motions, and velocities as the
gradients of c(n) |q|. All derivatives are exact, and none divides by a frequency of zero.

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
"""One sqrt(eV/amu), which is one sqrt(eV/Å²/amu) times Å, in each unit of velocity."""


def group_velocities(
    phonons: Phonons,
    q: Tensor | Sequence[float],
    *,
    direction: Sequence[float] | Tensor = (1.0, 2.0, 3.0),
    unit: str = "km/s",
) -> Tensor:
    """Group velocities of all modes at a wave vector.

    Args:
        phonons: From `phonons_of`.
        q: Wave vector in units of the reciprocal lattice vectors, (3,).
        direction: Cartesian, of any length, (3,): along it degenerate modes are told apart, and at
            Gamma it is the direction in which acoustic modes leave. The default lies in no plane
            of symmetry of a cubic crystal in its usual setting.
        unit: "km/s", "m/s" or "THz Å".

    Returns:
        d omega / dq, Cartesian, (3N, 3), in the order of the ascending frequencies; for imaginary
        modes the derivative of the negative frequency. A mode of frequency exactly zero,
        but for the acoustic ones at Gamma, gets zero.

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
    # Columns: what one Cartesian unit of the wave vector, 1/Å, is in reciprocal lattice vectors.
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
    """Squared frequencies and velocities from a matrix and its slopes: a pure function for `vmap`.

    Args:
        matrix: D, hermitian, (M, M), eV/Å²/amu.
        slopes: dD/dq, hermitian, (3, M, M), eV/Å/amu.
        direction: Along which degenerate modes are told apart, (3,).

    Returns:
        Eigenvalues (M,) in eV/Å²/amu, ascending, and d omega / dq (M, 3) in sqrt(eV/amu).
    """
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    slopes = vectors.mH @ slopes @ vectors
    along = torch.tensordot(direction.to(slopes.dtype), slopes, 1)
    blocks = degenerate_blocks(eigenvalues)
    # Blocks far apart on the diagonal: eigenvectors stay inside of them, in their order.
    inside = torch.where(blocks[:, None] == blocks, along, 0)
    apart = 1 + 2 * inside.norm()
    chosen = torch.linalg.eigh(inside + torch.diag(apart * blocks)).eigenvectors
    diagonal = (chosen.conj() * (slopes @ chosen)).sum(1).real
    zero = eigenvalues == 0
    root = torch.where(zero, 1.0, eigenvalues.abs()).sqrt()
    return eigenvalues, torch.where(zero, 0.0, diagonal / (2 * root)).mT


def _derivatives(phonons: Phonons, q: Tensor, to_lattice: Tensor) -> tuple[Tensor, Tensor]:
    """D and dD/dq along the three Cartesian directions, made hermitian."""
    found = [jvp(phonons.dynamical_matrix, (q,), (axis,)) for axis in to_lattice.mT]
    return _hermitian(found[0][0]), _hermitian(torch.stack([pair[1] for pair in found]))


def _with_rigid(phonons: Phonons, q: Tensor, n: Tensor, to_lattice: Tensor) -> Tensor:
    """Velocities of rigid motions that leave q along n, as acoustic modes, and of the others."""
    rigid = rigid_basis(phonons, q)
    internal = internal_motions(rigid)
    # Parts that move as a whole in all waves near by, along n, have no wave.
    moving = torch.as_tensor(~phonons.rigid.still(as_array(q), as_array(to_lattice @ n)))
    still, rigid = int((~moving).sum()), rigid[:, moving.to(rigid.device)]
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
    crossed = couplings.mH @ response
    # Twice Christoffel's matrix, as omega^2 = |q|^2 M and the gradient of M is linear in n.
    gradients = rigid.mH @ curvatures @ rigid - crossed - crossed.mH
    christoffel = torch.tensordot(n.to(gradients.dtype), gradients, 1) / 2
    _, acoustic = velocities_of(christoffel, gradients, n)

    acoustic = torch.cat([acoustic.new_zeros(still, 3), acoustic])
    order = torch.cat([optical.new_zeros(len(acoustic)), optical]).argsort(stable=True)
    return torch.cat([acoustic, velocities])[order]


def _hermitian(matrix: Tensor) -> Tensor:
    return (matrix + matrix.mH) / 2
