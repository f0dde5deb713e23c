"""Pairs of atoms with all their periodic images, and sums over the images.

A pair of atoms has many images, but in one cell they move as one: the sum over them is a function
of three numbers, `x_i - x_j`. Its derivatives by these are computed once and kept, so that a column
of the Hessian costs as much as if each pair had one image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mace_functional.engine.jets import Jet, jet_of
from mace_functional.engine.local import LocalFunction
from mace_functional.neighbours import Edges


class Images(NamedTuple):
    """Pairs of atoms, each once, in rows with all their periodic images.

    Attributes:
        first: Atom i of each row, (rows,).
        second: Atom j, (rows,); may be i itself.
        unit_shifts: `r_ij = x_i - x_j + S_ij cell`, (3, rows, width).
        mask: False where a row has fewer images than others, (rows, width).
    """

    first: Tensor
    second: Tensor
    unit_shifts: Tensor
    mask: Tensor

    def between(self, positions: Tensor) -> Tensor:
        """`x_i - x_j` of the rows, (rows, 3)."""
        return positions.index_select(0, self.first) - positions.index_select(0, self.second)

    def to_atoms(self, values: Tensor, atoms: int) -> Tensor:
        """Values of the rows (rows,), summed at both ends (atoms,)."""
        sums = values.new_zeros(atoms)
        return sums.index_add(0, self.first, values).index_add(0, self.second, values)


class ImageSum(LocalFunction):
    """`y = sum_S g(|x + S cell|^2)` over the images S within a cutoff.

    Called with `x = x_i - x_j` (rows, 3) and the cell (3, 3), it gives (rows, 1).

    Args:
        images: The rows.
        radial: g, a function of squared distances (rows, width).
        cutoff: Å; images at larger distances are left out.
    """

    def __init__(self, images: Images, radial: Callable[[Tensor], Tensor], cutoff: float) -> None:
        self.images, self.radial, self.cutoff = images, radial, cutoff

    def value(self, x: Tensor, *rest: Tensor) -> Tensor:
        """The sums, (rows, 1)."""
        return self._jet(x, *rest, order=0)[1][0].sum(-1, keepdim=True)

    def jacobian(self, x: Tensor, *rest: Tensor) -> Tensor:
        """`sum_S 2 g' r`, (rows, 1, 3)."""
        return self.linearised(x, *rest)[1]

    def linearised(self, x: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        """Value and Jacobian."""
        vectors, (g, slope) = self._jet(x, *rest, order=1)
        return g.sum(-1, keepdim=True), 2 * (slope * vectors).sum(-1).T[:, None]

    def curvature(self, cotangent: Tensor, x: Tensor, *rest: Tensor) -> Tensor:
        """`sum_S 4 g'' r r^T + 2 g' 1`, times the cotangent, (rows, 3, 3)."""
        vectors, (_, slope, bend) = self._jet(x, *rest, order=2)
        along = (bend * vectors).transpose(0, 1) @ vectors.permute(1, 2, 0)
        across = slope.sum(-1)[:, None, None] * torch.eye(3, dtype=x.dtype, device=x.device)
        return cotangent[..., None] * (4 * along + 2 * across)

    def _jet(self, x: Tensor, cell: Tensor, *, order: int) -> tuple[Tensor, Jet]:
        """Vectors of the images (3, rows, width), and `[g, g', ...]` of each."""
        unit_shifts = self.images.unit_shifts
        shifts = (cell.T @ unit_shifts.flatten(1)).view(unit_shifts.shape)
        vectors = x.T[..., None] + shifts
        squared = (vectors * vectors).sum(0)
        inside = self.images.mask & (squared <= self.cutoff**2)
        harmless = torch.where(inside, squared, torch.full_like(squared, self.cutoff**2))
        return vectors, [g * inside for g in jet_of(self.radial, harmless, order)]


def in_rows(edges: Edges, atoms: int, like: Tensor) -> Images:
    """Collect the images of each pair of atoms in a row.

    Args:
        edges: Of a neighbour search: every pair from both ends.
        atoms: Their number.
        like: Gives dtype and device.

    Returns:
        The rows.
    """
    first, second, shifts = edges
    # Of the images S and -S of one atom, the one that points forward.
    forward = shifts @ np.array([10**10, 10**5, 1]) > 0
    once = (first < second) | ((first == second) & forward)
    first, second, shifts = first[once], second[once], shifts[once]
    pairs, row, counts = np.unique(first * atoms + second, return_inverse=True, return_counts=True)
    by_row = np.argsort(row, kind="stable")
    row, slot = row[by_row], np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = len(pairs), max(1, int(counts.max(initial=0)))
    unit_shifts, mask = np.zeros((3, *shape)), np.zeros(shape, dtype=bool)
    unit_shifts[:, row, slot] = shifts[by_row].T
    mask[row, slot] = True
    return Images(
        first=torch.as_tensor(pairs // atoms, device=like.device),
        second=torch.as_tensor(pairs % atoms, device=like.device),
        unit_shifts=torch.as_tensor(unit_shifts).to(like),
        mask=torch.as_tensor(mask, device=like.device),
    )
