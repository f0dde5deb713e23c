"""A piece of a crystal around some atoms, as large as the range of their force constants."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mace_functional.structure.graph import Graph
from mace_functional.structure.species import Species
from mace_functional.structure.topology import masked_edge_vectors


@dataclass(frozen=True, eq=False)
class Cluster:
    """Some atoms of a crystal, and all atoms that feel them or that they feel.

    An `EdgeTopology`: its senders are the images of atoms that belong to the cluster, its nodes
    those of them that receive. Atoms of the outermost shell only send, they are never nodes. They
    get the features of an isolated atom of their element. This is exact for the force constants of
    the atoms in the middle, because the features that they have in the crystal do not depend on the
    positions of these.

    Attributes:
        graph: The graph of one cell.
        atom: Atom of each image, (images,).
        cells: Cell of each image, (images, 3).
        own: Image that each node is, (nodes,); 0 for lone atoms.
        origin: Node that gives the features of each image, (images,).
        order: Atom of each node, (nodes,).
        senders: Image at the other end of each edge, (nodes, K).
        edge_mask: False for edges that only pad, (nodes, K).
        species: Elements of the nodes; static.
        sender_species: Elements of the images; static.
    """

    graph: Graph
    atom: Tensor
    cells: Tensor
    own: Tensor
    origin: Tensor
    order: Tensor
    senders: Tensor
    edge_mask: Tensor
    species: Species
    sender_species: Species

    @classmethod
    def around(cls, atoms: list[int], graph: Graph, layers: int) -> Cluster:
        """Unroll a crystal around atoms of the home cell.

        An atom changes what n layers make of the atoms within n steps, and these depend, through
        features that they receive within 2n - 1 steps, on the positions of atoms within 2n steps.

        Args:
            atoms: The atoms in the middle.
            graph: The graph of one cell; its values are read.
            layers: Number of layers n of the potential.
        """
        senders, mask = graph.senders.cpu().numpy(), graph.edge_mask.cpu().numpy()
        shifts = np.rint(graph.unit_shifts.cpu().numpy()).astype(int)
        # An image is one whole number, made of node and cell, and an edge adds another to it.
        reach = 2 * layers * int(np.abs(shifts).max())
        base = 2 * reach + 1
        powers = base ** np.arange(2, -1, -1)
        middle = reach * powers.sum()
        nodes = np.arange(len(senders))
        steps = ((senders - nodes[:, None]) * base**3 - shifts @ powers) * mask

        receivers = graph.inverse.cpu().numpy()[atoms] * base**3 + middle
        for _ in range(2 * layers - 1):
            receivers = _neighbours(receivers, steps, base)
        images = _neighbours(receivers, steps, base)
        node, cells = images // base**3, images[:, None] // powers % base - reach

        lone = len(receivers)
        kind = np.concatenate([receivers // base**3, nodes])
        by_node = np.argsort(kind, kind="stable")
        row = np.argsort(by_node)
        place = np.searchsorted(receivers, images).clip(max=lone - 1)
        receives = receivers[place] == images
        origin = np.where(receives, row[place], row[lone + node])
        own = np.append(np.searchsorted(images, receivers), np.zeros(len(nodes), dtype=int))
        sent = np.searchsorted(images, receivers[:, None] + steps[receivers // base**3])
        edges = mask[receivers // base**3]
        padding = np.zeros_like(senders)

        def species(nodes: np.ndarray) -> Species:
            first = np.cumsum([0, *graph.species.counts])
            counts = np.diff(np.searchsorted(nodes, first))
            return graph.species._replace(counts=tuple(int(n) for n in counts))

        def tensor(array: np.ndarray) -> Tensor:
            return torch.as_tensor(array, device=graph.senders.device)

        return cls(
            graph=graph,
            atom=graph.order[tensor(node)],
            cells=tensor(cells),
            own=tensor(own[by_node]),
            origin=tensor(origin),
            order=graph.order[tensor(kind[by_node])],
            senders=tensor(np.concatenate([sent, padding])[by_node]),
            edge_mask=tensor(np.concatenate([edges, padding.astype(bool)])[by_node]),
            species=species(kind[by_node]),
            sender_species=species(node),
        )

    @property
    def features(self) -> dict[str, Tensor]:
        """Extra features that the potential reads of atoms: the same in all cells."""
        return self.graph.features

    def sent(self, values: Tensor) -> Tensor:
        """Values of the images from values of the nodes."""
        return values.index_select(0, self.origin)

    def edge_vectors(self, positions: Tensor, cell: Tensor) -> Tensor:
        """Edge vectors in Å, (nodes, K, 3); (1, 1, 1) where padded.

        Args:
            positions: Of the images, Å, (images, 3).
            cell: Not needed: every image has its own position.
        """
        nodes = positions.index_select(0, self.own)
        return masked_edge_vectors(nodes, positions, self.senders, self.edge_mask)

    def to_atoms(self, values: Tensor) -> Tensor:
        """Values of the nodes, as they are."""
        return values


def _neighbours(images: np.ndarray, steps: np.ndarray, base: int) -> np.ndarray:
    """Images and what sends to them, in ascending order."""
    return np.unique(np.append(images, images[:, None] + steps[images // base**3]))
