"""Eigenvectors of a model of the Hessian, without rigid motions.

They are the basis in which lowest modes are searched (`davidson`). The mass-weighted model K is
diagonal in it, and its spectrum is similar to that of the exact Hessian.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mace_functional.derivatives.hessian_operator import HessianOperator
from mace_functional.optimize.davidson import FLOOR, symmetric
from mace_functional.optimize.valence_hessian import valence_hessian
from mace_functional.structure.arrays import as_array
from mace_functional.structure.connectivity import Parts
from mace_functional.vibrations.rigid import internal_motions, rigid_motions_of


class FreeStructure(NamedTuple):
    """Data of a structure that determine its modes, besides the Hessian.

    Attributes:
        pbc: True for each periodic direction, (3,).
        numbers: Atomic numbers, (N,); None if they are not known.
        parts: Connected parts, each with its own rigid motions.
        free: Orthonormal basis of the free Cartesian displacements, (3N, m); None if all are free.
    """

    pbc: Sequence[bool]
    numbers: Tensor | Sequence[int] | None
    parts: Parts
    free: np.ndarray | None


class ModalFrame(NamedTuple):
    """Eigenvectors and eigenvalues of the model K.

    Attributes:
        vectors: Orthonormal eigenvectors in mass-weighted Cartesian coordinates, (3N, n).
        stiffness: Eigenvalues, ascending and positive, eV/Å²/amu, (n,).
    """

    vectors: Tensor
    stiffness: Tensor


def modal_frame(
    op: HessianOperator, structure: FreeStructure, preconditioner: Tensor | None
) -> ModalFrame:
    """Compute the eigenvectors of K among the free motions, without rigid motions.

    Args:
        op: The exact Hessian, plain or mass-weighted.
        structure: The structure.
        preconditioner: Model K by positions, eV/Å², (3N, 3N); None for a valence force field.

    Raises:
        ValueError: If neither K nor the atomic numbers are given, or K does not fit.
    """
    positions, cell = op.positions.detach().double(), op.cell.detach().double()
    if preconditioner is None:
        if structure.numbers is None:
            raise ValueError("give the atomic numbers, or a preconditioner")
        preconditioner = valence_hessian(positions, cell, structure.numbers, structure.pbc)
    if preconditioner.shape != op.shape:
        raise ValueError(
            f"the preconditioner must be {tuple(op.shape)}, not {tuple(preconditioner.shape)}"
        )
    if not preconditioner.isfinite().all():
        raise ValueError("the preconditioner has entries that are not finite")
    masses = torch.ones_like(positions[:, 0]) if op.masses is None else op.masses.detach().double()
    internal = _internal(op, positions, masses, cell, structure)
    displacements = internal / masses.sqrt().repeat_interleave(3)[:, None]
    k = symmetric(displacements.mT @ preconditioner.to(internal) @ displacements)
    stiffness, modes = torch.linalg.eigh(k)
    largest = float(stiffness[-1]) if len(stiffness) else 0.0
    stiffness = stiffness.clamp(min=FLOOR * largest if largest > 0 else 1.0)
    return ModalFrame(internal @ modes, stiffness)


def checked_product(op: HessianOperator, vectors: Tensor) -> Tensor:
    """Compute H V in double precision, whatever the precision of the operator.

    Raises:
        ArithmeticError: If it is not finite.
    """
    image = (op @ vectors.to(op.dtype)).detach()
    if not image.isfinite().all():
        raise ArithmeticError(
            "a product of the Hessian has entries that are not finite: look for atoms on top of "
            "each other, NaN in positions or cell, overflow in low precision"
        )
    return image.double()


def _internal(
    op: HessianOperator, positions: Tensor, masses: Tensor, cell: Tensor, structure: FreeStructure
) -> Tensor:
    """Return an orthonormal basis of the free internal motions, mass-weighted, (3N, n)."""
    sqrt_m = masses.sqrt().repeat_interleave(3)

    def block(atoms: np.ndarray) -> np.ndarray:
        """Compute the Hessian of some atoms by positions."""
        rows = torch.as_tensor((3 * atoms[:, None] + np.arange(3)).ravel(), device=sqrt_m.device)
        units = torch.eye(len(sqrt_m), dtype=sqrt_m.dtype, device=sqrt_m.device)[rows]
        columns = checked_product(op, units.mT)[rows]
        weights = torch.ones_like(sqrt_m) if op.masses is None else sqrt_m
        return as_array(weights[rows, None] * columns * weights[rows])

    free_basis = None
    if structure.free is not None:
        free = torch.as_tensor(structure.free).to(sqrt_m)
        free_basis = torch.linalg.qr(sqrt_m[:, None] * free).Q
    motions = rigid_motions_of(
        as_array(positions),
        as_array(masses),
        as_array(cell),
        structure.parts,
        block=block if free_basis is None else None,
        epsilon=torch.finfo(op.dtype).eps,
        free=None if free_basis is None else as_array(free_basis),
    )
    rigid = torch.as_tensor(motions.basis).to(sqrt_m)
    if free_basis is None:
        return internal_motions(rigid)
    return free_basis @ internal_motions(torch.linalg.qr(free_basis.mT @ rigid).Q)
