"""Elements of the nodes of a graph, and values of the nodes at the other end of edges."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Species(NamedTuple):
    """Which elements the nodes are: `counts[k]` nodes of element k, in this order; static.

    Attributes:
        elements: Rows of the elements in the tables of the potential.
        numbers: Atomic numbers.
        counts: Number of nodes of each.
    """

    elements: tuple[int, ...]
    numbers: tuple[int, ...]
    counts: tuple[int, ...]

    def expand(self, rows: Tensor) -> Tensor:
        """Values of the elements (elements, ...), repeated for their nodes (nodes, ...)."""
        pairs = zip(rows.unbind(), self.counts, strict=True)
        return torch.cat([row.expand(n, *row.shape) for row, n in pairs])


def gather(nodes: Tensor, senders: Tensor) -> Tensor:
    """Values of the senders: (nodes, ...) to (nodes, K, ...)."""
    return nodes.index_select(0, senders.reshape(-1)).view(*senders.shape, *nodes.shape[1:])
