"""Rows of all periodic images of each pair of atoms."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mace_functional.structure.neighbours import Edges


class PairImages(NamedTuple):
    """Pairs of atoms, each listed once, with one row of periodic images for each pair.

    Attributes:
        first: Atom i of each row, (rows,).
        second: Atom j of each row, (rows,); it may equal i.
        unit_shifts: Shifts S of `r_ijS = x_i - x_j + S cell`, (3, rows, width).
        mask: False for padding, where a row has fewer images than others, (rows, width).
    """

    first: Tensor
    second: Tensor
    unit_shifts: Tensor
    mask: Tensor

    def between(self, positions: Tensor) -> Tensor:
        """Return `x_i - x_j` for each row, (rows, 3)."""
        return positions.index_select(0, self.first) - positions.index_select(0, self.second)

    def to_atoms(self, values: Tensor, atoms: int) -> Tensor:
        """Add the value of each row (rows,) to both of its atoms, (atoms,)."""
        sums = values.new_zeros(atoms)
        return sums.index_add(0, self.first, values).index_add(0, self.second, values)


def in_rows(edges: Edges, atoms: int, like: Tensor) -> PairImages:
    """Collect the images of each pair of atoms in a row.

    Args:
        edges: Result of a neighbour search, with every pair in both orders.
        atoms: Number of atoms.
        like: Tensor with the dtype and device to use.
    """
    first, second, shifts = edges
    # Of the images S and -S of one atom, keep the one whose first nonzero component is positive.
    positive = shifts @ np.array([10**10, 10**5, 1]) > 0
    kept = (first < second) | ((first == second) & positive)
    first, second, shifts = first[kept], second[kept], shifts[kept]
    pairs, row, counts = np.unique(first * atoms + second, return_inverse=True, return_counts=True)
    by_row = np.argsort(row, kind="stable")
    row, slot = row[by_row], np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = len(pairs), max(1, int(counts.max(initial=0)))
    unit_shifts, mask = np.zeros((3, *shape)), np.zeros(shape, dtype=bool)
    unit_shifts[:, row, slot] = shifts[by_row].T
    mask[row, slot] = True
    return PairImages(
        first=torch.as_tensor(pairs // atoms, device=like.device),
        second=torch.as_tensor(pairs % atoms, device=like.device),
        unit_shifts=torch.as_tensor(unit_shifts).to(like),
        mask=torch.as_tensor(mask, device=like.device),
    )
