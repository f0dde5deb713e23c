"""Stars: every atom of a cell, with copies of its neighbours that belong to it alone.

No two stars have anything in common. In a star, the neighbours are independent variables: their
positions, and the values that they send in each layer. Whatever a potential with edges computes for
the stars it therefore computes for each star separately, also the stars of atoms in other cells of
the crystal, which are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mace_functional.structure.graph import Graph
from mace_functional.structure.species import Species
from mace_functional.structure.topology import EdgeList


@dataclass(frozen=True, eq=False)
class Stars:
    """The stars of one cell; an `EdgeTopology`. The senders are the copies of the neighbours.

    Make one object for each evaluation of a potential: it notes what the nodes send.

    Attributes:
        graph: The graph of the cell.
        origin: Node that each copy is an image of, in ascending order, (copies,).
        edge: Edge of each copy, in the order of the flattened edges (nodes, K), (copies,).
        senders: Copy at the other end of each edge, (nodes, K).
        sender_species: Elements of the copies; static.
        received: Values of the copies in the first calls of `sent`. In further calls, the copies
            have the values of their nodes, as in the crystal.
        given: Values of the nodes in the calls of `sent`.
    """

    graph: Graph
    origin: Tensor
    edge: Tensor
    senders: Tensor
    sender_species: Species
    received: Sequence[Tensor] = ()
    given: list[Tensor] = field(default_factory=list)

    @classmethod
    def of(cls, graph: Graph) -> Stars:
        """Return the stars of a graph, which must have concrete values."""
        senders = graph.senders.cpu().numpy()
        edge = np.argsort(senders, axis=None, kind="stable")
        origin = senders.reshape(-1)[edge]
        first = np.cumsum([0, *graph.species.counts])
        counts = np.diff(np.searchsorted(origin, first))
        copies = np.argsort(edge).reshape(senders.shape)

        def tensor(array: np.ndarray) -> Tensor:
            return torch.as_tensor(array, device=graph.senders.device)

        species = graph.species._replace(counts=tuple(int(n) for n in counts))
        return cls(graph, tensor(origin), tensor(edge), tensor(copies), species)

    @property
    def species(self) -> Species:
        """Elements of the nodes."""
        return self.graph.species

    @property
    def features(self) -> dict[str, Tensor]:
        """Further input of the potential, such as "total_charge", the same in all cells."""
        return self.graph.features

    @property
    def order(self) -> Tensor:
        """Atom of each node, (nodes,)."""
        return self.graph.order

    @property
    def edge_mask(self) -> Tensor:
        """False for padding edges, (nodes, K)."""
        return self.graph.edge_mask

    def sent(self, values: Tensor) -> Tensor:
        """Return the values of the copies; see `received`."""
        number = len(self.given)
        self.given.append(values)
        if number < len(self.received):
            return self.received[number]
        return values.index_select(0, self.origin)

    def points_of_crystal(self, positions: Tensor, cell: Tensor) -> Tensor:
        """Return the positions of the points in the crystal, Å, (copies + nodes, 3).

        Args:
            positions: Positions of the atoms, Å, (atoms, 3).
            cell: Lattice vectors, Å, (3, 3).
        """
        nodes = positions.index_select(0, self.graph.order)
        shifts = self.graph.unit_shifts.flatten(0, 1).index_select(0, self.edge) @ cell
        return torch.cat([nodes.index_select(0, self.origin) - shifts, nodes])

    @property
    def edge_list(self) -> EdgeList:
        """The edges; the points are the copies, then the nodes, and need no shifts."""
        copies, nodes = len(self.origin), len(self.senders)
        receivers = torch.arange(copies, copies + nodes, device=self.senders.device)
        shifts = torch.zeros_like(self.graph.unit_shifts)
        return EdgeList(receivers, self.senders, shifts, self.edge_mask)

    def points(self, positions: Tensor) -> Tensor:
        """Return the positions of the points unchanged."""
        return positions

    def edge_vectors(self, positions: Tensor, cell: Tensor) -> Tensor:
        """Return the edge vectors, Å, (nodes, K, 3); (1, 1, 1) for padding.

        Args:
            positions: Positions of the points, Å, (copies + nodes, 3).
            cell: Unused: every copy has its own position.
        """
        return self.edge_list.vectors(positions, cell)

    def to_atoms(self, values: Tensor) -> Tensor:
        """Return the values of the nodes unchanged."""
        return values
