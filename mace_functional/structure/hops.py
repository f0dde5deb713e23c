"""Atoms of a crystal around some of them, in the order of the edges that lead to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mace_functional.structure.graph import Graph


@dataclass(frozen=True, eq=False)
class Hops:
    """Images of the nodes of a cell within a number of edges from some atoms, the nearest first.

    An image that is near two of the atoms is there twice, once for each of them.

    Attributes:
        centre: Number, in the list of atoms, of the atom that each image is near, (images,).
        node: Node of each image, (images,).
        cells: Cell of each image, (images, 3).
        counts: Number of images within 0, 1, 2, ... edges.
        neighbours: Image at the other end of each edge, of all images but those of the outermost
            shell, (counts[-2], K); `images` for padding edges.
        place: Number of images of the same node that come before each image, (images,).
    """

    centre: np.ndarray
    node: np.ndarray
    cells: np.ndarray
    counts: list[int]
    neighbours: np.ndarray
    place: np.ndarray

    @classmethod
    def around(cls, atoms: Sequence[int], graph: Graph, n: int) -> Hops:
        """Find the images within n edges of each of some atoms of the home cell.

        Args:
            atoms: Numbers of the atoms.
            graph: The graph of one cell, with concrete values.
            n: Number of edges.
        """
        senders, mask = graph.senders.cpu().numpy(), graph.edge_mask.cpu().numpy()
        shifts = np.rint(graph.unit_shifts.cpu().numpy()).astype(int)
        # One integer encodes centre, node and cell of an image; an edge adds another integer to it.
        reach = n * int(np.abs(shifts).max(initial=0))
        base = 2 * reach + 1
        powers = base ** np.arange(2, -1, -1)
        nodes = np.arange(len(senders))
        steps = ((senders - nodes[:, None]) * base**3 - shifts @ powers) * mask

        def node_of(images: np.ndarray) -> np.ndarray:
            return images // base**3 % len(nodes)

        centres = len(nodes) * np.arange(len(atoms)) + graph.inverse.cpu().numpy()[list(atoms)]
        shells = [centres * base**3 + reach * powers.sum()]
        for _ in range(n):
            last = shells[-1]
            reached = np.unique(last[:, None] + steps[node_of(last)])
            shells.append(np.setdiff1d(reached, np.concatenate(shells[-2:]), assume_unique=True))
        images = np.concatenate(shells)
        counts = np.cumsum([len(shell) for shell in shells]).tolist()
        node = node_of(images)

        inner = node[: counts[-2]]
        by_code = np.argsort(images)
        ends = images[: counts[-2], None] + steps[inner]
        neighbours = by_code[np.searchsorted(images, ends, sorter=by_code)]
        by_node = np.argsort(node, kind="stable")
        first = np.searchsorted(node[by_node], nodes)
        place = np.empty(len(images), dtype=int)
        place[by_node] = np.arange(len(images)) - first[node[by_node]]
        return cls(
            centre=images // base**3 // len(nodes),
            node=node,
            cells=images[:, None] // powers % base - reach,
            counts=counts,
            neighbours=np.where(mask[inner], neighbours, len(images)),
            place=place,
        )

    def ends(self, images: np.ndarray) -> np.ndarray:
        """Return the images at the other ends of the edges of images (...), (..., K).

        The number of all images stands for none.
        """
        none = np.full((1, self.neighbours.shape[1]), len(self.node))
        rows = np.concatenate([self.neighbours, none])
        ends: np.ndarray = rows[np.minimum(images, len(rows) - 1)]
        return ends

    def by_node(self, count: int, nodes: int) -> np.ndarray:
        """Return the first `count` images as rows of one image of each node, (rows, nodes).

        Nodes with fewer images have the number of all images in the last rows.
        """
        place, node = self.place[:count], self.node[:count]
        rows = np.full((int(place.max()) + 1, nodes), len(self.node))
        rows[place, node] = np.arange(count)
        return rows
