"""Symmetry operations of a crystal, and the rows of force constants that they do not determine.

An operation g moves atom k of cell R to atom p(k) of cell `W R + T_k`, and rotates Cartesian
vectors by W. The energy is invariant, so that the force constants obey

    Phi(g(0j), g(Rk)) = W Phi(0j, Rk) W^T.

The row of a displacement of atom p(j) along W e therefore follows from the row of atom j along e: g
permutes its atoms, and W rotates its forces. A few rows determine all others.

All calls of spglib, directly or through seekpath and ASE, are in this module. They use one
tolerance, the distance of an atom from the image of another one under an operation.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import seekpath
import spglib
from ase.geometry import complete_cell
from ase.spacegroup.symmetrize import refine_symmetry

from mace_functional.support.defaults import SYMPREC
from mace_functional.support.validation import LOOSEST, symmetry_tolerance

if TYPE_CHECKING:
    from ase import Atoms

NOTABLE = 3e-3
"""Deviation from symmetry above which a warning is given, Å; a few times the default tolerance."""

WIDER_TOLERANCES = (10.0, 30.0)
"""Multiples of the tolerance at which a crystal is tested for a higher symmetry, for a warning."""

MIN_VOLUME = 0.3
"""Volume that three displacements of unit length must span at least.

A smaller volume amplifies rounding errors of the rows for other directions.
"""

DIRECTIONS = np.array([v for v in np.ndindex(3, 3, 3) if v > (1, 1, 1)]) - 1
"""Candidate directions of displacements: axes, face and body diagonals of a cube, (13, 3)."""

VACUUM = 20.0
"""Vacuum along non-periodic directions in the cell for spglib, Å; added to twice the extent."""


@dataclass(frozen=True, eq=False)
class Operations:
    """G symmetry operations of a structure of N atoms.

    Attributes:
        lattice: W for integer lattice vectors as columns, (G, 3, 3).
        cartesian: W for Cartesian vectors as columns, (G, 3, 3).
        atom: Atom p(k) to which atom k moves, (G, N).
        shift: Cell T_k to which atom k moves, (G, N, 3).
        deviation: Largest distance of an atom from the image of another one, Å.
    """

    lattice: np.ndarray
    cartesian: np.ndarray
    atom: np.ndarray
    shift: np.ndarray
    deviation: float = 0.0

    @classmethod
    def identity(cls, atoms: int) -> Operations:
        """Return the group that contains only the identity."""
        return cls(
            lattice=np.eye(3, dtype=int)[None],
            cartesian=np.eye(3)[None],
            atom=np.arange(atoms)[None],
            shift=np.zeros((1, atoms, 3), dtype=int),
        )

    @classmethod
    def of(
        cls, atoms: Atoms, kinds: np.ndarray, symprec: float = SYMPREC, proper: bool = False
    ) -> Operations:
        """Find the operations of a structure with spglib.

        spglib needs a crystal that is periodic in three directions. A chain is put into a
        rectangular box and keeps only the operations that map the box onto itself.

        Args:
            atoms: Periodic in any directions.
            kinds: An integer for each atom; equivalent atoms have the same, (N,).
            symprec: Largest distance of an atom from the image of another one, Å.
            proper: Leave out improper operations, such as inversion and reflections.

        Raises:
            ValueError: If the tolerance is out of range, or does not fit the structure.

        Warns:
            UserWarning: The deviation from symmetry exceeds `NOTABLE`.
        """
        symprec = symmetry_tolerance("symprec", symprec)
        cell, pbc = _cell_with_vacuum(atoms), np.asarray(atoms.pbc)
        scaled = atoms.positions @ np.linalg.inv(cell)
        found, deviation = [], 0.0
        for rotation, translation in zip(*_spglib(cell, scaled, kinds, symprec), strict=True):
            moved = scaled @ rotation.T + translation
            differences = moved[:, None] - scaled
            shift = np.rint(differences).astype(int)
            distances = np.linalg.norm((differences - shift) @ cell, axis=2)
            distances[kinds[:, None] != kinds] = np.inf
            atom = distances.argmin(1)
            shift = shift[np.arange(len(atom)), atom]
            # Operations that mix periodic and non-periodic directions belong to the box alone.
            mixes = rotation[~pbc][:, pbc].any() or rotation[pbc][:, ~pbc].any()
            excluded = proper and np.linalg.det(rotation) < 0
            if not (mixes or excluded) and len(set(atom)) == len(atom):
                found.append((rotation, atom, shift * pbc))
                deviation = max(deviation, float(distances.min(1).max()))
        if deviation > NOTABLE:
            warnings.warn(
                f"the structure has the symmetry that is used only to within {deviation:.2g} Å; "
                "results are those of a symmetric crystal: relax this one, or lower symprec",
                stacklevel=3,
            )
        lattice, atom, shift = map(np.array, zip(*found, strict=True))
        cartesian = _rotations(cell.T @ lattice @ np.linalg.inv(cell.T))
        return cls(
            lattice=lattice, cartesian=cartesian, atom=atom, shift=shift, deviation=deviation
        )


def _rotations(matrices: np.ndarray) -> np.ndarray:
    """Return the nearest orthogonal matrices.

    In a cell that is not exactly symmetric, the operations of the lattice change lengths slightly.
    """
    left, _, right = np.linalg.svd(matrices)
    return left @ right


def standard_path(atoms: Atoms, symprec: float = SYMPREC) -> dict[str, Any]:
    """Return the standard path through the Brillouin zone of a crystal, by seekpath.

    Args:
        atoms: Periodic in three directions.
        symprec: Tolerance of the symmetry that determines the Bravais lattice, Å.

    Returns:
        `path`, pairs of names, and `point_coords`, wave vectors by name, in units of the reciprocal
        vectors of the given cell.

    Raises:
        ValueError: If the tolerance is out of range, or does not fit the structure.

    Warns:
        UserWarning: A slightly larger tolerance would find a higher symmetry.
    """
    symprec = symmetry_tolerance("symprec", symprec)
    cell = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
    try:
        found: dict[str, Any] = seekpath.get_path_orig_cell(cell, symprec=symprec)
    except Exception as error:  # errors of spglib's and of seekpath's own
        raise ValueError(f"seekpath finds no path: {_does_not_fit(symprec)}") from error
    warn_of_higher_symmetry(atoms, symprec, "the path through the Brillouin zone")
    return found


def made_symmetric(atoms: Atoms, symprec: float = SYMPREC) -> Atoms:
    """Return a copy of a crystal in which the symmetry that it has within a tolerance is exact.

    Args:
        atoms: Periodic in three directions.
        symprec: The tolerance, Å.

    Raises:
        ValueError: If the tolerance is out of range, or does not fit the structure.

    Warns:
        UserWarning: A slightly larger tolerance would find a higher symmetry.
    """
    symprec = symmetry_tolerance("symprec", symprec)
    refined = atoms.copy()
    try:
        refine_symmetry(refined, symprec)
    except Exception as error:
        raise ValueError(f"the crystal cannot be symmetrised: {_does_not_fit(symprec)}") from error
    warn_of_higher_symmetry(atoms, symprec, "the symmetry that is kept")
    return refined


def space_group(atoms: Atoms, symprec: float = SYMPREC) -> tuple[int, str]:
    """Return the number and the symbol of the space group of a crystal.

    Args:
        atoms: Periodic in three directions.
        symprec: Tolerance, Å.

    Raises:
        ValueError: If the tolerance is out of range, or does not fit the structure.
    """
    symprec = symmetry_tolerance("symprec", symprec)
    crystal = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
    try:
        found = spglib.get_symmetry_dataset(crystal, symprec=symprec)
    except Exception:  # newer versions raise, unless another package configured them not to
        found = None
    if found is None:
        raise ValueError(f"spglib finds no space group: {_does_not_fit(symprec)}")
    return int(found.number), str(found.international)


def conventional_multiples(cell: np.ndarray, symprec: float = SYMPREC) -> np.ndarray:
    """Return integers M, such that the rows of `M @ cell` are those of the conventional cell.

    Args:
        cell: Lattice vectors in Å as rows, (3, 3).
        symprec: Tolerance, Å.

    Returns:
        The multiples, (3, 3). They are those of a centred lattice, and the identity for a lattice
        whose conventional cell is primitive.
    """
    lattice: Any = (cell, np.zeros((1, 3)), [1])
    found: Any = spglib.get_symmetry_dataset(lattice, symprec=symprec)
    multiples = np.rint(np.linalg.inv(found.transformation_matrix)).T
    is_centred = round(abs(np.linalg.det(multiples))) > 1
    return multiples if is_centred else np.eye(3)


def warn_of_higher_symmetry(atoms: Atoms, symprec: float, what: str) -> None:
    """Warn if a slightly larger tolerance would find a higher symmetry.

    Args:
        atoms: Periodic in three directions.
        symprec: The tolerance that was used, Å.
        what: Name of the result that depends on the symmetry, for the warning.

    Warns:
        UserWarning: A slightly larger tolerance would find a higher symmetry.
    """
    number, symbol = space_group(atoms, symprec)
    for factor in WIDER_TOLERANCES:
        wider = factor * symprec
        if wider > LOOSEST:
            return
        try:
            higher_number, higher_symbol = space_group(atoms, wider)
        except ValueError:
            return
        if _order(atoms, wider) > _order(atoms, symprec):
            warnings.warn(
                f"{what} is that of space group {symbol} ({number}), found with symprec = "
                f"{symprec:g} Å; with {wider:g} Å the crystal is {higher_symbol} "
                f"({higher_number}): raise symprec if that is meant, or relax the crystal further",
                stacklevel=3,
            )
            return


def _order(atoms: Atoms, symprec: float) -> int:
    """Return the number of symmetry operations in the cell."""
    cell, scaled = atoms.cell.array, atoms.get_scaled_positions()
    return len(_spglib(cell, scaled, atoms.numbers, symprec)[0])


def _does_not_fit(symprec: float) -> str:
    return (
        f"symprec = {symprec:g} Å does not fit the structure: choose a value between the rounding "
        "of the coordinates and the distances between atoms"
    )


def _cell_with_vacuum(atoms: Atoms) -> np.ndarray:
    """Return a cell with vacuum along the non-periodic directions."""
    pbc = np.asarray(atoms.pbc)
    cell = complete_cell(atoms.cell.array * pbc[:, None])
    extent = np.ptp(atoms.positions @ np.linalg.inv(cell), axis=0) * np.linalg.norm(cell, axis=1)
    lengths = 2 * extent + VACUUM
    return np.where(pbc[:, None], cell, cell / np.linalg.norm(cell, axis=1)[:, None] * lengths)


def _spglib(
    cell: np.ndarray, scaled: np.ndarray, kinds: np.ndarray, symprec: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return rotations and translations in lattice coordinates."""
    crystal = (cell.tolist(), scaled.tolist(), kinds.tolist())
    try:
        found = spglib.get_symmetry(crystal, symprec=symprec)
    except Exception:  # newer versions raise, unless another package configured them not to
        found = None
    if found is None:
        raise ValueError(
            f"spglib finds no symmetry, not even the identity: {_does_not_fit(symprec)}, or "
            "symmetry=False"
        )
    return found["rotations"], found["translations"]


