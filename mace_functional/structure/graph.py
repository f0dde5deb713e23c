"""Neighbour graphs of structures.

The graph is static: it holds who is whose neighbour and through which periodic image, not how far.
Edge vectors follow from positions and cell, so that derivatives with respect to both are exact:

    r_ij = x_i - x_j + S_ij cell.

Nodes are the atoms sorted by element, and every node has the same number K of neighbours; what is
missing is padded and masked, so that the sum over neighbours is a batched matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mace_functional.autodiff.torch_internals import pytree
from mace_functional.structure import neighbours
from mace_functional.structure.arrays import as_array, to_tensors
from mace_functional.structure.remaining_skin import ROUNDING, remaining_skin
from mace_functional.structure.species import Species
from mace_functional.structure.topology import PairArrays, masked_edge_vectors

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True, eq=False)
class Graph:
    """Static topology of a structure: a pytree whose leaves are tensors.

    Attributes:
        order: Atom of each node, (nodes,).
        inverse: Node of each atom, (atoms,).
        atom_mask: False for atoms that only pad a batch, (atoms,).
        senders: Node at the other end of each edge, (nodes, K).
        unit_shifts: Periodic image of the edge, S_ij, (nodes, K, 3).
        edge_mask: False for edges that only pad, (nodes, K).
        pbc: Periodic directions, (3,).
        features: Extra features that the potential reads of atoms, such as "total_charge".
        reference_positions: Positions for which the graph was made, Å, (atoms, 3).
        reference_cell: Cell for which the graph was made, Å, (3, 3).
        species: Elements of the nodes; static.
        cutoff: Cutoff radius of the potential, Å; static.
        skin: What the neighbour search added to it, Å; static.
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
            skin: Added to it in the search, Å.
            features: What the potential reads of atoms besides.
            like: Gives dtype and device.

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

    def edge_vectors(self, positions: Tensor, cell: Tensor) -> Tensor:
        """Edge vectors `x_i - x_j + S_ij cell` in Å, (nodes, K, 3); (1, 1, 1) where padded."""
        nodes, shifts = positions.index_select(0, self.order), self.unit_shifts @ cell
        return masked_edge_vectors(nodes, nodes, self.senders, self.edge_mask, shifts)

    @property
    def sender_species(self) -> Species:
        """Elements of the senders: of the nodes."""
        return self.species

    def sent(self, values: Tensor) -> Tensor:
        """Values of the senders from values of the nodes: the same."""
        return values

    def to_atoms(self, values: Tensor) -> Tensor:
        """Values of the nodes (nodes,) in the order of the atoms (atoms,), zero where padded."""
        return values.index_select(0, self.inverse) * self.atom_mask

    def by_atom(self, values: Sequence[int]) -> np.ndarray:
        """A number for each element present, in the order of the atoms (atoms,)."""
        of_atoms = np.empty(len(self.order), dtype=int)
        of_atoms[self.order.cpu().numpy()] = np.repeat(values, self.species.counts)
        return of_atoms

    def remaining_skin(self, positions: Tensor, cell: Tensor) -> float:
        """How much closer to the cutoff, in Å, a pair left out of the graph may still come.

        Args:
            positions: Positions in Å, (atoms, 3).
            cell: Lattice vectors in Å, (3, 3).

        Returns:
            A number; not negative as long as the graph is exact for `positions` and `cell`.
        """
        return remaining_skin(self, positions, cell, [(self.cutoff, self.skin)])

    def is_current(self, positions: Tensor, cell: Tensor) -> bool:
        """Whether the graph holds every neighbour within the cutoff of a moved structure."""
        return self.remaining_skin(positions, cell) > -ROUNDING

    def rebuilt(self, positions: Tensor, cell: Tensor) -> Graph:
        """The graph of the same atoms at other positions, Å, (N, 3), and in another cell, (3, 3).

        Only the part of it that depends on the geometry is made anew.

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

    def pairs_within(self, positions: Tensor, cell: Tensor) -> PairArrays:
        """The pairs closer than the cutoff: the graph may have more."""
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
