"""Neighbour graphs of structures.

The graph is static: it lists the neighbours of each atom and their periodic images, but holds no
distances. The edge vectors are computed from positions and cell, so that derivatives with respect
to both are exact:

    r_ij = x_i - x_j + S_ij cell.

Nodes are the atoms sorted by element. Every node has the same number K of edges, padded and masked
where it has fewer neighbours, so that the sum over neighbours is a batched matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from mace_functional.autodiff.torch_internals import pytree
from mace_functional.structure import neighbours
from mace_functional.structure.arrays import as_array, to_tensors
from mace_functional.structure.remaining_skin import ROUNDING, remaining_skin
from mace_functional.structure.species import Species
from mace_functional.structure.topology import EdgeList, PairArrays

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True, eq=False)
class Graph:
    """Static topology of a structure: a pytree whose leaves are tensors.

    Attributes:
        order: Atom of each node, (nodes,).
        inverse: Node of each atom, (atoms,).
        atom_mask: False for padding atoms of a batch, (atoms,).
        senders: Node at the other end of each edge, (nodes, K).
        unit_shifts: Periodic image of the edge, S_ij, (nodes, K, 3).
        edge_mask: False for padding edges, (nodes, K).
        pbc: Periodic directions, (3,).
        features: Further input of the potential, such as "total_charge".
        reference_positions: Positions of the neighbour search, Å, (atoms, 3).
        reference_cell: Cell of the neighbour search, Å, (3, 3).
        species: Elements of the nodes; static.
        cutoff: Cutoff radius of the potential, Å; static.
        skin: Length added to the cutoff in the neighbour search, Å; static.
    """

    order: Tensor
    inverse: Tensor
    atom_mask: Tensor
    senders: Tensor
    unit_shifts: Tensor
    edge_mask: Tensor
    pbc: Tensor
    features: dict[str, Tensor]
    reference_positions: Tensor
    reference_cell: Tensor
    species: Species
    cutoff: float
    skin: float

    def __repr__(self) -> str:
        return (
            f"Graph(nodes and neighbours {tuple(self.senders.shape)}, "
            f"elements {dict(zip(self.species.numbers, self.species.counts, strict=True))}, "
            f"cutoff {self.cutoff:g} + {self.skin:g} Å)"
        )

    @classmethod
    def of(
        cls,
        atoms: Atoms,
        elements: Sequence[int],
        cutoff: float,
        skin: float,
        features: dict[str, Tensor],
        like: Tensor,
    ) -> Graph:
        """Find the neighbours of a structure.

        Args:
            atoms: Periodic in any directions; every element is one of `elements`.
            elements: Atomic numbers in the order of the potential's tables.
            cutoff: Cutoff radius of the potential, Å.
            skin: Length added to the cutoff in the search, Å.
            features: Further input of the potential.
            like: Tensor with the dtype and device to use.

        Raises:
            ValueError: If the geometry is bad; see `neighbours.search`.
        """
        x, cell, pbc = atoms.positions.copy(), atoms.cell.array.copy(), np.asarray(atoms.pbc)
        edges = neighbours.search(x, cell, pbc, cutoff + skin)
        table = {z: row for row, z in enumerate(elements)}
        present, kinds = np.unique([table[int(z)] for z in atoms.numbers], return_inverse=True)
        counts = tuple(int(n) for n in np.bincount(kinds))
        return cls(
            **to_tensors(neighbours.pack(edges, kinds, counts, None, len(atoms)), like),
            pbc=torch.as_tensor(pbc.copy(), device=like.device),
            features=features,
            reference_positions=torch.as_tensor(x).to(like),
            reference_cell=torch.as_tensor(cell).to(like),
            species=Species(
                elements=tuple(int(e) for e in present),
                numbers=tuple(int(elements[e]) for e in present),
                counts=counts,
            ),
            cutoff=cutoff,
            skin=skin,
        )

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return self.inverse.shape[-1]

    @property
    def edge_list(self) -> EdgeList:
        """The edges; the points are the nodes."""
        nodes = torch.arange(self.senders.shape[0], device=self.senders.device)
        return EdgeList(nodes, self.senders, self.unit_shifts, self.edge_mask)

    def points(self, positions: Tensor) -> Tensor:
        """Return the positions of the nodes, Å, (nodes, 3)."""
        return positions.index_select(0, self.order)

    def edge_vectors(self, positions: Tensor, cell: Tensor) -> Tensor:
        """Return the edge vectors `x_i - x_j + S_ij cell`, Å, (nodes, K, 3); 1 for padding."""
        return self.edge_list.vectors(self.points(positions), cell)

    @property
    def sender_species(self) -> Species:
        """Elements of the senders, which are the nodes."""
        return self.species

    def sent(self, values: Tensor) -> Tensor:
        """Return the values unchanged: the senders are the nodes."""
        return values

    def to_atoms(self, values: Tensor) -> Tensor:
        """Return the values of the nodes (nodes,) in the order of the atoms; 0 for padding."""
        return values.index_select(0, self.inverse) * self.atom_mask

    def by_atom(self, values: Sequence[int]) -> np.ndarray:
        """Return the value of each atom's element, (atoms,), given one value per element."""
        per_atom = np.empty(len(self.order), dtype=int)
        per_atom[self.order.cpu().numpy()] = np.repeat(values, self.species.counts)
        return per_atom

    def remaining_skin(self, positions: Tensor, cell: Tensor) -> float:
        """Return a lower bound of the distance of unlisted pairs, minus the cutoff, Å.

        Args:
            positions: Positions in Å, (atoms, 3).
            cell: Lattice vectors in Å, (3, 3).

        Returns:
            A number. While it is not negative, the graph is exact for `positions` and `cell`.
        """
        return remaining_skin(self, positions, cell, [(self.cutoff, self.skin)])

    def is_current(self, positions: Tensor, cell: Tensor) -> bool:
        """Return True if the graph holds all neighbours within the cutoff at these positions."""
        return self.remaining_skin(positions, cell) > -ROUNDING

    def rebuilt(self, positions: Tensor, cell: Tensor) -> Graph:
        """Return the graph of the same atoms at other positions, Å, (N, 3), and cell, (3, 3).

        Data that do not depend on the geometry are shared with the old graph.

        Raises:
            ValueError: If positions are not finite, or atoms coincide.
        """
        geometry = as_array(positions), as_array(cell), self.pbc.cpu().numpy()
        edges = neighbours.search(*geometry, self.cutoff + self.skin)
        kinds = self.by_atom(range(len(self.species.counts)))
        arrays = neighbours.pack(edges, kinds, self.species.counts, None, len(positions))
        return replace(
            self,
            **to_tensors(arrays, positions),
            reference_positions=positions.detach().clone(),
            reference_cell=cell.detach().clone(),
        )

    def padded(self, width: int) -> Graph:
        """Return the graph with `width` edges for each node; the new ones are padding.

        Args:
            width: Number K of edges of each node, at least that of this graph.
        """
        extra = width - self.senders.shape[-1]
        return replace(
            self,
            senders=pad(self.senders, (0, extra)),
            unit_shifts=pad(self.unit_shifts, (0, 0, 0, extra)),
            edge_mask=pad(self.edge_mask, (0, extra)),
        )

    def pairs_within(self, positions: Tensor, cell: Tensor) -> PairArrays:
        """Return the pairs closer than the cutoff, without those that are only within the skin."""
        node, slot = np.nonzero(self.edge_mask.cpu().numpy())
        order = self.order.cpu().numpy()
        i, j = order[node], order[self.senders.cpu().numpy()[node, slot]]
        s = self.unit_shifts.cpu().numpy()[node, slot]
        return neighbours.closer_than(self.cutoff, (i, j, s), as_array(positions), as_array(cell))


_STATIC = ("species", "cutoff", "skin")
_LEAVES = tuple(f.name for f in fields(Graph) if f.name not in _STATIC)


def _flatten(graph: Graph) -> tuple[list[Any], tuple[Any, ...]]:
    return [getattr(graph, k) for k in _LEAVES], tuple(getattr(graph, k) for k in _STATIC)


def _unflatten(leaves: Any, static: Any) -> Graph:
    names = dict(zip(_LEAVES, leaves, strict=True))
    return Graph(**names, **dict(zip(_STATIC, static, strict=True)))


pytree.register_pytree_node(
    Graph, _flatten, _unflatten, serialized_type_name="mace_functional.Graph"
)
