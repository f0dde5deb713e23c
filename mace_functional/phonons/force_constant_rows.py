"""Rows of the force constants: the change of all forces as an atom of a crystal is displaced.

The energy of an atom depends on the atoms that n layers of a potential with edges reach, n steps
along the edges of the graph, so that two atoms are coupled only where 2n steps connect them. The
crystal is unrolled that far around the atoms to be displaced. What is further out does not feel
them, so that the rows of the cluster are those of the crystal, although the energies at its rim
are not.

A potential without edges may say how far its force constants reach. In a supercell whose planes
are more than twice as far apart, each atom has one image within reach of a displaced atom, and the
rows of the supercell are those of the crystal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import grad, vjp

from mace_functional.autodiff.columns import chunked_vmap
from mace_functional.potential.protocol import EdgePotential, HasParts, HasReach, Potential
from mace_functional.structure.arrays import as_array
from mace_functional.structure.cluster import Cluster

if TYPE_CHECKING:
    from ase import Atoms

    from mace_functional.structure.structure import Structure
    from mace_functional.structure.symmetry import AtomDisplacement

BEYOND = 1e-8
"""Largest force constant beyond the reach of a potential, as a part of the largest of all. Larger
ones show that the reach is too short; in smaller ones rounding cannot be told from it."""


class Rows(NamedTuple):
    """Rows of the force constants, of displaced atoms in the home cell.

    Attributes:
        values: Of each source, for each image, eV/Å², (sources, images, 3).
        atom: Atom of each image, (images,).
        cells: Cell of each image, (images, 3).
    """

    values: np.ndarray
    atom: np.ndarray
    cells: np.ndarray


class FinitePart(NamedTuple):
    """A potential whose force constants end, with its topology and parameters."""

    potential: EdgePotential | HasReach
    topology: Any
    params: Any


def finite_parts(potential: Potential, topology: Any, params: Any) -> list[FinitePart] | None:
    """A potential, or the parts of a sum, if the force constants of all of them end; else None."""
    if isinstance(potential, (EdgePotential, HasReach)):
        return [FinitePart(potential, topology, params)]
    if not isinstance(potential, HasParts):
        return None
    columns = potential.potentials, topology.parts, potential.parts_of(params)
    found: list[FinitePart] = []
    for part in zip(*columns, strict=True):
        of_part = finite_parts(*part)
        if of_part is None:
            return None
        found += of_part
    return found


def rows_of(
    part: FinitePart,
    s: Structure,
    atoms: Atoms,
    sources: Sequence[AtomDisplacement],
    columns: dict[str, Any],
) -> Rows:
    """Rows of a potential whose force constants end.

    Args:
        part: The potential.
        s: The structure.
        atoms: The same as an ASE Atoms object.
        sources: The rows that are wanted: atoms, and directions of their displacements.
        columns: Options of `chunked_vmap`.

    Raises:
        ValueError: If there are force constants beyond the reach that a potential says it has.
    """
    if isinstance(part.potential, EdgePotential):
        return _of_cluster(part.potential, part.topology, part.params, s, sources, columns)
    return _of_supercell(part.potential, part.params, atoms, sources, columns)


def _of_cluster(
    potential: EdgePotential,
    graph: Any,
    params: Any,
    s: Structure,
    sources: Sequence[AtomDisplacement],
    columns: dict[str, Any],
) -> Rows:
    """Rows of a potential with edges, from a cluster around the atoms that are displaced."""
    cluster = Cluster.around(sorted({source.atom for source in sources}), graph, potential.layers)

    def energy(x: Tensor) -> Tensor:
        return potential.atom_energies(cluster, x, s.cell, params).sum()

    atom, cells = cluster.atom, cluster.cells
    positions = s.positions[atom] + cells.to(s.cell) @ s.cell
    home = (cells == 0).all(1)
    displaced = [int(torch.nonzero(home & (atom == source.atom))) for source in sources]
    rows = _changes_of_gradient(energy, positions, displaced, sources, columns)
    return Rows(rows.cpu().numpy(), atom.cpu().numpy(), cells.cpu().numpy())


def _of_supercell(
    potential: HasReach,
    params: Any,
    atoms: Atoms,
    sources: Sequence[AtomDisplacement],
    columns: dict[str, Any],
) -> Rows:
    """Rows of a potential with a reach, from a supercell in which images are out of reach."""
    heights = 1 / np.linalg.norm(atoms.cell.complete().reciprocal().array, axis=1)
    repeats = np.where(atoms.pbc, np.floor(2 * potential.reach / heights).astype(int) + 1, 1)
    large = atoms.repeat(tuple(repeats.tolist()))
    s = potential.structure(large)
    of_structure = potential.energy_fn(s.topology)

    def energy(x: Tensor) -> Tensor:
        return of_structure(x, s.cell, params)

    displaced = [source.atom for source in sources]
    rows = _changes_of_gradient(energy, s.positions, displaced, sources, columns)
    return _unfolded(as_array(rows), atoms, repeats, sources, potential.reach)


def _changes_of_gradient(
    energy: Callable[[Tensor], Tensor],
    positions: Tensor,
    displaced: Sequence[int],
    sources: Sequence[AtomDisplacement],
    columns: dict[str, Any],
) -> Tensor:
    """The change of the gradient as each source is displaced, (sources, images, 3).

    Args:
        energy: Of the positions.
        positions: Å, (images, 3).
        displaced: The image that each source displaces.
        sources: Directions of the displacements.
        columns: Options of `chunked_vmap`.
    """
    pull_back = vjp(grad(energy), positions)[1]
    displacements = positions.new_zeros(len(sources), *positions.shape)
    for row, image, source in zip(displacements, displaced, sources, strict=True):
        row[image] = torch.as_tensor(source.direction).to(row)
    return chunked_vmap(
        lambda u: pull_back(u)[0], displacements, description="Force constants", **columns
    )


def _unfolded(
    rows: np.ndarray,
    atoms: Atoms,
    repeats: np.ndarray,
    sources: Sequence[AtomDisplacement],
    reach: float,
) -> Rows:
    """Rows of a supercell as those of the crystal: each atom at its nearest image.

    Args:
        rows: Of each source, for each atom of the supercell, (sources, atoms, 3).
        atoms: The crystal.
        repeats: Cells of the supercell along each lattice vector, (3,).
        sources: The rows.
        reach: Å, less than half of the distances of its lattice planes.
    """
    size = len(atoms)
    home = np.indices(tuple(repeats.tolist())).reshape(3, -1).T.repeat(size, axis=0)
    atom = np.tile(np.arange(size), len(home) // size)
    lattice, x = atoms.cell.complete().array, atoms.positions
    found: dict[tuple[int, ...], int] = {}
    places = np.empty((len(sources), len(home)), dtype=int)
    near = np.empty((len(sources), len(home)), dtype=bool)
    for k, source in enumerate(sources):
        apart = x[atom] + home @ lattice - x[source.atom]
        # An image within reach is less than half of the supercell away along each lattice vector.
        turns = np.rint(apart @ np.linalg.inv(lattice) / repeats) * atoms.pbc
        cells = home - (turns * repeats).astype(int)
        near[k] = np.linalg.norm(x[atom] + cells @ lattice - x[source.atom], axis=1) <= reach
        for n, key in enumerate(np.column_stack([atom, cells]).tolist()):
            places[k, n] = found.setdefault(tuple(key), len(found))
    largest = np.abs(rows).max(initial=0.0)
    beyond = np.abs(rows[~near]).max(initial=0.0)
    if beyond > BEYOND * largest:
        raise ValueError(
            f"there are force constants of {beyond:.2g} eV/Å² beyond the reach of {reach:g} Å that "
            "the potential says it has: they must end there, so give it a longer one"
        )
    keys = np.array(list(found))
    values = np.zeros((len(sources), len(keys), 3), dtype=rows.dtype)
    for k in range(len(sources)):
        values[k, places[k, near[k]]] = rows[k, near[k]]
    return Rows(values, keys[:, 0], keys[:, 1:])
