"""Topologies: the neighbour lists and other constants of an energy function.

`E(positions, cell, params)` is computed on a topology, which stays the same while the atoms move a
little: the elements, the periodic directions and the pairs of atoms that may interact. Structures,
optimisers and phonons use the protocol `Topology`. Potentials with a cutoff compute on an
`EdgeTopology`:

    Graph           the atoms of a cell
    PhaseReplicas   the atoms of a cell at up to three phases of a Bloch wave
    Stars           the atoms of a cell, with copies of their neighbours

An edge points from a sender to a node. In a `Graph` the senders are the nodes. In the
others they are images of the nodes in other cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from mace_functional.structure.species import Species, gather

PairArrays = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Atoms i and j, (E,) each, and lattice vectors S, (E, 3), of pairs `x_i - x_j + S cell`."""


class Topology(Protocol):
    """Constants of a structure that stay valid while its atoms move a little."""

    @property
    def pbc(self) -> Tensor:
        """Periodic directions, (3,)."""

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""

    def is_current(self, positions: Tensor, cell: Tensor) -> bool:
        """Return True if this topology gives the exact energy at these positions and this cell."""

    def rebuilt(self, positions: Tensor, cell: Tensor) -> Self:
        """Return the topology of the same atoms at other positions, Å, (N, 3), and cell, (3, 3)."""

    def pairs_within(self, positions: Tensor, cell: Tensor) -> PairArrays:
        """Return the pairs of interacting atoms, each in one order or in both."""


class EdgeList(NamedTuple):
    """The edges of all nodes, K each: an edge is the vector `p_i - p_j + S cell` of two points.

    Points are the nodes, or images of the nodes in other cells.

    Attributes:
        receivers: Point i of each node, (nodes,).
        senders: Point j of each edge, (nodes, K).
        unit_shifts: S of each edge, (nodes, K, 3).
        mask: False for padding edges, (nodes, K).
        factors: In a Bloch wave, the displacement of each edge's sender over that of the same atom
            in the home cell, `exp(-2 pi i q.S)`, (nodes, K), complex, or real if all of them are;
            None for displacements that are equal in all cells.
    """

    receivers: Tensor
    senders: Tensor
    unit_shifts: Tensor
    mask: Tensor
    factors: Tensor | None = None

    def vectors(self, points: Tensor, cell: Tensor) -> Tensor:
        """Return the edge vectors, Å, (nodes, K, 3); (1, 1, 1) for padding.

        A padding edge must not have length zero, because a distance has no derivative there.

        Args:
            points: Positions of the points, Å, (points, 3).
            cell: Lattice vectors, Å, (3, 3); of several structures, (3 structures, 3).
        """
        return self.from_senders(points, gather(points, self.senders), cell)

    def from_senders(self, points: Tensor, senders: Tensor, cell: Tensor) -> Tensor:
        """Return the edge vectors, given also the points of the senders, Å, (nodes, K, 3)."""
        nodes = points.index_select(0, self.receivers)
        vectors = nodes[:, None] - senders + self.shifts(cell)
        return torch.where(self.mask[..., None], vectors, torch.ones_like(vectors))

    def shifts(self, cell: Tensor) -> Tensor:
        """Return `S cell`, (nodes, K, any), for columns of lattice vectors (3 structures, any)."""
        cells = cell.unflatten(0, (-1, 3))
        shifts = self._by_structure(cells.shape[0]) @ cells
        return shifts.reshape(*self.senders.shape, cell.shape[-1])

    def summed_shifts(self, values: Tensor, structures: int) -> Tensor:
        """Return the sums of `S^T values`, (3 structures, any), over the edges of each structure.

        Args:
            values: Values of the edges, (nodes, K, any).
            structures: Number of structures, whose nodes come one after the other.
        """
        by_structure = values.unflatten(0, (structures, -1)).flatten(1, 2)
        return (self._by_structure(structures).mT @ by_structure).flatten(0, 1)

    def joined(self, count: int, points: int, mapped: Sequence[bool]) -> EdgeList:
        """Return the edges of several structures, one after the other.

        Args:
            count: Number of structures.
            points: Number of points of each.
            mapped: For each tensor, True if its first dimension is the structures; False if all
                structures share it. There are no factors.
        """
        pairs = zip(self[:-1], mapped[:-1], strict=True)
        each = (t if m else t.expand(count, *t.shape) for t, m in pairs)
        receivers, senders, *others = each
        first = points * torch.arange(count, device=senders.device)
        receivers, senders = receivers + first[:, None], senders + first[:, None, None]
        return EdgeList(*(t.flatten(0, 1) for t in (receivers, senders, *others)))

    def _by_structure(self, structures: int) -> Tensor:
        return self.unit_shifts.unflatten(0, (structures, -1)).flatten(1, 2)


class EdgeTopology(Protocol):
    """Nodes with K edges each, some of them padding, for a potential with a cutoff."""

    @property
    def species(self) -> Species:
        """Elements of the nodes."""

    @property
    def sender_species(self) -> Species:
        """Elements of the senders."""

    @property
    def features(self) -> dict[str, Tensor]:
        """Further input of the potential, such as "total_charge"."""

    @property
    def order(self) -> Tensor:
        """Atom of each node, (nodes,)."""

    @property
    def senders(self) -> Tensor:
        """Sender of each edge, (nodes, K)."""

    @property
    def edge_mask(self) -> Tensor:
        """False for padding edges, (nodes, K)."""

    @property
    def edge_list(self) -> EdgeList:
        """The edges, between the points that `points` returns; the first points are the senders."""

    def points(self, positions: Tensor) -> Tensor:
        """Return the positions of the points of `edge_list`, Å, (points, 3)."""

    def edge_vectors(self, positions: Tensor, cell: Tensor) -> Tensor:
        """Return the vectors from senders to nodes, Å, (nodes, K, 3); (1, 1, 1) for padding."""

    def sent(self, values: Tensor) -> Tensor:
        """Return the values of the senders, given the values of the nodes."""

    def to_atoms(self, values: Tensor) -> Tensor:
        """Return the values of the nodes in the order of the atoms."""
