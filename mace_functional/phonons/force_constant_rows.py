"""Rows of the force constants: changes of all forces of a crystal as one atom is displaced.

In a potential with edges and n layers, the energy of an atom depends on all atoms within n steps
along the edges of the graph. Two atoms are therefore coupled only if 2n steps connect them, and a
row is computed exactly in this neighbourhood (`derivatives/local_columns.py`).

A potential without edges may state the reach of its force constants. The rows are then computed in
a supercell whose lattice planes are more than twice the reach apart. Each atom has one image within
reach of a displaced atom, so the rows of the supercell are exactly those of the crystal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from mace_functional.autodiff.columns import chunked_map
from mace_functional.derivatives.hessian_products import HessianProducts
from mace_functional.derivatives.local_columns import Column, LocalColumns
from mace_functional.parallel.shared_parts import computed
from mace_functional.parallel.vectors import mapped_vectors
from mace_functional.potential.protocol import EdgePotential, HasReach, Potential
from mace_functional.potential.terms import Part
from mace_functional.structure.arrays import as_array

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ase import Atoms

    from mace_functional.autodiff.columns import ChunkSize
    from mace_functional.structure.structure import Structure
    from mace_functional.structure.symmetry import AtomDisplacement

DESCRIPTION = "Force constants"
"""Title of the progress bar."""

MAX_BEYOND_REACH = 1e-8
"""Largest force constant beyond the reach of a potential, relative to the largest of all.

Larger values show that the reach is too short; smaller values are rounding errors.
"""


class DisplacedRow(NamedTuple):
    """A row of the force constants, for a displaced atom in the home cell.

    Attributes:
        values: Force constants of the displacement with each image, eV/Å², (images, 3).
        atom: Number of the atom of each image, (images,).
        cells: Cell of each image, (images, 3).
    """

    values: np.ndarray
    atom: np.ndarray
    cells: np.ndarray


def rows_of(
    part: Part[Potential],
    s: Structure,
    atoms: Atoms,
    sources: Sequence[AtomDisplacement],
    columns: dict[str, Any],
) -> list[DisplacedRow]:
    """Compute rows of the force constants of a potential with a finite range.

    Args:
        part: The potential.
        s: The structure.
        atoms: The same structure as an ASE Atoms object.
        sources: Rows to compute: atoms, and directions of their displacements.
        columns: Options of `chunked_vmap`, and `executor`.

    Raises:
        ValueError: If there are force constants beyond the reach that the potential states.
    """
    if isinstance(part.potential, EdgePotential):
        return _of_edges(part.potential, atoms, s.positions, sources, **columns)
    assert isinstance(part.potential, HasReach)
    return _of_supercell(part.potential, atoms, sources, **columns)


def _of_edges(
    potential: EdgePotential,
    atoms: Atoms,
    like: Tensor,
    sources: Sequence[AtomDisplacement],
    *,
    executor: Executor | None,
    progress: bool,
    **chunks: Any,
) -> list[DisplacedRow]:
    """Compute rows of a potential with edges, each in the neighbourhood of its atom."""
    groups = [list(of_atom) for _, of_atom in groupby(sources, key=lambda source: source.atom)]
    tasks = [
        (of_atom[0].atom, np.array([source.direction for source in of_atom])) for of_atom in groups
    ]
    job = _RowsOfAtoms(potential, atoms.copy(), **chunks)
    columns = computed(job, tasks, executor, like.device)
    rows: list[DisplacedRow] = []
    with closing(columns):
        for column in track(columns, DESCRIPTION, total=len(tasks), disable=not progress):
            rows += [DisplacedRow(values, column.atom, column.cells) for values in column.values]
    return rows


@dataclass(frozen=True, eq=False)
class _RowsOfAtoms:
    """The job: columns of one atom each, for displacements along some directions."""

    potential: EdgePotential
    atoms: Atoms
    chunk_size: ChunkSize
    memory_budget: int | None

    def begun(self, device: str | None) -> Callable[[tuple[int, np.ndarray]], Column]:
        """Linearise one cell, and return the function of an atom and directions (n, 3)."""
        potential: Any = self.potential if device is None else self.potential.to(device=device)
        s = potential.structure(self.atoms)
        local = LocalColumns(
            potential,
            s.topology,
            s.positions,
            s.cell,
            potential.params,
            chunk_size=self.chunk_size,
            memory_budget=self.memory_budget,
        )

        def compute(task: tuple[int, np.ndarray]) -> Column:
            atom, directions = task
            (column,) = local.columns([atom], torch.as_tensor(directions)[None].to(s.positions))
            return column

        return compute


def _of_supercell(
    potential: HasReach,
    atoms: Atoms,
    sources: Sequence[AtomDisplacement],
    *,
    executor: Executor | None,
    **columns: Any,
) -> list[DisplacedRow]:
    """Compute rows of a potential with a reach, from a supercell whose images are out of reach."""
    heights = 1 / np.linalg.norm(atoms.cell.complete().reciprocal().array, axis=1)
    repeats = np.where(atoms.pbc, np.floor(2 * potential.reach / heights).astype(int) + 1, 1)
    supercell = atoms.repeat(tuple(repeats.tolist()))
    s = potential.structure(supercell)
    displacements = s.positions.new_zeros(len(sources), *s.positions.shape)
    for row, source in zip(displacements, sources, strict=True):
        row[source.atom] = torch.as_tensor(source.direction).to(row)
    products = HessianProducts(potential, supercell)
    if executor is None:
        rows = chunked_map(products.begun(None), displacements, description=DESCRIPTION, **columns)
    else:
        rows = mapped_vectors(products, displacements, executor, description=DESCRIPTION, **columns)
    return _unfolded(as_array(rows), atoms, repeats, sources, potential.reach)


def _unfolded(
    rows: np.ndarray,
    atoms: Atoms,
    repeats: np.ndarray,
    sources: Sequence[AtomDisplacement],
    reach: float,
) -> list[DisplacedRow]:
    """Convert rows of a supercell to rows of the crystal: each atom becomes its nearest image.

    Args:
        rows: Force constants of each source with each atom of the supercell, (sources, atoms, 3).
        atoms: The crystal.
        repeats: Cells of the supercell along each lattice vector, (3,).
        sources: Rows: atoms, and directions of their displacements.
        reach: Reach in Å, less than half of the distance of the lattice planes of the supercell.
    """
    n_atoms = len(atoms)
    home = np.indices(tuple(repeats.tolist())).reshape(3, -1).T.repeat(n_atoms, axis=0)
    atom = np.tile(np.arange(n_atoms), len(home) // n_atoms)
    lattice, x = atoms.cell.complete().array, atoms.positions
    unfolded, beyond = [], 0.0
    for row, source in zip(rows, sources, strict=True):
        r = x[atom] + home @ lattice - x[source.atom]
        # An image within reach is less than half of the supercell away along each lattice vector.
        wraps = np.rint(r @ np.linalg.inv(lattice) / repeats) * atoms.pbc
        cells = home - (wraps * repeats).astype(int)
        within = np.linalg.norm(x[atom] + cells @ lattice - x[source.atom], axis=1) <= reach
        beyond = max(beyond, np.abs(row[~within]).max(initial=0.0))
        unfolded.append(DisplacedRow(row[within], atom[within], cells[within]))
    if beyond > MAX_BEYOND_REACH * np.abs(rows).max(initial=0.0):
        raise ValueError(
            f"there are force constants of {beyond:.2g} eV/Å² beyond the reach of {reach:g} Å that "
            "the potential states: give it a longer reach"
        )
    return unfolded
