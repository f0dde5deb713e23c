"""Structures and their neighbour graphs.

The graph is static: it holds who is whose neighbour and through which periodic image, not how far.
Edge vectors follow from positions and cell, so that derivatives with respect to both are exact:

    r_ij = x_i - x_j + S_ij cell.

Nodes are the atoms sorted by element, and every node has the same number K of neighbours; what is
missing is padded and masked, so that the sum over neighbours is a batched matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor

from mace_functional.autodiff.concrete import refuse_transforms
from mace_functional.autodiff.torch_internals import pytree
from mace_functional.dispersion.pairs import D3Graph
from mace_functional.structure import neighbours
from mace_functional.support import validation
from mace_functional.support.validation import in_order

if TYPE_CHECKING:
    from ase import Atoms

    from mace_functional.mace.model import Model

FEW = 20
"""Elements of a model that an error names."""

FEATURES = {"total_charge": ("charge", 0.0), "total_spin": ("spin", 1.0)}
"""Where ASE users keep a feature in `atoms.info`, and its value when they do not."""


class Species(NamedTuple):
    """Which elements the nodes are: `counts[k]` nodes of element k, in this order; static.

    Attributes:
        elements: Rows of the elements in the model's tables.
        numbers: Atomic numbers.
        counts: Number of nodes of each.
    """

    elements: tuple[int, ...]
    numbers: tuple[int, ...]
    counts: tuple[int, ...]

    def expand(self, rows: Tensor) -> Tensor:
        """Values of the elements (elements, ...), repeated for their nodes (nodes, ...)."""
        pairs = zip(rows.unbind(), self.counts, strict=True)
        return torch.cat([row.expand(n, *row.shape) for row, n in pairs])


def gather(nodes: Tensor, senders: Tensor) -> Tensor:
    """Values of the senders: (nodes, ...) to (nodes, K, ...)."""
    return nodes.index_select(0, senders.reshape(-1)).view(*senders.shape, *nodes.shape[1:])


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
        features: Extra features that the model embeds, such as "total_charge".
        reference_positions: Positions for which the graph was made, Å, (atoms, 3).
        reference_cell: Cell for which the graph was made, Å, (3, 3).
        species: Elements of the nodes; static.
        cutoff: Cutoff radius of the model, Å; static.
        skin: What the neighbour search added to it, Å; static.
        dispersion: What a D3 correction has to know; None if the model has none.
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
    dispersion: D3Graph | None = None

    def __repr__(self) -> str:
        return (
            f"Graph(nodes and neighbours {tuple(self.senders.shape)}, "
            f"elements {dict(zip(self.species.numbers, self.species.counts, strict=True))}, "
            f"cutoff {self.cutoff:g} + {self.skin:g} Å)"
        )

    def edge_vectors(self, positions: Tensor, cell: Tensor) -> Tensor:
        """Edge vectors `x_i - x_j + S_ij cell` in Å, (nodes, K, 3); (1, 1, 1) where padded."""
        nodes = positions.index_select(0, self.order)
        vectors = nodes[:, None] - gather(nodes, self.senders) + self.unit_shifts @ cell
        return torch.where(self.edge_mask[..., None], vectors, torch.ones_like(vectors))

    @property
    def sender_species(self) -> Species:
        """Elements of what sends: of the nodes."""
        return self.species

    def sent(self, values: Tensor) -> Tensor:
        """From values of the nodes to those of what sends: the nodes themselves."""
        return values

    def to_atoms(self, values: Tensor) -> Tensor:
        """Values of the nodes (nodes,) in the order of the atoms (atoms,), zero where padded."""
        return values.index_select(0, self.inverse) * self.atom_mask

    def by_atom(self, values: Sequence[int]) -> np.ndarray:
        """A number for each element present, in the order of the atoms (atoms,)."""
        of_atoms = np.empty(len(self.order), dtype=int)
        of_atoms[self.order.cpu().numpy()] = np.repeat(values, self.species.counts)
        return of_atoms

    def slack(self, positions: Tensor, cell: Tensor) -> float:
        r"""How much closer to the cutoff, in Å, a pair left out of the graph may still come.

        With a deformation gradient F that maps the periodic lattice vectors of the reference to
        those of `cell`, and the displacements u on top of it, a pair at distance d in the reference
        is at least `sigma_min(F) d - 2 max|u|` apart now, so that
        `slack = sigma_min(F) (cutoff + skin) - 2 max|u| - cutoff`, the least of it if dispersion
        has cutoffs of its own. In the other directions F is the rotation that fits best, so that
        turning a molecule costs nothing.

        Args:
            positions: Positions in Å, (atoms, 3).
            cell: Lattice vectors in Å, (3, 3).

        Returns:
            A number; not negative as long as the graph is exact for `positions` and `cell`.
        """
        pbc = self.pbc.cpu().numpy()
        before, after = _array(self.reference_cell)[pbc], _array(cell)[pbc]
        old, new = _array(self.reference_positions), _array(positions)
        if not (np.isfinite(new).all() and np.isfinite(after).all()):
            return -np.inf
        old, new = old - old.mean(0), new - new.mean(0)
        inverse = np.linalg.pinv(before)
        rotation = _best_rotation(np.vstack([old, before]), np.vstack([new, after]))
        deformation = inverse @ after + (np.eye(3) - inverse @ before) @ rotation
        moved = new - old @ deformation
        shrunk = np.linalg.svd(deformation, compute_uv=False).min()
        reaches = [(self.cutoff, self.skin)]
        if self.dispersion is not None:
            reaches += self.dispersion.reaches
        nearer = min(shrunk * (cutoff + skin) - cutoff for cutoff, skin in reaches)
        return float(nearer - 2 * np.linalg.norm(moved, axis=1).max())

    def is_current(self, positions: Tensor, cell: Tensor) -> bool:
        """Whether the graph holds every neighbour within the cutoff of a moved structure."""
        return self.slack(positions, cell) > -1e-9


def _best_rotation(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Rotation R that makes `old @ R` fit `new` best (Kabsch, Acta Cryst. A 32, 922 (1976))."""
    u, _, v = np.linalg.svd(old.T @ new)
    return (u * [1, 1, np.sign(np.linalg.det(u @ v))]) @ v


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()


