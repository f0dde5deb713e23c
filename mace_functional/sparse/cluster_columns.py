"""Columns of a Hessian from the neighbourhoods of the displaced atoms.

The columns of some atoms are those of a `Cluster` around them: they are exact, at a cost that does
not depend on the size of the structure. Atoms that are near each other share a cluster. A large
group shares the linearisation of its gradient among many columns, and has a large cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.func import grad, vjp, vmap

from mace_functional.autodiff.columns import measured
from mace_functional.parallel.shared_parts import computed
from mace_functional.phonons.force_constant_rows import parts_of_potential
from mace_functional.potential.protocol import EdgePotential, Potential
from mace_functional.sparse.block_rows import BlockRows
from mace_functional.structure.arrays import as_array
from mace_functional.structure.cluster import Cluster

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ase import Atoms

LINEARISATION = 10
"""Time to linearise a gradient, in columns of the same structure.

Measured on clusters of 140 to 430 nodes of MOF-5 with the embedded model: 9.6 to 10.5.
"""

SAMPLES = 8
"""Number of atoms whose groups are made for every size of groups, to estimate the costs."""

MAX_COST = 1.5
"""Cost of a size of groups, relative to the least, above which no larger ones are tried."""


class EdgePart(NamedTuple):
    """A potential with edges, or a term of a sum, with its topology and parameters."""

    potential: EdgePotential
    topology: Any
    params: Any


def edge_parts(potential: Potential, topology: Any) -> list[EdgePart]:
    """Return the terms of a potential with their topologies and parameters.

    Raises:
        ValueError: If a term has no edges.
    """
    terms = parts_of_potential(potential, topology, potential.params)
    parts = [EdgePart(p, *rest) for p, *rest in terms if isinstance(p, EdgePotential)]
    if len(parts) < len(terms):
        raise ValueError(
            f"a part of {potential} has no edges, so the pattern of its Hessian is unknown: take "
            "HessianOperator.from_potential for products with the Hessian, lowest_modes for its "
            "lowest modes, or gamma_modes for all modes of a small structure"
        )
    return parts


class Groups(NamedTuple):
    """Groups of neighbouring atoms.

    Attributes:
        atoms: Numbers of the atoms of each group.
        cost: Estimated time of all columns, in columns of a structure of one node.
    """

    atoms: list[np.ndarray]
    cost: float


def cheapest_groups(parts: list[EdgePart], positions: np.ndarray) -> Groups:
    """Divide the atoms into groups of the size for which all columns take the least time.

    Args:
        parts: The potential, as terms with edges.
        positions: Positions in Å, (N, 3).
    """
    n_atoms = len(positions)
    samples = np.unique(np.linspace(0, n_atoms - 1, SAMPLES).astype(int))
    best: Groups | None = None
    size = 1
    while True:
        groups = divided(positions, size)
        number = np.empty(n_atoms, dtype=int)
        for k, atoms in enumerate(groups):
            number[atoms] = k
        per_atom = [_cost(parts, groups[k]) / len(groups[k]) for k in number[samples]]
        cost = n_atoms * float(np.mean(per_atom))
        if best is None or cost < best.cost:
            best = Groups(groups, cost)
        if len(groups) == 1 or cost > MAX_COST * best.cost:
            return best
        size *= 2


def _cost(parts: list[EdgePart], atoms: np.ndarray) -> float:
    """Return the time of the columns of a group, in columns of a structure of one node."""
    nodes = sum(len(_cluster(part, atoms).order) for part in parts)
    return float((3 * len(atoms) + LINEARISATION) * nodes)


def divided(positions: np.ndarray, size: int) -> list[np.ndarray]:
    """Divide atoms into groups of at most `size` neighbours, halving the longest extent each time.

    Args:
        positions: Positions in Å, (N, 3).
        size: Largest number of atoms of a group.
    """

    def halves(atoms: np.ndarray) -> Iterator[np.ndarray]:
        if len(atoms) <= size:
            yield atoms
            return
        x = positions[atoms]
        along = x[:, np.ptp(x, axis=0).argmax()]
        order = np.argsort(along, kind="stable")
        middle = len(atoms) // 2
        yield from halves(atoms[order[:middle]])
        yield from halves(atoms[order[middle:]])

    return list(halves(np.arange(len(positions))))


def fill_by_clusters(
    rows: BlockRows,
    groups: list[np.ndarray],
    potential: Potential,
    atoms: Atoms,
    *,
    memory_budget: int | None,
    executor: Executor | None,
    advance: Callable[[int], None],
) -> None:
    """Compute the blocks of a pattern, exactly, from a cluster for each group of atoms.

    Args:
        rows: The matrix, zero so far.
        groups: Numbers of the atoms of each group.
        potential: The potential; all its terms have edges.
        atoms: The structure.
        memory_budget: Bytes that a chunk of columns may fill; a fraction of the free memory if
            None.
        executor: Executor whose workers share the groups; None to compute in this process.
        advance: Called with the number of columns that are finished.

    Raises:
        MemoryError: If a single column does not fit the budget.
        ChildProcessError: If the executor is broken, or its workers die again and again.
    """
    job = _Groups(potential, atoms, memory_budget)
    results = computed(job, groups, executor, potential.device)
    with closing(results):
        for group, parts in zip(groups, results, strict=True):
            for columns, images in parts:
                folded = _folded(columns, images, len(atoms))
                for atom, column in zip(group.tolist(), folded, strict=True):
                    rows.add_column(atom, column)
            advance(3 * len(group))


_Images = tuple[np.ndarray, np.ndarray]
"""Changes of the gradients of images, (3k, images, 3), and the atom of each image, (images,)."""


@dataclass(frozen=True, eq=False)
class _Groups:
    """The job: columns of groups of atoms, from each term of the potential."""

    potential: Potential
    atoms: Atoms
    memory_budget: int | None

    def begun(self, device: str | None) -> Callable[[np.ndarray], list[_Images]]:
        """Return the function of a group."""
        potential = self.potential if device is None else self.potential.to(device=device)
        s = potential.structure(self.atoms)
        parts = edge_parts(potential, s.topology)

        def of_part(part: EdgePart, group: np.ndarray) -> _Images:
            cluster = _cluster(part, group)
            apply, displacements = _linearised(part, cluster, group, s.positions, s.cell)
            first, sizes = zip(*measured(apply, displacements, self.memory_budget), strict=True)
            rest = (apply(chunk) for chunk in displacements[2:].split(sizes[-1]))
            return torch.cat([*first, *rest]).detach().cpu().numpy(), as_array(cluster.atom)

        return lambda group: [of_part(part, group) for part in parts]


def _cluster(part: EdgePart, atoms: np.ndarray) -> Cluster:
    return Cluster.around(atoms.tolist(), part.topology, part.potential.layers)


def _linearised(
    part: EdgePart, cluster: Cluster, atoms: np.ndarray, positions: Tensor, cell: Tensor
) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Return the map from displacements of the images to changes of gradients, and unit vectors."""

    def energy(x: Tensor) -> Tensor:
        return part.potential.atom_energies(cluster, x, cell, part.params).sum()

    images = positions[cluster.atom] + cluster.cells.to(cell) @ cell
    pull_back = vjp(grad(energy), images)[1]
    home = np.flatnonzero((as_array(cluster.cells) == 0).all(1))
    atom_of_home = as_array(cluster.atom)[home]
    order = np.argsort(atom_of_home)
    own = home[order][np.searchsorted(atom_of_home[order], atoms)]
    displacements = images.new_zeros(len(atoms), 3, *images.shape)
    for displaced, image in zip(displacements, own.tolist(), strict=True):
        displaced[range(3), image, range(3)] = 1.0
    return vmap(lambda u: pull_back(u)[0]), displacements.flatten(0, 1)


def _folded(columns: np.ndarray, atom: np.ndarray, n_atoms: int) -> np.ndarray:
    """Sum columns over the images of each atom, (k, 3, N, 3).

    Args:
        columns: Changes of the gradients of images, (3k, images, 3).
        atom: Atom of each image, (images,).
        n_atoms: Number N of atoms.
    """
    n_images = len(atom)
    fold = csr_array((np.ones(n_images), (atom, np.arange(n_images))), shape=(n_atoms, n_images))
    flat = fold.astype(columns.dtype) @ columns.transpose(1, 0, 2).reshape(n_images, -1)
    return np.asarray(flat).reshape(n_atoms, -1, 3, 3).transpose(1, 2, 0, 3)