class AtomDisplacement(NamedTuple):
    """Displacement of an atom along a unit vector, for one row of the force constants."""

    atom: int
    direction: np.ndarray


class RowImage(NamedTuple):
    """Index of a computed row, and index of the operation that maps it to another row."""

    source: int
    operation: int


@dataclass(frozen=True, eq=False)
class Plan:
    """Rows of force constants to compute, and the operations that give all other rows.

    Attributes:
        sources: The rows to compute.
        images: For each atom, three images of `sources` that are rows of this atom.
    """

    sources: list[AtomDisplacement]
    images: list[list[RowImage]]


def plan(operations: Operations) -> Plan:
    """Choose the rows to compute: one to three for each inequivalent atom, as few as possible."""
    sources: list[AtomDisplacement] = []
    images = []
    for atom in range(operations.atom.shape[1]):
        found, volume = _best_images(operations, sources, atom)
        if volume < MIN_VOLUME:
            sources += [AtomDisplacement(atom, e) for e in _displacements(operations, atom)]
            found, _ = _best_images(operations, sources, atom)
        images.append(found)
    return Plan(sources, images)


def _best_images(
    operations: Operations, sources: list[AtomDisplacement], atom: int
) -> tuple[list[RowImage], float]:
    """Return three images of computed rows at an atom, and the volume their directions span."""
    found = [
        RowImage(s, int(g))
        for s, source in enumerate(sources)
        for g in np.flatnonzero(operations.atom[:, source.atom] == atom)
    ]
    if len(found) < 3:
        return [], 0.0
    vectors = np.array([operations.cartesian[g] @ sources[s].direction for s, g in found])
    chosen, volume = _widest(vectors)
    return [found[k] for k in chosen], volume


def _widest(vectors: np.ndarray) -> tuple[list[int], float]:
    """Choose two unit vectors that span a large volume with the first one.

    Returns:
        Indices of the three, and the volume.
    """
    second = int(np.abs(vectors @ vectors[0]).argmin())
    volumes = np.abs(vectors @ np.cross(vectors[0], vectors[second]))
    third = int(volumes.argmax())
    return [0, second, third], float(volumes[third])


def _displacements(operations: Operations, atom: int) -> np.ndarray:
    """Return as few unit vectors as possible whose images under the site symmetry span space."""
    site = operations.cartesian[operations.atom[:, atom] == atom]
    candidates = DIRECTIONS / np.linalg.norm(DIRECTIONS, axis=1)[:, None]
    for number in (1, 2):
        sets = [candidates[list(c)] for c in combinations(range(len(candidates)), number)]
        volumes = [_widest((c @ site.transpose(0, 2, 1)).reshape(-1, 3))[1] for c in sets]
        if max(volumes) > MIN_VOLUME:
            return sets[int(np.argmax(volumes))]
    return np.eye(3)
