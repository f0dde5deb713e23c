"""Bloch waves in the primitive cell: replicas of the cell at up to three phases of the wave.

A wave of wave vector q displaces atom k of cell R by `Re[u_k exp(i (phi + 2 pi q.R))]`. Cell R at
phase phi is identical to the home cell at phase `phi + 2 pi q.R`. The home cell at all phases
therefore represents the whole crystal. To first order in u, every quantity depends on the phase as
`a + b cos(phi) + c sin(phi)`. Its values at three phases determine its values at phases shifted by
theta:

    f(phi_m + theta) = sum_n T_mn(theta) f(phi_n),

    T_mn(theta) = (1 + 2 cos(phi_m - phi_n + theta)) / 3,        phi_m = 2 pi m / 3.

T maps constants to themselves. If `exp(2 pi i q.R)` is real for all R, so that q.R is a multiple of
1/2, two phases suffice: `T_mn = (1 + cos(phi_m - phi_n + theta)) / 2` with `phi_m = pi m`. At q = 0
one phase suffices.

T couples the replicas wherever an edge comes from another cell: in the positions of edge vectors,
and in the node features of every layer after the first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mace_functional.autodiff.concatenation import join
from mace_functional.structure.graph import Graph
from mace_functional.structure.species import Species
from mace_functional.structure.topology import EdgeList


@dataclass(frozen=True, eq=False)
class PhaseReplicas:
    """Replicas of a cell at up to three phases of a Bloch wave; an `EdgeTopology`.

    It has `replicas` times as many atoms as the cell. The senders are images of the nodes: one row
    for every node and every cell in which it is a neighbour.

    Attributes:
        graph: The graph of one cell.
        images: Images of the nodes of one cell.
        replicas: Number of phases, 1, 2 or 3; static.
        phases: Phase phi_m of each replica, (replicas,).
        mixing: Matrix T of each image, (images, replicas, replicas).
        senders: Image, in the same replica, at the other end of each edge, (nodes, K).
        edge_mask: False for padding edges, (nodes, K).
        order: Atom of the cell of each node, (nodes,).
    """

    graph: Graph
    images: NodeImages
    replicas: int
    phases: Tensor
    mixing: Tensor
    senders: Tensor
    edge_mask: Tensor
    order: Tensor

    @property
    def species(self) -> Species:
        """Elements of the nodes."""
        return self._times_replicas(self.graph.species.counts)

    @property
    def sender_species(self) -> Species:
        """Elements of the senders."""
        return self._times_replicas(self.images.counts)

    @property
    def features(self) -> dict[str, Tensor]:
        """Further input of the potential, such as "total_charge", the same for all replicas."""
        return self.graph.features

    def sent(self, values: Tensor) -> Tensor:
        """Return the values of the images: T times the values of the nodes in all replicas."""
        replicas = values.unflatten(0, (-1, self.replicas)).index_select(0, self.images.origin)
        return (self.mixing @ replicas.flatten(2)).view(-1, *values.shape[1:])

    @property
    def edge_list(self) -> EdgeList:
        """The edges; the points are the images of the nodes, then the nodes."""
        images = self.mixing.shape[0] * self.replicas
        nodes = torch.arange(images, images + len(self.order), device=self.order.device)
        shifts = self.graph.unit_shifts.repeat_interleave(self.replicas, 0)
        return EdgeList(nodes, self.senders, shifts, self.edge_mask)

    def points(self, positions: Tensor) -> Tensor:
        """Return the positions of the images in the home cell, and of the nodes, Å, (points, 3).

        Args:
            positions: Positions of the atoms in every replica, Å, (atoms, replicas, 3).
        """
        nodes = positions.index_select(0, self.graph.order).flatten(0, 1)
        return join([self.sent(nodes), nodes], 0)

    def edge_vectors(self, positions: Tensor, cell: Tensor) -> Tensor:
        """Return the edge vectors, Å, (nodes, K, 3); (1, 1, 1) for padding.

        Args:
            positions: Positions of the atoms in every replica, Å, (atoms, replicas, 3).
            cell: Lattice vectors in Å, (3, 3).
        """
        return self.edge_list.vectors(self.points(positions), cell)

    def to_atoms(self, values: Tensor) -> Tensor:
        """Return the values of the nodes (nodes,) in the order of the atoms, (atoms, replicas)."""
        return values.view(-1, self.replicas).index_select(0, self.graph.inverse)

    def _times_replicas(self, counts: tuple[int, ...]) -> Species:
        elements, numbers, _ = self.graph.species
        return Species(elements, numbers, tuple(n * self.replicas for n in counts))


@dataclass(frozen=True, eq=False)
class NodeImages:
    """Images of the nodes: one for every node and every cell in which it is a neighbour.

    Attributes:
        origin: Node of each image, in ascending order, (images,).
        unit_shifts: Unit shift S of each image, which lies in cell -S, (images, 3).
        image: Image at the other end of each edge, (nodes, K).
        counts: Number of images of each element; static.
    """

    origin: Tensor
    unit_shifts: Tensor
    image: Tensor
    counts: tuple[int, ...]

    @classmethod
    def of(cls, graph: Graph) -> NodeImages:
        """Find the images of a graph, which must have concrete values."""
        senders, mask = graph.senders.cpu().numpy(), graph.edge_mask.cpu().numpy()
        shifts = np.rint(graph.unit_shifts.cpu().numpy()).astype(int)
        pairs = np.concatenate([senders[mask][:, None], shifts[mask]], 1)
        images, index = np.unique(pairs, axis=0, return_inverse=True)
        if not len(images):  # padding edges point to the first image, so that there must be one
            images = np.zeros((1, 4), dtype=int)
        image = np.zeros(senders.shape, dtype=int)
        image[mask] = index.reshape(-1)
        first = np.cumsum([0, *graph.species.counts])
        counts = np.diff(np.searchsorted(images[:, 0], first))
        device = graph.senders.device
        return cls(
            origin=torch.as_tensor(images[:, 0].copy(), device=device),
            unit_shifts=torch.as_tensor(images[:, 1:].copy()).to(graph.unit_shifts),
            image=torch.as_tensor(image, device=device),
            counts=tuple(int(n) for n in counts),
        )

    def at(self, graph: Graph, q: Tensor, replicas: int) -> PhaseReplicas:
        """Return the replicas for a wave vector.

        Args:
            graph: The graph of one cell.
            q: Wave vector in units of the reciprocal lattice vectors, (3,).
            replicas: Number of phases, 1, 2 or 3.
        """
        replica = torch.arange(replicas, device=q.device)
        phases = 2 * math.pi / replicas * replica.to(q.dtype)
        theta = -2 * math.pi * (self.unit_shifts @ q)
        cosines = torch.cos(phases[:, None] - phases + theta[:, None, None])
        factor = {1: 0, 2: 1, 3: 2}[replicas]  # of the cosine in T
        return PhaseReplicas(
            graph=graph,
            images=self,
            replicas=replicas,
            phases=phases,
            mixing=(1 + factor * cosines) / replicas,
            senders=(self.image[:, None] * replicas + replica[:, None]).flatten(0, 1),
            edge_mask=graph.edge_mask.repeat_interleave(replicas, 0),
            order=graph.order.repeat_interleave(replicas),
        )
