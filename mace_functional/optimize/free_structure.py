"""A structure with the displacements that are free in it, and products of its Hessian."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from mace_functional.derivatives.hessian_operator import HessianOperator
from mace_functional.structure.arrays import as_array
from mace_functional.structure.connectivity import Parts
from mace_functional.structure.selection import Freedom


class FreeStructure(NamedTuple):
    """Data of a structure that determine its modes, besides the Hessian.

    Attributes:
        pbc: True for each periodic direction, (3,).
        numbers: Atomic numbers, (N,); None if they are not known.
        parts: Connected parts, each with its own rigid motions.
        free: Orthonormal basis of the free Cartesian displacements, (3N, m); None if all are free.
            Each column of a sparse one moves one atom.
    """

    pbc: Sequence[bool]
    numbers: Tensor | Sequence[int] | None
    parts: Parts
    free: np.ndarray | csr_array | None


def basis_of(free_space: Freedom) -> np.ndarray | csr_array | None:
    """Return the basis of the free displacements; sparse where each column can move one atom."""
    if free_space.whole:
        return None
    return free_space.basis() if free_space.sums.size else free_space.sparse_basis()


def dense_basis(basis: np.ndarray | csr_array) -> np.ndarray:
    """Return a basis as a dense matrix."""
    return basis if isinstance(basis, np.ndarray) else np.asarray(basis.toarray())


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


def hessian_block(op: HessianOperator, masses: Tensor) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function from the numbers of atoms to their Hessian by positions, eV/Å²."""
    weights = (torch.ones_like(masses) if op.masses is None else masses.sqrt()).repeat_interleave(3)

    def block(atoms: np.ndarray) -> np.ndarray:
        rows = torch.as_tensor((3 * atoms[:, None] + np.arange(3)).ravel(), device=masses.device)
        units = masses.new_zeros(len(weights), len(rows))
        units[rows, torch.arange(len(rows), device=rows.device)] = 1.0
        columns = checked_product(op, units)[rows]
        return as_array(weights[rows, None] * columns * weights[rows])

    return block
