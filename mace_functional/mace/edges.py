"""Edges of a structure: what the blocks of a layer read of the geometry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from mace_functional.mace.edge_geometry import EdgeLengths
from mace_functional.mace.waves import sent_as_waves

if TYPE_CHECKING:
    from collections.abc import Callable

    from mace_functional.mace.edge_coordinates import EdgeCoordinates
    from mace_functional.mace.radial_embedding import RadialEmbedding
    from mace_functional.structure.species import Species
    from mace_functional.structure.topology import EdgeList


@dataclass(frozen=True, eq=False)
class Edges:
    """Edges of a structure. An edge leads from a sender, a node or its image, to a node.

    Attributes:
        edge_list: The edges, between points.
        points: Positions of the points, Å, (points, 3).
        cell: Lattice vectors, Å, (3, 3).
        sent: Function from the features of all nodes to the features of all senders.
        species: Elements of the nodes.
        sender_species: Elements of the senders.
        embedding: Function from the lengths to the radial basis.
        coordinates: Lengths and harmonics as a function of points and cell.
    """

    edge_list: EdgeList
    points: Tensor
    cell: Tensor
    sent: Callable[[Tensor], Tensor]
    species: Species
    sender_species: Species
    embedding: RadialEmbedding
    coordinates: EdgeCoordinates

    @property
    def senders(self) -> Tensor:
        """Sender of each edge, (nodes, K)."""
        return self.edge_list.senders

    @property
    def r_max(self) -> Tensor:
        """Cutoff radius, Å, ()."""
        return self.embedding.cutoff_fn.r_max

    def lengths(self) -> tuple[Tensor, Tensor]:
        """Compute the lengths, Å, and a mask of edges within the cutoff, (nodes, K, 1) each."""
        edges, points = self.edge_list, self.points
        if edges.factors is None:
            vectors = edges.vectors(points, self.cell)
        else:
            senders = sent_as_waves(points, edges.senders, edges.factors)
            vectors = edges.from_senders(points, senders, self.cell)
        lengths = EdgeLengths()(vectors)
        mask = (lengths < self.r_max) & edges.mask[..., None]
        return lengths, mask.to(lengths.dtype)
