"""What the layers need to know of the edges, in the padded layout: K neighbours for every node."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Edges(NamedTuple):
    """Geometry of the edges.

    Attributes:
        senders: Node at the other end, (nodes, K).
        mask: One for edges within the cutoff, zero for padding and beyond, (nodes, K, 1).
        harmonics: Spherical harmonics for each l, zero where masked, (nodes, K, 2l+1).
        radial: Radial basis functions, (nodes, K, basis).
        envelope: Cutoff function to multiply the radial weights by, (nodes, K, 1), or None where
            it is part of the radial basis.
    """

    senders: Tensor
    mask: Tensor
    harmonics: list[Tensor]
    radial: Tensor
    envelope: Tensor | None

    def enveloped(self, weights: Tensor) -> Tensor:
        """Radial weights times the cutoff function, where the basis does not hold it already."""
        return weights if self.envelope is None else weights * self.envelope
