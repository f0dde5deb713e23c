"""What the layers need to know of the edges, in the padded layout: K neighbours for every node."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from mace_functional.engine.radial import RadialEmbedding


class Edges(NamedTuple):
    """Geometry of the edges.

    Attributes:
        senders: Node at the other end, (nodes, K).
        mask: One for edges within the cutoff, zero for padding and beyond, (nodes, K, 1).
        lengths: Å, (nodes, K, 1).
        harmonics: Spherical harmonics, zero where masked, (nodes, K, (l_max+1)^2).
        embedding: Makes the radial basis from the lengths.
    """

    senders: Tensor
    mask: Tensor
    lengths: Tensor
    harmonics: Tensor
    embedding: RadialEmbedding
