"""Rows of the force constants: changes of all forces of a crystal as one atom is displaced.

In a potential with edges and n layers, the energy of an atom depends on all atoms within n steps
along the edges of the graph. Two atoms are therefore coupled only if 2n steps connect them, and a
row is computed exactly in this neighbourhood (`derivatives/local_columns.py`).

A potential without edges may state the reach of its force constants. The rows are then computed in
a supercell whose lattice planes are more than twice the reach apart. Each atom has one image within
reach of a displaced atom, so the rows of the supercell are exactly those of the crystal.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from rich.progress import track
from torch import Tensor
from torch.func import grad, vjp

from mace_functional.autodiff.columns import chunked_vmap
from mace_functional.derivatives.local_columns import LocalColumns
from mace_functional.potential.protocol import EdgePotential, HasParts, HasReach, Potential
from mace_functional.structure.arrays import as_array

if TYPE_CHECKING:
    from ase import Atoms

    from mace_functional.structure.structure import Structure
    from mace_functional.structure.symmetry import AtomDisplacement

DESCRIPTION = "Force constants"
"""Title of the progress bar."""

MAX_BEYOND_REACH = 1e-8
"""Largest force constant beyond the reach of a potential, relative to the largest of all.

Larger values show that the reach is too short; smaller values are rounding errors.
"""


class Row(NamedTuple):
    """A row of the force constants, for a displaced atom in the home cell.

    Attributes:
        values: Force constants of the displacement with each image, eV/Å², (images, 3).
        atom: Number of the atom of each image, (images,).
        cells: Cell of each image, (images, 3).
    """

    values: np.ndarray
    atom: np.ndarray
    cells: np.ndarray


class Part(NamedTuple):
    """A term of a potential, with its topology and parameters."""

    potential: Potential
    topology: Any
    params: Any

    @property
    def is_finite(self) -> bool:
        """True if the range of the force constants is known to be finite."""
        return isinstance(self.potential, (EdgePotential, HasReach))


def parts_of_potential(potential: Potential, topology: Any, params: Any) -> list[Part]:
    """Return the terms of a potential, and of the sums in it; or the potential as the only one."""
    if not isinstance(potential, HasParts):
        return [Part(potential, topology, params)]
    terms = zip(potential.potentials, topology.parts, potential.parts_of(params), strict=True)
    return [part for term in terms for part in parts_of_potential(*term)]


def rows_of(
    part: Part,
    s: Structure,
    atoms: Atoms,
    sources: Sequence[AtomDisplacement],
    columns: dict[str, Any],
) -> list[Row]:
    """Compute rows of the force constants of a potential with a finite range.

    Args:
        part: The potential.
        s: The structure.
        atoms: The same structure as an ASE Atoms object.
        sources: Rows to compute: atoms, and directions of their displacements.
        columns: Options of `chunked_vmap`.

    Raises:
        ValueError: If there are force constants beyond the reach that the potential states.
    """
    if isinstance(part.potential, EdgePotential):
        return _of_edges(part.potential, part.topology, part.params, s, sources, **columns)
    assert isinstance(part.potential, HasReach)
    return _of_supercell(part.potential, part.params, atoms, sources, columns)


def _of_edges(
    potential: EdgePotential,
    graph: Any,
    params: Any,
    s: Structure,
    sources: Sequence[AtomDisplacement],
    *,
    progress: bool,
    **chunks: Any,
) -> list[Row]:
    """Compute rows of a potential with edges, each in the neighbourhood of its atom."""
    local = LocalColumns(potential, graph, s.positions, s.cell, params, **chunks)
    rows: list[Row] = []
    groups = [list(of_atom) for _, of_atom in groupby(sources, key=lambda source: source.atom)]
    for of_atom in track(groups, DESCRIPTION, disable=not progress):
        directions = np.array([source.direction for source in of_atom])
        column = local.column(of_atom[0].atom, torch.as_tensor(directions).to(s.positions))
        rows += [Row(values, column.atom, column.cells) for values in column.values]
    return rows


def _of_supercell(
    potential: HasReach,
    params: Any,
    atoms: Atoms,
    sources: Sequence[AtomDisplacement],
    columns: dict[str, Any],
) -> list[Row]:
    """Compute rows of a potential with a reach, from a supercell whose images are out of reach."""
    heights = 1 / np.linalg.norm(atoms.cell.complete().reciprocal().array, axis=1)
    repeats = np.where(atoms.pbc, np.floor(2 * potential.reach / heights).astype(int) + 1, 1)
    supercell = atoms.repeat(tuple(repeats.tolist()))
    s = potential.structure(supercell)
    supercell_energy = potential.energy_fn(s.topology)

    def energy(x: Tensor) -> Tensor:
        return supercell_energy(x, s.cell, params)

    pull_back = vjp(grad(energy), s.positions)[1]
    displacements = s.positions.new_zeros(len(sources), *s.positions.shape)
    for row, source in zip(displacements, sources, strict=True):
        row[source.atom] = torch.as_tensor(source.direction).to(row)
    rows = chunked_vmap(
        lambda u: pull_back(u)[0], displacements, description=DESCRIPTION, **columns
    )
    return _unfolded(as_array(rows), atoms, repeats, sources, potential.reach)


def _unfolded(
    rows: np.ndarray,
    atoms: Atoms,
    repeats: np.ndarray,
    sources: Sequence[AtomDisplacement],
    reach: float,
) -> list[Row]:
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
        unfolded.append(Row(row[within], atom[within], cells[within]))
    if beyond > MAX_BEYOND_REACH * np.abs(rows).max(initial=0.0):
        raise ValueError(
            f"there are force constants of {beyond:.2g} eV/Å² beyond the reach of {reach:g} Å that "
            "the potential states: give it a longer reach"
        )
    return unfolded
