"""Topologies: the neighbour lists and other constants of an energy function.

`E(positions, cell, params)` is computed on a topology, which stays the same while the atoms move a
little: the elements, the periodic directions and the pairs of atoms that may interact. Structures,
optimisers and phonons use the protocol `Topology`. Potentials with a cutoff compute on an
`EdgeTopology`:

    Graph           the atoms of a cell
    PhaseReplicas   the atoms of a cell at up to three phases of a Bloch wave
    Cluster         some atoms of a crystal and all atoms within their range

An edge points from a sender to a node. In a `Graph` the senders are the nodes. In the other two
they are images of the nodes in other cells.
"""

from __future__ import annotations

from typing import Protocol, Self

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

    def edge_vectors(self, positions: Tensor, cell: Tensor) -> Tensor:
        """Return the vectors from senders to nodes, Å, (nodes, K, 3); (1, 1, 1) for padding."""

    def sent(self, values: Tensor) -> Tensor:
        """Return the values of the senders, given the values of the nodes."""

    def to_atoms(self, values: Tensor) -> Tensor:
        """Return the values of the nodes in the order of the atoms."""


def masked_edge_vectors(
    nodes: Tensor,
    sources: Tensor,
    senders: Tensor,
    edge_mask: Tensor,
    shifts: Tensor | None = None,
) -> Tensor:
    """Return the edge vectors `x_i - x_j (+ S cell)`, Å, (nodes, K, 3); (1, 1, 1) for padding.

    A padding edge must not have length zero, because a distance has no derivative there.

    Args:
        nodes: Positions of the nodes, Å, (nodes, 3).
        sources: Positions of the senders, Å, (senders, 3).
        senders: Sender of each edge, (nodes, K).
        edge_mask: False for padding edges, (nodes, K).
        shifts: Lattice vectors S cell that are added, Å, (nodes, K, 3); none if None.
    """
    vectors = nodes[:, None] - gather(sources, senders)
    if shifts is not None:
        vectors = vectors + shifts
    return torch.where(edge_mask[..., None], vectors, torch.ones_like(vectors))
