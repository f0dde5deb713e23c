"""Geometry of the edges in the padded layout, K edges for every node."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from mace_functional.mace.radial_embedding import RadialEmbedding
    from mace_functional.structure.species import Species


class Edges(NamedTuple):
    """Geometry of the edges. An edge leads from a sender, a node or its image, to a node.

    Attributes:
        senders: Sender of each edge, a row of the result of `sent`, (nodes, K).
        sent: Function from the features of all nodes to the features of all senders.
        species: Elements of the nodes.
        sender_species: Elements of the senders.
        mask: 1 for edges within the cutoff, 0 for longer edges and padding, (nodes, K, 1).
        lengths: Lengths of the edges, Å, (nodes, K, 1).
        harmonics: Spherical harmonics, 0 for masked edges, (nodes, K, (l_max+1)^2).
        embedding: Function from the lengths to the radial basis.
    """

    senders: Tensor
    sent: Callable[[Tensor], Tensor]
    species: Species
    sender_species: Species
    mask: Tensor
    lengths: Tensor
    harmonics: Tensor
    embedding: RadialEmbedding
