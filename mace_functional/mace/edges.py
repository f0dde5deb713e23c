"""What the layers need to know of the edges, in the padded layout: K neighbours for every node."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from mace_functional.mace.radial_embedding import RadialEmbedding
    from mace_functional.structure.species import Species


class Edges(NamedTuple):
    """Geometry of the edges.

    Attributes:
        senders: What is at the other end, (nodes, K), as a row of what `sent` gives.
        sent: From features of the nodes to those of what sends, which may be images of nodes.
        species: Elements of the nodes.
        sender_species: Elements of what sends.
        mask: One for edges within the cutoff, zero for padding and beyond, (nodes, K, 1).
        lengths: Å, (nodes, K, 1).
        harmonics: Spherical harmonics, zero where masked, (nodes, K, (l_max+1)^2).
        embedding: Makes the radial basis from the lengths.
    """

    senders: Tensor
    sent: Callable[[Tensor], Tensor]
    species: Species
    sender_species: Species
    mask: Tensor
    lengths: Tensor
    harmonics: Tensor
    embedding: RadialEmbedding
