"""Connected parts of a structure, and the lattice translations that connect each to itself.

Two atoms are connected if they interact in the potential. A part is a connected component of this
graph. In a periodic structure, a part may be connected to its own image at a lattice vector T.
These T span nothing for a molecule in a box, a line for a chain, a plane for a layer, and space for
a crystal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

if TYPE_CHECKING:
    from torch import Tensor

    from mace_functional.structure.topology import Topology

PHASE_TOLERANCE = 1e-8
"""Distance of q.T from a whole number up to which images at lattice vectors T move in phase."""


@dataclass(frozen=True, eq=False)
class Parts:
    """Connected parts of a structure of N atoms.

    Attributes:
        number: Part of each atom, from 0, (N,).
        cells: Unit shift that moves each atom next to the other atoms of its part, (N, 3).
        translations: For each part, unit shifts T that connect it to itself, (k, 3); -T and sums
            of these do so too.
    """

    number: np.ndarray
    cells: np.ndarray
    translations: tuple[np.ndarray, ...]

    def __repr__(self) -> str:
        return f"Parts({self.count} connected parts of {len(self.number)} atoms)"

    @classmethod
    def whole(cls, count: int, pbc: Sequence[bool]) -> Parts:
        """Return one part of all atoms, connected to itself along all periodic directions."""
        along = np.eye(3, dtype=int)[np.asarray(pbc, dtype=bool)]
        return cls(np.zeros(count, dtype=int), np.zeros((count, 3), dtype=int), (along,))

    @classmethod
    def of_edges(
        cls, count: int, first: np.ndarray, second: np.ndarray, shifts: np.ndarray
    ) -> Parts:
        """Find the connected parts, given the pairs of connected atoms.

        Args:
            count: Number N of atoms.
            first: Atom i of each pair, (E,); each pair may be listed in one order only.
            second: Atom j of each pair, (E,); it may equal i.
            shifts: Unit shifts S of the pairs, `x_i - x_j + S cell`, (E, 3).
        """
        shifts = np.rint(shifts).astype(int)
        pairs, index = np.unique(
            np.concatenate([first * count + second, second * count + first]), return_index=True
        )
        steps = np.concatenate([-shifts, shifts])[index]  # from i to the image of j
        rows, columns = np.divmod(pairs, count)
        bonds = csr_array((np.ones(len(pairs)), (rows, columns)), shape=(count, count))
        number = connected_components(bonds, directed=False)[1].astype(int)
        roots = np.unique(number, return_index=True)[1]
        parent = _tree(bonds, roots)
        cells, inner = np.zeros((count, 3), dtype=int), np.flatnonzero(parent != np.arange(count))
        cells[inner] = steps[np.searchsorted(pairs, parent[inner] * count + inner)]
        while (cells[parent] != 0).any():  # pointer jumping: each round doubles the depth covered
            cells, parent = cells + cells[parent], parent[parent]
        return cls(number, cells, _closures(number, cells, first, second, shifts))

    @property
    def count(self) -> int:
        """Number of parts."""
        return len(self.translations)

    def atoms(self) -> list[np.ndarray]:
        """Return the indices of the atoms of each part."""
        order = np.argsort(self.number, kind="stable")
        return np.split(order, np.cumsum(np.bincount(self.number))[:-1])

    def in_phase(self, q: np.ndarray) -> np.ndarray:
        """Return True for each part whose connected images move in phase at wave vector q, (P,).

        Args:
            q: Wave vector in units of the reciprocal lattice vectors, (3,).
        """
        phases = (t @ q for t in self.translations)
        return np.array([bool((abs(p - np.rint(p)) < PHASE_TOLERANCE).all()) for p in phases])


def parts_of(topology: Topology, positions: Tensor, cell: Tensor) -> Parts:
    """Find the parts of a structure that are connected by interactions of its potential.

    Args:
        topology: Topology of the structure.
        positions: Positions in Å, (N, 3).
        cell: Lattice vectors in Å, (3, 3).
    """
    return Parts.of_edges(topology.n_atoms, *topology.pairs_within(positions, cell))


def _tree(bonds: csr_array, roots: np.ndarray) -> np.ndarray:
    """Return the parent of each atom in a spanning tree of its part; a root is its own parent.

    A single breadth-first search starts from an auxiliary atom that is bonded to all roots.
    """
    count = bonds.shape[0]
    ends = np.concatenate([bonds.indptr, [bonds.indptr[-1] + len(roots)]])
    joined = csr_array(
        (
            np.ones(len(bonds.indices) + len(roots)),
            np.concatenate([bonds.indices, roots]),
            ends,
        ),
        shape=(count + 1, count + 1),
    )
    parent = breadth_first_order(joined, count, directed=True, return_predecessors=True)[1][:count]
    return np.where(parent == count, np.arange(count), parent).astype(int)


def _closures(
    number: np.ndarray,
    cells: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    shifts: np.ndarray,
) -> tuple[np.ndarray, ...]:
    """Return the unit shifts T by which pairs connect each part to its own images."""
    vectors = cells[first] - shifts - cells[second]
    closing = (vectors != 0).any(1)
    vectors, part = vectors[closing], number[first[closing]]
    width = 2 * int(np.abs(vectors).max(initial=0)) + 1
    base = width ** np.arange(2, -1, -1)
    codes = vectors @ base  # a unique integer per vector, with the sign of its first component
    found = np.unique(part * width**3 + np.abs(codes) + (width**3) // 2)
    part, codes = np.divmod(found, width**3)
    digits = (codes[:, None] // base % width) - width // 2
    ends = np.searchsorted(part, np.arange(number.max(initial=-1) + 2))
    return tuple(digits[a:b] for a, b in pairwise(ends))
