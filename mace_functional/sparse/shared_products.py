"""Columns of a Hessian from products in which uncoupled atoms are displaced together."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.func import grad, vjp, vmap

from mace_functional.autodiff.columns import measured
from mace_functional.sparse.block_rows import BlockRows

SLAB = 2**25
"""Largest size of the displacements that are made at once, bytes; at least three are made."""


def fill_by_products(
    rows: BlockRows,
    colours: np.ndarray,
    energy: Callable[[Tensor], Tensor],
    positions: Tensor,
    *,
    memory_budget: int | None,
    advance: Callable[[int], None],
) -> None:
    """Compute the blocks of a pattern from three products for each colour.

    Args:
        rows: The matrix, zero so far.
        colours: Colour of each atom, (N,).
        energy: Energy of the positions, eV.
        positions: Positions in Å, (N, 3).
        memory_budget: Bytes that a chunk of products may fill; a fraction of the free memory if
            None.
        advance: Called with the number of products that are finished.

    Raises:
        MemoryError: If a single product does not fit the budget.
    """
    pull_back = vjp(grad(energy), positions)[1]
    apply = vmap(lambda u: pull_back(u)[0])
    members = np.split(np.argsort(colours, kind="stable"), np.cumsum(np.bincount(colours))[:-1])
    size = positions.element_size() * positions.numel()
    step, chunk = max(1, SLAB // (3 * size)), None
    remaining = iter(members)
    while slab := list(islice(remaining, step)):
        displacements = _displacements(slab, positions)
        products: list[Tensor] = []
        if chunk is None:
            for product, fitting in measured(apply, displacements, memory_budget):
                products.append(product)
                chunk = fitting
                advance(1)
        for part in displacements[len(products) :].split(chunk or 1):
            products.append(apply(part))
            advance(len(part))
        for atoms, columns in zip(slab, torch.cat(products).split(3), strict=True):
            gradients = columns.detach().cpu().numpy()
            for atom in atoms.tolist():
                rows.add_column(atom, gradients)


def _displacements(groups: list[np.ndarray], positions: Tensor) -> Tensor:
    """Return the displacements of each group of atoms along x, y and z, (3 groups, N, 3)."""
    displacements = positions.new_zeros(len(groups), 3, *positions.shape)
    for displaced, atoms in zip(displacements, groups, strict=True):
        for axis in range(3):
            displaced[axis, torch.as_tensor(atoms, device=positions.device), axis] = 1.0
    return displacements.flatten(0, 1)