_STATIC = ("species", "cutoff", "skin")


def _flatten_graph(graph: Graph) -> tuple[list[Any], tuple[Any, ...]]:
    # None would be a leaf to vmap, which wants tensors.
    absent = ("dispersion",) if graph.dispersion is None else ()
    leaves = [f.name for f in fields(Graph) if f.name not in (*_STATIC, *absent)]
    static = tuple((name, getattr(graph, name)) for name in _STATIC)
    return [getattr(graph, name) for name in leaves], (tuple(leaves), static)


def _unflatten_graph(leaves: Any, context: tuple[Any, ...]) -> Graph:
    names, static = context
    return Graph(**dict(zip(names, leaves, strict=True)), **dict(static))


@dataclass(frozen=True, eq=False)
class Structure:
    """A structure: what changes, what does not, and the graph. A pytree.

    Attributes:
        positions: Å, (N, 3).
        cell: Lattice vectors in Å as rows, (3, 3); zero where not periodic.
        masses: amu, (N,).
        numbers: Atomic numbers, (N,).
        graph: Static topology.
    """

    positions: Tensor
    cell: Tensor
    masses: Tensor
    numbers: Tensor
    graph: Graph

    def __repr__(self) -> str:
        return f"Structure(positions {tuple(self.positions.shape)}, {self.graph})"

    @property
    def topology(self) -> Graph:
        """The graph, by the name that all potentials have for it."""
        return self.graph

    def moved(self, positions: Tensor, cell: Tensor) -> Structure:
        """The same atoms at new positions with the same graph, as long as `Graph.is_current`."""
        return replace(self, positions=positions, cell=cell)

    def rebuild(self, positions: Tensor | None = None, cell: Tensor | None = None) -> Structure:
        """The same atoms at new positions, with a new neighbour search.

        Args:
            positions: New positions in Å, (N, 3); the present ones if not given.
            cell: New lattice vectors in Å, (3, 3); the present ones if not given.

        Returns:
            A new structure; only the part of the graph that depends on the geometry is made anew.

        Raises:
            ValueError: If shapes differ, positions are not finite, or atoms coincide.
        """
        refuse_transforms("Structure.rebuild", "moved(positions, cell)", positions, cell)
        positions = (self.positions if positions is None else positions).detach()
        cell = (self.cell if cell is None else cell).detach()
        if positions.shape != self.positions.shape or cell.shape != self.cell.shape:
            raise ValueError(
                f"positions and cell must be {tuple(self.positions.shape)} and (3, 3), not "
                f"{tuple(positions.shape)} and {tuple(cell.shape)}"
            )
        old = self.graph
        geometry = _array(positions), _array(cell), old.pbc.cpu().numpy()
        edges = neighbours.search(*geometry, old.cutoff + old.skin)
        kinds = old.by_atom(range(len(old.species.counts)))
        arrays = neighbours.pack(edges, kinds, old.species.counts, None, len(positions))
        graph = replace(
            old,
            **to_tensors(arrays, positions),
            reference_positions=positions.clone(),
            reference_cell=cell.clone(),
            dispersion=None if old.dispersion is None else old.dispersion.rebuilt(geometry),
        )
        return replace(self, positions=positions, cell=cell, graph=graph)


pytree.register_pytree_node(
    Graph,
    _flatten_graph,
    _unflatten_graph,
    serialized_type_name="mace_functional.Graph",
)
pytree.register_pytree_node(
    Structure,
    lambda s: ([s.positions, s.cell, s.masses, s.numbers, s.graph], None),
    lambda leaves, _: Structure(*leaves),
    serialized_type_name="mace_functional.Structure",
)


