"""Rows of the force constants: changes of all forces of a crystal as one atom is displaced.

In a potential with edges and n layers, the energy of an atom depends on all atoms within n steps
along the edges of the graph. Two atoms are therefore coupled only if 2n steps connect them. The
rows are computed in a cluster: the crystal within 2n steps of the displaced atoms. Atoms further
out are not coupled to the displaced atoms, so the rows of the cluster are exactly those of the
crystal, although the energies of atoms at its surface are not.

A potential without edges may state the reach of its force constants. The rows are then computed in
a supercell whose lattice planes are more than twice the reach apart. Each atom has one image within
reach of a displaced atom, so the rows of the supercell are exactly those of the crystal.
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

MAX_BEYOND_REACH = 1e-8
"""Largest force constant beyond the reach of a potential, relative to the largest of all.

Larger values show that the reach is too short; smaller values are rounding errors.
"""


class Rows(NamedTuple):
    """Rows of the force constants, for displaced atoms in the home cell.

    Attributes:
        values: Force constants of each source with each image, eV/Å², (sources, images, 3).
        atom: Number of the atom of each image, (images,).
        cells: Cell of each image, (images, 3).
    """

    values: np.ndarray
    atom: np.ndarray
    cells: np.ndarray


class FinitePart(NamedTuple):
    """A potential whose force constants have a finite range, with its topology and parameters."""

    potential: EdgePotential | HasReach
    topology: Any
    params: Any


def finite_parts(potential: Potential, topology: Any, params: Any) -> list[FinitePart] | None:
    """Return the parts of a potential if all force constants have a finite range, else None."""
    if isinstance(potential, (EdgePotential, HasReach)):
        return [FinitePart(potential, topology, params)]
    if not isinstance(potential, HasParts):
        return None
    columns = potential.potentials, topology.parts, potential.parts_of(params)
    parts: list[FinitePart] = []
    for part in zip(*columns, strict=True):
        subparts = finite_parts(*part)
        if subparts is None:
            return None
        parts += subparts
    return parts


def rows_of(
    part: FinitePart,
    s: Structure,
    atoms: Atoms,
    sources: Sequence[AtomDisplacement],
    columns: dict[str, Any],
) -> Rows:
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
    """Compute rows of a potential with edges, from a cluster around the displaced atoms."""
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
    """Compute rows of a potential with a reach, from a supercell whose images are out of reach."""
    heights = 1 / np.linalg.norm(atoms.cell.complete().reciprocal().array, axis=1)
    repeats = np.where(atoms.pbc, np.floor(2 * potential.reach / heights).astype(int) + 1, 1)
    supercell = atoms.repeat(tuple(repeats.tolist()))
    s = potential.structure(supercell)
    supercell_energy = potential.energy_fn(s.topology)

    def energy(x: Tensor) -> Tensor:
        return supercell_energy(x, s.cell, params)

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
    """Compute the change of the gradient for the displacement of each source, (sources, images, 3).

    Args:
        energy: Energy as a function of the positions, eV.
        positions: Positions of all images in Å, (images, 3).
        displaced: Number of the image that each source displaces.
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
    columns: dict[tuple[int, ...], int] = {}
    column = np.empty((len(sources), len(home)), dtype=int)
    within_reach = np.empty((len(sources), len(home)), dtype=bool)
    for k, source in enumerate(sources):
        r = x[atom] + home @ lattice - x[source.atom]
        # An image within reach is less than half of the supercell away along each lattice vector.
        wraps = np.rint(r @ np.linalg.inv(lattice) / repeats) * atoms.pbc
        cells = home - (wraps * repeats).astype(int)
        within_reach[k] = (
            np.linalg.norm(x[atom] + cells @ lattice - x[source.atom], axis=1) <= reach
        )
        for n, key in enumerate(np.column_stack([atom, cells]).tolist()):
            column[k, n] = columns.setdefault(tuple(key), len(columns))
    largest = np.abs(rows).max(initial=0.0)
    beyond = np.abs(rows[~within_reach]).max(initial=0.0)
    if beyond > MAX_BEYOND_REACH * largest:
        raise ValueError(
            f"there are force constants of {beyond:.2g} eV/Å² beyond the reach of {reach:g} Å that "
            "the potential states: give it a longer reach"
        )
    keys = np.array(list(columns))
    values = np.zeros((len(sources), len(keys), 3), dtype=rows.dtype)
    for k in range(len(sources)):
        values[k, column[k, within_reach[k]]] = rows[k, within_reach[k]]
    return Rows(values, keys[:, 0], keys[:, 1:])
