"""Bloch waves in the primitive cell: replicas of the cell at a few phases of the wave.

A wave of wave vector q moves atom k of cell R by `Re[u_k exp(i (phi + 2 pi q.R))]`. Cell R at phase
phi looks like the home cell at phase `phi + 2 pi q.R`, so that one cell holds the whole crystal, if
it is known at every phase. To first order in u, everything depends on the phase as
`a + b cos(phi) + c sin(phi)`: its values at three phases say it all, and its values at phases
shifted by theta follow from them by

    T_mn(theta) = (1 + 2 cos(phi_m - phi_n + theta)) / 3,        phi_m = 2 pi m / 3,

which leaves constants alone. Where `exp(2 pi i q.R)` is real, with q.R a multiple of 1/2, two
phases do, `T_mn = (1 + cos(phi_m - phi_n + theta)) / 2` with `phi_m = pi m`; and at q = 0 one.

The replicas are coupled wherever an atom receives from another cell: positions in edge vectors, and
node features in every layer after the first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mace_functional.structure.graph import Graph
from mace_functional.structure.species import Species
from mace_functional.structure.topology import masked_edge_vectors


@dataclass(frozen=True, eq=False)
class PhaseReplicas:
    """A crystal in which replicas of the cell stand for the phases of a wave.

    An `EdgeTopology` with `replicas` times as many atoms as the cell. The senders are images of the
    nodes: a row for every pair of a node and a cell in which it is seen.

    Attributes:
        graph: The graph of one cell.
        images: Where its nodes are seen.
        replicas: 1, 2 or 3 phases; static.
        phases: Of the replicas, (replicas,).
        mixing: T for each image, (images, replicas, replicas).
        senders: Image, in the same replica, at the other end of each edge, (nodes, K).
        edge_mask: False for edges that only pad, (nodes, K).
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
        """Extra features that the potential reads of atoms: the same for all replicas."""
        return self.graph.features

    def sent(self, values: Tensor) -> Tensor:
        """Values of the images from values of the nodes: replicas mixed at shifted phases."""
        cells = values.unflatten(0, (-1, self.replicas)).index_select(0, self.images.origin)
        return (self.mixing @ cells.flatten(2)).view(-1, *values.shape[1:])

    def edge_vectors(self, positions: Tensor, cell: Tensor) -> Tensor:
        """Edge vectors in Å, (nodes, K, 3); (1, 1, 1) where padded.

        Args:
            positions: Of the atoms in every replica, Å, (atoms, replicas, 3).
            cell: Lattice vectors in Å, (3, 3).
        """
        nodes = positions.index_select(0, self.graph.order).flatten(0, 1)
        shifts = (self.images.unit_shifts @ cell).repeat_interleave(self.replicas, 0)
        sources = self.sent(nodes) - shifts
        return masked_edge_vectors(nodes, sources, self.senders, self.edge_mask)

    def to_atoms(self, values: Tensor) -> Tensor:
        """Values of the nodes (nodes,) in the order of the atoms, (atoms, replicas)."""
        return values.view(-1, self.replicas).index_select(0, self.graph.inverse)

    def _times_replicas(self, counts: tuple[int, ...]) -> Species:
        elements, numbers, _ = self.graph.species
        return Species(elements, numbers, tuple(n * self.replicas for n in counts))


@dataclass(frozen=True, eq=False)
class NodeImages:
    """Every node in every cell in which it is seen.

    Attributes:
        origin: Node of each image, in ascending order, (images,).
        unit_shifts: S of the image, which sits in cell -S, (images, 3).
        image: Image at the other end of each edge, (nodes, K).
        counts: Images of each element; static.
    """

    origin: Tensor
    unit_shifts: Tensor
    image: Tensor
    counts: tuple[int, ...]

    @classmethod
    def of(cls, graph: Graph) -> NodeImages:
        """Find the images; the values of the graph are read."""
        senders, mask = graph.senders.cpu().numpy(), graph.edge_mask.cpu().numpy()
        shifts = np.rint(graph.unit_shifts.cpu().numpy()).astype(int)
        pairs = np.concatenate([senders[mask][:, None], shifts[mask]], 1)
        images, which = np.unique(pairs, axis=0, return_inverse=True)
        if not len(images):  # edges that only pad point to the first image
            images = np.zeros((1, 4), dtype=int)
        image = np.zeros(senders.shape, dtype=int)
        image[mask] = which.reshape(-1)
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
        """The graph of a wave.

        Args:
            graph: The graph of one cell.
            q: Wave vector in units of the reciprocal lattice vectors, (3,).
            replicas: 1, 2 or 3 phases.
        """
        replica = torch.arange(replicas, device=q.device)
        phases = 2 * math.pi / replicas * replica.to(q.dtype)
        theta = -2 * math.pi * (self.unit_shifts @ q)
        waves = torch.cos(phases[:, None] - phases + theta[:, None, None])
        harmonics = {1: 0, 2: 1, 3: 2}[replicas]
        return PhaseReplicas(
            graph=graph,
            images=self,
            replicas=replicas,
            phases=phases,
            mixing=(1 + harmonics * waves) / replicas,
            senders=(self.image[:, None] * replicas + replica[:, None]).flatten(0, 1),
            edge_mask=graph.edge_mask.repeat_interleave(replicas, 0),
            order=graph.order.repeat_interleave(replicas),
        )
