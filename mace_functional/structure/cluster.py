"""Clusters: some atoms of a crystal, and all atoms within the range of their force constants."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mace_functional.structure.graph import Graph
from mace_functional.structure.species import Species
from mace_functional.structure.topology import EdgeList


@dataclass(frozen=True, eq=False)
class Cluster:
    """Central atoms in a crystal, and all atoms that interact with them; an `EdgeTopology`.

    The senders are the images of atoms that belong to the cluster. The nodes are the images that
    also receive, and isolated atoms: one of each element, or one of each atom of the cell if the
    potential reads features of atoms. Atoms of the outermost shell are senders only.
    They get the features of an isolated atom. This is exact for the force constants of the central
    atoms, because the true features of the outermost shell do not depend on the positions of the
    central atoms.

    Attributes:
        graph: The graph of one cell.
        atom: Atom of each image, (images,).
        cells: Cell of each image, (images, 3).
        own: Image of each node, (nodes,); 0 for isolated atoms.
        origin: Node whose features each image has, (images,).
        order: Atom of each node, (nodes,).
        senders: Image at the other end of each edge, (nodes, K).
        edge_mask: False for padding edges, (nodes, K).
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
        """Return the cluster around atoms of the home cell, for a potential of n layers.

        A displaced atom changes the energies of the atoms within n steps along edges. These
        energies depend on features of atoms within 2n - 1 steps, and so on the positions of atoms
        within 2n steps.

        Args:
            atoms: Indices of the central atoms.
            graph: The graph of one cell, with concrete values.
            layers: Number of layers n of the potential.
        """
        senders, mask = graph.senders.cpu().numpy(), graph.edge_mask.cpu().numpy()
        shifts = np.rint(graph.unit_shifts.cpu().numpy()).astype(int)
        # One integer encodes the node and the cell of an image; an edge adds another integer to it.
        reach = 2 * layers * int(np.abs(shifts).max())
        base = 2 * reach + 1
        powers = base ** np.arange(2, -1, -1)
        home = reach * powers.sum()
        steps = ((senders - np.arange(len(senders))[:, None]) * base**3 - shifts @ powers) * mask

        receivers = graph.inverse.cpu().numpy()[atoms] * base**3 + home
        for _ in range(2 * layers - 1):
            receivers = _neighbours(receivers, steps, base)
        images = _neighbours(receivers, steps, base)
        node, cells = images // base**3, images[:, None] // powers % base - reach

        n_receivers = len(receivers)
        place = np.searchsorted(receivers, images).clip(max=n_receivers - 1)
        receives = receivers[place] == images
        isolated, alone = np.unique(_alike(graph), return_inverse=True)
        cell_node = np.concatenate([receivers // base**3, isolated])
        by_node = np.argsort(cell_node, kind="stable")
        row = np.argsort(by_node)
        origin = np.where(receives, row[place], row[n_receivers + alone[node]])
        own = np.append(np.searchsorted(images, receivers), np.zeros(len(isolated), dtype=int))
        sent = np.searchsorted(images, receivers[:, None] + steps[receivers // base**3])
        edges = mask[receivers // base**3]
        padding = np.zeros((len(isolated), senders.shape[1]), dtype=int)

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
            order=graph.order[tensor(cell_node[by_node])],
            senders=tensor(np.concatenate([sent, padding])[by_node]),
            edge_mask=tensor(np.concatenate([edges, padding.astype(bool)])[by_node]),
            species=species(cell_node[by_node]),
            sender_species=species(node),
        )

    @property
    def features(self) -> dict[str, Tensor]:
        """Further input of the potential, such as "total_charge", the same in all cells."""
        return self.graph.features

    def sent(self, values: Tensor) -> Tensor:
        """Return the values of the images, given the values of the nodes."""
        return values.index_select(0, self.origin)

    @property
    def edge_list(self) -> EdgeList:
        """The edges; the points are the images, which need no shifts."""
        shifts = self.cells.new_zeros(*self.senders.shape, 3, dtype=self.graph.unit_shifts.dtype)
        return EdgeList(self.own, self.senders, shifts, self.edge_mask)

    def points(self, positions: Tensor) -> Tensor:
        """Return the positions of the images unchanged."""
        return positions

    def edge_vectors(self, positions: Tensor, cell: Tensor) -> Tensor:
        """Return the edge vectors, Å, (nodes, K, 3); (1, 1, 1) for padding.

        Args:
            positions: Positions of the images, Å, (images, 3).
            cell: Unused: every image has its own position.
        """
        return self.edge_list.vectors(positions, cell)

    def to_atoms(self, values: Tensor) -> Tensor:
        """Return the values of the nodes unchanged."""
        return values


def _neighbours(images: np.ndarray, steps: np.ndarray, base: int) -> np.ndarray:
    """Return the images and their senders, in ascending order."""
    return np.unique(np.append(images, images[:, None] + steps[images // base**3]))


def _alike(graph: Graph) -> np.ndarray:
    """Return a node that has the features of each node where both are isolated, (nodes,)."""
    nodes = np.arange(len(graph.order))
    if any(feature.ndim for feature in graph.features.values()):
        return nodes
    counts = graph.species.counts
    return np.repeat(np.cumsum([0, *counts])[:-1], counts)
