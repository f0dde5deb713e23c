"""Columns of a Hessian from products in which uncoupled atoms are displaced together."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mace_functional.derivatives.hessian_products import HessianProducts
from mace_functional.parallel.vectors import map_of
from mace_functional.potential.protocol import Potential
from mace_functional.sparse.block_rows import BlockRows

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ase import Atoms

SLAB = 2**25
"""Largest size of the displacements that are made at once, bytes; at least three are made."""


def fill_by_products(
    rows: BlockRows,
    colours: np.ndarray,
    potential: Potential,
    atoms: Atoms,
    positions: Tensor,
    *,
    memory_budget: int | None,
    executor: Executor | None,
    advance: Callable[[int], None],
) -> None:
    """Compute the blocks of a pattern from three products for each colour.

    Args:
        rows: The matrix, zero so far.
        colours: Colour of each atom, (N,).
        potential: The potential.
        atoms: The structure.
        positions: Positions in Å, (N, 3).
        memory_budget: Bytes that a chunk of products may fill; a fraction of the free memory if
            None.
        executor: Executor whose workers share the products; None to compute in this process.
        advance: Called with the number of products that are finished.

    Raises:
        MemoryError: If a single product does not fit the budget.
        ChildProcessError: If the executor is broken, or its workers die again and again.
    """
    multiply = map_of(
        HessianProducts(potential, atoms),
        executor,
        memory_budget=memory_budget,
        device=positions.device,
    )
    members = np.split(np.argsort(colours, kind="stable"), np.cumsum(np.bincount(colours))[:-1])
    size = positions.element_size() * positions.numel()
    step, chunk = max(1, SLAB // (3 * size)), None
    remaining = iter(members)
    while slab := list(islice(remaining, step)):
        displacements = _displacements(slab, positions)
        products: list[Tensor] = []
        if chunk is None:
            first, chunk = multiply.measured(displacements)
            products.append(first)
            advance(len(first))
        with closing(multiply.mapped(displacements[2 * len(products) :].split(chunk))) as rest:
            for some in rest:
                products.append(some)
                advance(len(some))
        for same_colour, columns in zip(slab, torch.cat(products).split(3), strict=True):
            gradients = columns.detach().cpu().numpy()
            for atom in same_colour.tolist():
                rows.add_column(atom, gradients)


def _displacements(groups: list[np.ndarray], positions: Tensor) -> Tensor:
    """Return the displacements of each group of atoms along x, y and z, (3 groups, N, 3)."""
    displacements = positions.new_zeros(len(groups), 3, *positions.shape)
    for displaced, atoms in zip(displacements, groups, strict=True):
        for axis in range(3):
            displaced[axis, torch.as_tensor(atoms, device=positions.device), axis] = 1.0
    return displacements.flatten(0, 1)
