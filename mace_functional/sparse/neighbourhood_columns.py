"""Columns of a Hessian from the neighbourhoods of the displaced atoms.

Every column is exact, at a cost that does not depend on the size of the structure
(`derivatives/local_columns.py`). Columns share vectors best if their atoms are far from each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse import csr_array

from mace_functional.derivatives.local_columns import Column, LocalColumns
from mace_functional.parallel.shared_parts import computed
from mace_functional.potential.protocol import EdgePotential, Potential
from mace_functional.potential.terms import Part, has_edges, parts_of_potential
from mace_functional.sparse.block_rows import BlockRows
from mace_functional.structure.hops import Hops

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ase import Atoms

SCATTERED = 8
"""Number of groups of atoms that are computed one after the other, or by workers.

With 4, MOF-5 takes a fifth less time than with 8, but 8 workers would have work for 4.
"""

SAMPLES = 8
"""Number of atoms whose neighbourhoods are counted to estimate the cost of all columns."""

VECTOR_COST = 3.4
"""Time of all columns, in products, over the vectors that neighbourhoods would fill.

Measured with the embedded model on MOF-5: 3.5 for 106 atoms, 3.4 for 848. About half of it is due
to vectors that are not full.
"""


def local_cost(part: Part[EdgePotential], n_atoms: int) -> float:
    """Estimate the time of all columns from neighbourhoods, in products of the whole structure.

    With n layers, a column has vectors of the atoms within 1, ..., n edges by second derivatives,
    and within n + 1, ..., 2n - 1 edges by first derivatives. A product has 2n - 1 full vectors.

    Args:
        part: A potential with edges.
        n_atoms: Number of atoms.
    """
    samples = np.unique(np.linspace(0, n_atoms - 1, SAMPLES).astype(int))
    counts = Hops.around(samples.tolist(), part.topology, 2 * part.potential.layers).counts[1:-1]
    return VECTOR_COST * 3 * float(np.mean(counts)) / len(samples)


def scattered(positions: np.ndarray) -> list[np.ndarray]:
    """Divide atoms into groups whose atoms are far from each other.

    Atoms are sorted by halving the longest extent of the structure again and again; each group then
    has every eighth atom.

    Args:
        positions: Positions in Å, (N, 3).
    """

    def halves(atoms: np.ndarray) -> Iterator[np.ndarray]:
        if len(atoms) == 1:
            yield atoms
            return
        x = positions[atoms]
        order = np.argsort(x[:, np.ptp(x, axis=0).argmax()], kind="stable")
        middle = len(atoms) // 2
        yield from halves(atoms[order[:middle]])
        yield from halves(atoms[order[middle:]])

    order = np.concatenate(list(halves(np.arange(len(positions)))))
    return [order[start::SCATTERED] for start in range(min(SCATTERED, len(order)))]


def fill_by_neighbourhoods(
    rows: BlockRows,
    potential: Potential,
    atoms: Atoms,
    *,
    memory_budget: int | None,
    executor: Executor | None,
    advance: Callable[[int], None],
) -> None:
    """Compute the blocks of a pattern, exactly, each column in the neighbourhood of its atom.

    Args:
        rows: The matrix, zero so far.
        potential: The potential; all its terms have edges.
        atoms: The structure.
        memory_budget: Bytes that a chunk of vectors may fill; a fraction of the free memory if
            None.
        executor: Executor whose workers share the atoms; None to compute in this process.
        advance: Called with the number of columns that are finished.

    Raises:
        MemoryError: If a single vector does not fit the budget.
        ChildProcessError: If the executor is broken, or its workers die again and again.
    """
    groups = scattered(atoms.positions)
    results = computed(
        _ColumnsOfGroups(potential, atoms, memory_budget), groups, executor, potential.device
    )
    with closing(results):
        for group, parts in zip(groups, results, strict=True):
            for columns in parts:
                for atom, column in zip(group.tolist(), columns, strict=True):
                    rows.add_column(atom, _folded(column, len(atoms)))
            advance(3 * len(group))


@dataclass(frozen=True, eq=False)
class _ColumnsOfGroups:
    """The job: columns of groups of atoms, from each term of the potential."""

    potential: Potential
    atoms: Atoms
    memory_budget: int | None

    def begun(self, device: str | None) -> Callable[[np.ndarray], list[list[Column]]]:
        """Linearise the structure, and return the function of a group."""
        potential = self.potential if device is None else self.potential.to(device=device)
        s = potential.structure(self.atoms)
        terms = parts_of_potential(potential, s.topology, potential.params)
        parts = [
            LocalColumns(p, graph, s.positions, s.cell, params, memory_budget=self.memory_budget)
            for p, graph, params in filter(has_edges, terms)
        ]

        def compute(group: np.ndarray) -> list[list[Column]]:
            unit = torch.eye(3).to(s.positions).expand(len(group), 3, 3)
            return [local.columns(group.tolist(), unit) for local in parts]

        return compute


def _folded(column: Column, n_atoms: int) -> np.ndarray:
    """Sum a column over the images of each atom, (3, N, 3)."""
    n_images = len(column.atom)
    fold = csr_array(
        (np.ones(n_images), (column.atom, np.arange(n_images))), shape=(n_atoms, n_images)
    )
    flat = fold.astype(column.values.dtype) @ column.values.transpose(1, 0, 2).reshape(n_images, 9)
    return np.asarray(flat).reshape(n_atoms, 3, 3).transpose(1, 0, 2)
