"""Topologies: for which structures a function `E(positions, cell, params)` holds.

A topology knows what does not change while atoms move a little: the elements, the periodic
directions, and who may feel whom. `Topology` is what structures, optimisers and phonons ask of it.
`EdgeTopology` is what a potential computes with whose atoms feel neighbours within a cutoff:

    Graph           the atoms of a cell
    PhaseReplicas   the atoms of a cell at a few phases of a wave
    Cluster         a piece of a crystal

Nodes receive along edges from senders. In a `Graph` the senders are the nodes; in the other two
they are images of the nodes, in other cells.
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
    """What does not change while the atoms of a structure move a little."""

    @property
    def pbc(self) -> Tensor:
        """Periodic directions, (3,)."""

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""

    def is_current(self, positions: Tensor, cell: Tensor) -> bool:
        """Whether energies at these positions and this cell are exact with this topology."""

    def rebuilt(self, positions: Tensor, cell: Tensor) -> Self:
        """The topology of the same atoms at other positions, Å, (N, 3), and in another cell."""

    def pairs_within(self, positions: Tensor, cell: Tensor) -> PairArrays:
        """The pairs of atoms that feel each other; an order of the two is enough."""


class EdgeTopology(Protocol):
    """Nodes with K edges each, padded, as a potential with a cutoff computes with them."""

    @property
    def species(self) -> Species:
        """Elements of the nodes."""

    @property
    def sender_species(self) -> Species:
        """Elements of the senders."""

    @property
    def features(self) -> dict[str, Tensor]:
        """Extra features that the potential reads of atoms, such as "total_charge"."""

    @property
    def order(self) -> Tensor:
        """Atom of each node, (nodes,)."""

    @property
    def senders(self) -> Tensor:
        """Sender of each edge, (nodes, K)."""

    @property
    def edge_mask(self) -> Tensor:
        """False for edges that only pad, (nodes, K)."""

    def edge_vectors(self, positions: Tensor, cell: Tensor) -> Tensor:
        """Vectors from senders to nodes, Å, (nodes, K, 3); (1, 1, 1) where padded."""

    def sent(self, values: Tensor) -> Tensor:
        """Values of the senders from values of the nodes."""

    def to_atoms(self, values: Tensor) -> Tensor:
        """Values of the nodes in the order of the atoms."""


def masked_edge_vectors(
    nodes: Tensor,
    sources: Tensor,
    senders: Tensor,
    edge_mask: Tensor,
    shifts: Tensor | None = None,
) -> Tensor:
    """Edge vectors `x_i - x_j (+ S cell)` in Å, (nodes, K, 3); (1, 1, 1) where padded.

    A padded edge must not have length zero, at which distances have no derivative.

    Args:
        nodes: Positions of the nodes, Å, (nodes, 3).
        sources: Positions of the senders, Å, (senders, 3).
        senders: Sender of each edge, (nodes, K).
        edge_mask: False for edges that only pad, (nodes, K).
        shifts: Added to each edge, Å, (nodes, K, 3); nothing if None.
    """
    vectors = nodes[:, None] - gather(sources, senders)
    if shifts is not None:
        vectors = vectors + shifts
    return torch.where(edge_mask[..., None], vectors, torch.ones_like(vectors))
