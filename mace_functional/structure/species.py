"""Elements of the nodes of a graph, and gathering of values along edges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Species(NamedTuple):
    """Elements of the nodes, which are sorted by element: `counts[k]` nodes of element k; static.

    Attributes:
        elements: Row of each element in the tables of the potential.
        numbers: Atomic number of each element.
        counts: Number of nodes of each element.
    """

    elements: tuple[int, ...]
    numbers: tuple[int, ...]
    counts: tuple[int, ...]

    def repeated(self, count: int) -> Species:
        """Return the elements of the nodes of several such structures, one after the other."""
        return Species(count * self.elements, count * self.numbers, count * self.counts)

    def expand(self, rows: Tensor) -> Tensor:
        """Repeat the values of the elements (elements, ...) for their nodes (nodes, ...)."""
        pairs = zip(rows.unbind(), self.counts, strict=True)
        return torch.cat([row.expand(n, *row.shape) for row, n in pairs])

    def atomic_numbers(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return the atomic numbers of the nodes, (nodes,)."""
        pairs = zip(self.numbers, self.counts, strict=True)
        return torch.cat([torch.full((n,), z, dtype=dtype, device=device) for z, n in pairs])


def rows_at(table: Tensor, rows: Sequence[int]) -> Tensor:
    """Return rows of a table, one by one: indexing by a list would wait for a GPU."""
    return torch.stack([table[row] for row in rows])


def gather(nodes: Tensor, senders: Tensor) -> Tensor:
    """Return the values of the sender of each edge, (nodes, K, ...), from nodes (nodes, ...)."""
    return nodes.index_select(0, senders.reshape(-1)).view(*senders.shape, *nodes.shape[1:])
