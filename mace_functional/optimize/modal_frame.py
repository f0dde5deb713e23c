"""The eigenvectors of a cheap model of the Hessian, without rigid motions.

Lowest modes are searched in this basis (`davidson`): the model K, mass-weighted, is diagonal in it,
and its spectrum is much the same as that of the exact Hessian.
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
    """Facts of a structure on which its modes depend, besides the Hessian.

    Attributes:
        pbc: Periodic directions.
        numbers: Atomic numbers, (N,); None if they are not known.
        parts: The connected parts, with rigid motions of their own.
        free: Orthonormal basis of the Cartesian displacements that are free, (3N, m); all if None.
    """

    pbc: Sequence[bool]
    numbers: Tensor | Sequence[int] | None
    parts: Parts
    free: np.ndarray | None


class ModalFrame(NamedTuple):
    """Eigenvectors and eigenvalues of K.

    Attributes:
        vectors: In mass-weighted Cartesian coordinates, orthonormal, (3N, n).
        stiffness: Eigenvalues, ascending and positive, eV/Å²/amu, (n,).
    """

    vectors: Tensor
    stiffness: Tensor


def modal_frame(
    op: HessianOperator, structure: FreeStructure, preconditioner: Tensor | None
) -> ModalFrame:
    """The eigenvectors of K among the free motions that are not rigid.

    Args:
        op: The exact Hessian, plain or mass-weighted.
        structure: The structure.
        preconditioner: K by positions, eV/Å², (3N, 3N); that of a valence force field if None.

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
    rest = _internal(op, positions, masses, cell, structure)
    weighted = rest / masses.sqrt().repeat_interleave(3)[:, None]
    k = symmetric(weighted.mT @ preconditioner.to(rest) @ weighted)
    stiffness, modes = torch.linalg.eigh(k)
    largest = float(stiffness[-1]) if len(stiffness) else 0.0
    stiffness = stiffness.clamp(min=FLOOR * largest if largest > 0 else 1.0)
    return ModalFrame(rest @ modes, stiffness)


def checked_product(op: HessianOperator, vectors: Tensor) -> Tensor:
    """H V in double precision, whatever the precision of the operator.

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
    """Orthonormal basis of the free motions without rigid ones, mass-weighted, (3N, n)."""
    root = masses.sqrt().repeat_interleave(3)

    def block(atoms: np.ndarray) -> np.ndarray:
        """The Hessian of some atoms by positions."""
        rows = torch.as_tensor((3 * atoms[:, None] + np.arange(3)).ravel(), device=root.device)
        units = torch.eye(len(root), dtype=root.dtype, device=root.device)[rows]
        columns = checked_product(op, units.mT)[rows]
        weights = torch.ones_like(root) if op.masses is None else root
        return as_array(weights[rows, None] * columns * weights[rows])

    space = None
    if structure.free is not None:
        free = torch.as_tensor(structure.free).to(root)
        space = torch.linalg.qr(root[:, None] * free).Q
    found = rigid_motions_of(
        as_array(positions),
        as_array(masses),
        as_array(cell),
        structure.parts,
        block=block if space is None else None,
        epsilon=torch.finfo(op.dtype).eps,
        free=None if space is None else as_array(space),
    )
    rigid = torch.as_tensor(found.basis).to(root)
    if space is None:
        return internal_motions(rigid)
    return space @ internal_motions(torch.linalg.qr(space.mT @ rigid).Q)
