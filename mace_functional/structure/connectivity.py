"""Connected parts of a structure, and the lattice translations that connect each to itself.

Two atoms are connected where the potential lets them feel each other. A part is what is connected.
In a periodic structure it is connected to its own image at the lattice vector T along some T: along
none for a molecule in a box, along the multiples of one for a chain, in a plane for a layer, in
space for a crystal.
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
"""How far q.T may be from a whole number where images a lattice vector T apart move in phase."""


@dataclass(frozen=True, eq=False)
class Parts:
    """Connected parts of a structure of N atoms.

    Attributes:
        number: Part of each atom, from 0, (N,).
        cells: Lattice vector, in units of the cell, that moves each atom next to its part, (N, 3).
        translations: For each part the lattice vectors that connect it to itself, (k, 3), in units
            of the cell; one of T and -T. Sums of them do so too.
    """

    number: np.ndarray
    cells: np.ndarray
    translations: tuple[np.ndarray, ...]

    def __repr__(self) -> str:
        return f"Parts({self.count} connected parts of {len(self.number)} atoms)"

    @classmethod
    def whole(cls, count: int, pbc: Sequence[bool]) -> Parts:
        """One part of all atoms, connected to itself along all periodic directions."""
        along = np.eye(3, dtype=int)[np.asarray(pbc, dtype=bool)]
        return cls(np.zeros(count, dtype=int), np.zeros((count, 3), dtype=int), (along,))

    @classmethod
    def of_edges(
        cls, count: int, first: np.ndarray, second: np.ndarray, shifts: np.ndarray
    ) -> Parts:
        """Parts by pairs of atoms.

        Args:
            count: Number of atoms.
            first: Atom i of each pair, (E,); an order of the two is enough.
            second: Atom j, (E,), which may be i.
            shifts: Lattice vectors S of the pairs, `x_i - x_j + S cell`, (E, 3).
        """
        shifts = np.rint(shifts).astype(int)
        pairs, where = np.unique(
            np.concatenate([first * count + second, second * count + first]), return_index=True
        )
        steps = np.concatenate([-shifts, shifts])[where]  # from i to the image of j
        rows, columns = np.divmod(pairs, count)
        bonds = csr_array((np.ones(len(pairs)), (rows, columns)), shape=(count, count))
        number = connected_components(bonds, directed=False)[1].astype(int)
        roots = np.unique(number, return_index=True)[1]
        before = _tree(bonds, roots)
        cells, inner = np.zeros((count, 3), dtype=int), np.flatnonzero(before != np.arange(count))
        cells[inner] = steps[np.searchsorted(pairs, before[inner] * count + inner)]
        while (cells[before] != 0).any():  # twice as far from the root with every round
            cells, before = cells + cells[before], before[before]
        return cls(number, cells, _closures(number, cells, first, second, shifts))

    @property
    def count(self) -> int:
        """Number of parts."""
        return len(self.translations)

    def atoms(self) -> list[np.ndarray]:
        """Numbers of the atoms of each part."""
        order = np.argsort(self.number, kind="stable")
        return np.split(order, np.cumsum(np.bincount(self.number))[:-1])

    def in_phase(self, q: np.ndarray) -> np.ndarray:
        """Whether the images of each part that are connected move alike in a wave q, (P,).

        Args:
            q: Wave vector in units of the reciprocal lattice vectors, (3,).
        """
        phases = (along @ q for along in self.translations)
        return np.array([bool((abs(p - np.rint(p)) < PHASE_TOLERANCE).all()) for p in phases])


def parts_of(topology: Topology, positions: Tensor, cell: Tensor) -> Parts:
    """The connected parts of a structure, by the pairs that feel each other in its potential.

    Args:
        topology: Of the structure.
        positions: Å, (N, 3).
        cell: Å, (3, 3).
    """
    return Parts.of_edges(topology.n_atoms, *topology.pairs_within(positions, cell))


def _tree(bonds: csr_array, roots: np.ndarray) -> np.ndarray:
    """The atom before each atom on the way from the root of its part; roots are before themselves.

    One search is enough, from an atom that does not exist and is bound to all roots.
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
    before = breadth_first_order(joined, count, directed=True, return_predecessors=True)[1][:count]
    return np.where(before == count, np.arange(count), before).astype(int)


def _closures(
    number: np.ndarray,
    cells: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    shifts: np.ndarray,
) -> tuple[np.ndarray, ...]:
    """Lattice vectors by which the pairs lead from each part to its own images."""
    vectors = cells[first] - shifts - cells[second]
    closing = (vectors != 0).any(1)
    vectors, part = vectors[closing], number[first[closing]]
    width = 2 * int(np.abs(vectors).max(initial=0)) + 1
    base = width ** np.arange(2, -1, -1)
    codes = vectors @ base  # one number for each vector, with the sign of its first component
    found = np.unique(part * width**3 + np.abs(codes) + (width**3) // 2)
    part, codes = np.divmod(found, width**3)
    digits = (codes[:, None] // base % width) - width // 2
    ends = np.searchsorted(part, np.arange(number.max(initial=-1) + 2))
    return tuple(digits[a:b] for a, b in pairwise(ends))