def from_ase(atoms: Atoms, model: Model, skin: float = 0.0) -> Structure:
    """The structure and neighbour graph of an ASE Atoms object.

    Args:
        atoms: Periodic in any directions. Features that the model embeds are read from
            `atoms.info` ("charge" and "spin", 0 and 1 if absent) or `atoms.arrays`.
        model: Gives the cutoff, the known elements, the dispersion, dtype and device.
        skin: Added to the cutoff in the neighbour search, Å: the graph then stays exact while
            atoms move (see `Graph.is_current`). Energies do not depend on it.

    Returns:
        The structure, on the model's device and in its dtype.

    Raises:
        TypeError: If the arguments are of other classes, or swapped.
        ValueError: If there are no atoms, an element is unknown to the model or its dispersion,
            positions or cell are not finite, atoms coincide, periodic lattice vectors are missing
            or linearly dependent, the skin is negative, or an embedded feature is missing or out of
            range.
    """
    in_order("from_ase(atoms, model)", (atoms, "Atoms"), (model, "Model"))
    numbers = atoms.get_atomic_numbers()
    if len(numbers) == 0:
        raise ValueError("the structure has no atoms")
    skin = validation.skin(skin)
    table = {z: row for row, z in enumerate(model.atomic_numbers)}
    unknown = sorted({int(z) for z in numbers} - set(table))
    if unknown:
        known = model.atomic_numbers
        which = _symbols(known) if len(known) <= FEW else f"{len(known)} others"
        raise ValueError(
            f"the model does not know the elements {_symbols(unknown)}; it was made for {which}"
        )
    pbc = np.asarray(atoms.get_pbc())
    cell = atoms.cell.array.copy()
    edges = neighbours.search(atoms.positions, cell, pbc, model.cutoff + skin)
    present, kinds = np.unique([table[int(z)] for z in numbers], return_inverse=True)
    counts = tuple(int(n) for n in np.bincount(kinds))
    arrays = neighbours.pack(edges, kinds, counts, None, len(numbers))
    positions = torch.as_tensor(atoms.positions.copy(), dtype=model.dtype, device=model.device)
    cell_tensor = torch.as_tensor(cell, dtype=model.dtype, device=model.device)
    graph = Graph(
        **to_tensors(arrays, positions),
        pbc=torch.as_tensor(pbc, device=model.device),
        features=features_of(atoms, model),
        reference_positions=positions.clone(),
        reference_cell=cell_tensor.clone(),
        species=Species(
            elements=tuple(int(e) for e in present),
            numbers=tuple(int(model.atomic_numbers[e]) for e in present),
            counts=counts,
        ),
        cutoff=model.cutoff,
        skin=float(skin),
        dispersion=_dispersion(atoms, model, skin, positions),
    )
    return Structure(
        positions=positions,
        cell=cell_tensor,
        masses=torch.as_tensor(atoms.get_masses(), dtype=model.dtype, device=model.device),
        numbers=torch.as_tensor(numbers, device=model.device),
        graph=graph,
    )


def _dispersion(atoms: Atoms, model: Model, skin: float, like: Tensor) -> D3Graph | None:
    """What the model's dispersion has to know."""
    settings = model.dispersion
    if settings is None:
        return None
    # A strain moves atoms at larger distances further: the skins grow with the cutoffs.
    first, second = (
        skin * max(1.0, cutoff / model.cutoff) for cutoff in (settings.cutoff, settings.cn_cutoff)
    )
    geometry = atoms.positions, atoms.cell.array, atoms.pbc
    return D3Graph.of(settings, atoms.numbers, geometry, (first, second), like)


def features_of(atoms: Atoms, model: Model) -> dict[str, Tensor]:
    """The extra features that the model embeds, such as total charge and spin.

    Args:
        atoms: Holds them in `atoms.info` or, one for each atom, in `atoms.arrays`.
        model: Says which ones it needs.

    Returns:
        A number for each feature of the structure, (N,) for each feature of the atoms.

    Raises:
        ValueError: If one is missing or out of range.
    """
    features = {}
    for s in model.settings.features:
        key, default = FEATURES.get(s.name, (s.name, None))
        source = atoms.info if s.per == "graph" else atoms.arrays
        value = source.get(key, source.get(s.name, default))
        if value is None:
            where = "info" if s.per == "graph" else "arrays"
            raise ValueError(
                f"the model needs the feature {s.name!r}: set atoms.{where}[{s.name!r}]"
            )
        tensor = torch.as_tensor(np.array(value), dtype=model.dtype, device=model.device)
        if s.per == "graph":
            if tensor.numel() != 1:
                raise ValueError(f"{s.name} must be one number, not {value}")
            tensor = tensor.reshape(())
        if s.type == "categorical":
            low, high = -s.offset, s.num_classes - 1 - s.offset
            if not bool(((tensor >= low) & (tensor <= high)).all()):
                raise ValueError(f"{s.name} must lie between {low} and {high}, not {value}")
        features[s.name] = tensor
    return features


def to_tensors(arrays: dict[str, np.ndarray], like: Tensor) -> dict[str, Any]:
    """Arrays as tensors on the device, and floating-point ones in the dtype, of `like`."""
    return {
        name: torch.as_tensor(
            array, device=like.device, dtype=like.dtype if array.dtype.kind == "f" else None
        )
        for name, array in arrays.items()
    }


def _symbols(numbers: Sequence[int]) -> str:
    return " ".join(chemical_symbols[z] if z < len(chemical_symbols) else f"Z={z}" for z in numbers)
