"""Symmetry operations of a crystal, and which rows of its force constants they leave to compute.

An operation moves atom k of cell R to atom p(k) of cell `W R + T_k`, and turns vectors by W, in
Cartesian axes. It leaves the energy as it is, so that the force constants obey

    Phi(g(0j), g(Rk)) = W Phi(0j, Rk) W^T,

and the row of a displacement of atom j along e is that of atom p(j) along W e, with other names for
the atoms and turned forces. A few rows therefore give all others.

All that is asked of spglib, here and through seekpath and ASE, is asked in this module, with one
tolerance: how far atoms may be from where an operation takes them.
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
"""Deviation from symmetry that is pointed out, Å: a few times the default tolerance."""

OUT_OF_REACH = (10.0, 30.0)
"""Multiples of the tolerance at which a higher symmetry is looked for, to be pointed out."""

MIN_VOLUME = 0.3
"""Volume that three unit vectors must span for all directions to follow from them without loss."""

DIRECTIONS = np.array([v for v in np.ndindex(3, 3, 3) if v > (1, 1, 1)]) - 1
"""Axes, face and body diagonals of a cube: candidates for displacements that have many images."""

VACUUM = 20.0
"""Between images along a direction that is not periodic, beside twice the extent there, Å."""


@dataclass(frozen=True, eq=False)
class Operations:
    """Symmetry operations, (G,) of them, on N atoms.

    Attributes:
        lattice: W for integer lattice vectors as columns, (G, 3, 3).
        cartesian: W for Cartesian vectors as columns, (G, 3, 3).
        atom: The atom p(k) that atom k goes to, (G, N).
        shift: The cell T_k that it goes to, (G, N, 3).
        deviation: Largest distance of an atom from where an operation takes another, Å.
    """

    lattice: np.ndarray
    cartesian: np.ndarray
    atom: np.ndarray
    shift: np.ndarray
    deviation: float = 0.0

    @classmethod
    def identity(cls, atoms: int) -> Operations:
        """The operation that every structure has."""
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

        spglib sees a crystal of three directions, so that a chain keeps only operations that leave
        a rectangle around it as it is.

        Args:
            atoms: Periodic in any directions.
            kinds: What tells atoms apart, a whole number for each, (N,).
            symprec: How far atoms may be from where an operation takes them, Å.
            proper: Leave out inversion, reflections, and what else makes left hands of right ones.

        Raises:
            ValueError: If the tolerance is out of range, or does not fit the structure.

        Warns:
            UserWarning: Operations hold only to more than `NOTABLE`.
        """
        symprec = symmetry_tolerance("symprec", symprec)
        cell, pbc = _spaced_out(atoms), np.asarray(atoms.pbc)
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
            # spglib sees a crystal: what mixes its directions with those of the vacuum is none.
            mixes = rotation[~pbc][:, pbc].any() or rotation[pbc][:, ~pbc].any()
            mirrors = proper and np.linalg.det(rotation) < 0
            if not (mixes or mirrors) and len(set(atom)) == len(atom):
                found.append((rotation, atom, shift * pbc))
                deviation = max(deviation, float(distances.min(1).max()))
        if deviation > NOTABLE:
            warnings.warn(
                f"the symmetry that is used holds only to {deviation:.2g} Å, and results are those "
                "of a crystal that is symmetric: relax this one, or lower symprec",
                stacklevel=3,
            )
        lattice, atom, shift = map(np.array, zip(*found, strict=True))
        cartesian = _rotations(cell.T @ lattice @ np.linalg.inv(cell.T))
        return cls(
            lattice=lattice, cartesian=cartesian, atom=atom, shift=shift, deviation=deviation
        )


def _rotations(matrices: np.ndarray) -> np.ndarray:
    """The nearest rotations and reflections: in an unsymmetric cell they change lengths a bit."""
    left, _, right = np.linalg.svd(matrices)
    return left @ right


def standard_path(atoms: Atoms, symprec: float = SYMPREC) -> dict[str, Any]:
    """The standard path through the Brillouin zone of a crystal, as seekpath gives it.

    Args:
        atoms: Periodic in three directions.
        symprec: Tolerance of the symmetry that decides about the lattice, Å.

    Returns:
        `path`, pairs of names, and `point_coords`, wave vectors by name, in units of the reciprocal
        vectors of the cell as it is.

    Raises:
        ValueError: If the tolerance is out of range, or does not fit the structure.

    Warns:
        UserWarning: A higher symmetry lies just out of reach.
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
    """A copy of a crystal that is exactly as symmetric as it is within a tolerance.

    Args:
        atoms: Periodic in three directions.
        symprec: The tolerance, Å.

    Raises:
        ValueError: If the tolerance is out of range, or does not fit the structure.

    Warns:
        UserWarning: A higher symmetry lies just out of reach.
    """
    symprec = symmetry_tolerance("symprec", symprec)
    refined = atoms.copy()
    try:
        refine_symmetry(refined, symprec)
    except Exception as error:
        raise ValueError(f"the crystal is not made symmetric: {_does_not_fit(symprec)}") from error
    warn_of_higher_symmetry(atoms, symprec, "the symmetry that is kept")
    return refined


def space_group(atoms: Atoms, symprec: float = SYMPREC) -> tuple[int, str]:
    """Number and symbol of the space group of a crystal.

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
    except Exception:  # newer versions raise, unless another package has told them not to
        found = None
    if found is None:
        raise ValueError(f"spglib finds no space group: {_does_not_fit(symprec)}")
    return int(found.number), str(found.international)


def warn_of_higher_symmetry(atoms: Atoms, symprec: float, what: str) -> None:
    """Say so if the crystal would have more operations at some times the tolerance.

    Args:
        atoms: Periodic in three directions.
        symprec: The tolerance that was used, Å.
        what: Depends on the symmetry, for the warning.

    Warns:
        UserWarning: A higher symmetry lies just out of reach.
    """
    number, symbol = space_group(atoms, symprec)
    for factor in OUT_OF_REACH:
        wider = factor * symprec
        if wider > LOOSEST:
            return
        try:
            there, its_symbol = space_group(atoms, wider)
        except ValueError:
            return
        if _order(atoms, wider) > _order(atoms, symprec):
            warnings.warn(
                f"{what} is that of space group {symbol} ({number}), found with symprec = "
                f"{symprec:g} Å; with {wider:g} Å the crystal is {its_symbol} ({there}): raise "
                "symprec if it is meant to be, or relax the structure further",
                stacklevel=3,
            )
            return


def _order(atoms: Atoms, symprec: float) -> int:
    """Number of operations in the cell."""
    cell, scaled = atoms.cell.array, atoms.get_scaled_positions()
    return len(_spglib(cell, scaled, atoms.numbers, symprec)[0])


def _does_not_fit(symprec: float) -> str:
    return (
        f"symprec = {symprec:g} Å does not fit the structure: choose one between rounding and the "
        "distances of the atoms"
    )


def _spaced_out(atoms: Atoms) -> np.ndarray:
    """A cell with vacuum along the directions that are not periodic."""
    pbc = np.asarray(atoms.pbc)
    cell = complete_cell(atoms.cell.array * pbc[:, None])
    extent = np.ptp(atoms.positions @ np.linalg.inv(cell), axis=0) * np.linalg.norm(cell, axis=1)
    lengths = 2 * extent + VACUUM
    return np.where(pbc[:, None], cell, cell / np.linalg.norm(cell, axis=1)[:, None] * lengths)


def _spglib(
    cell: np.ndarray, scaled: np.ndarray, kinds: np.ndarray, symprec: float
) -> tuple[np.ndarray, np.ndarray]:
    """Rotations and translations in lattice coordinates."""
    crystal = (cell.tolist(), scaled.tolist(), kinds.tolist())
    try:
        found = spglib.get_symmetry(crystal, symprec=symprec)
    except Exception:  # newer versions raise, unless another package has told them not to
        found = None
    if found is None:
        raise ValueError(
            f"spglib finds no symmetry, not even the identity: {_does_not_fit(symprec)}, or "
            "symmetry=False"
        )
    return found["rotations"], found["translations"]


class AtomDisplacement(NamedTuple):
    """A row of the force constants to compute: of an atom that is displaced along a unit vector."""

    atom: int
    direction: np.ndarray


class RowImage(NamedTuple):
    """The row that an operation makes of a source: both by their numbers."""

    source: int
    operation: int


@dataclass(frozen=True, eq=False)
class Plan:
    """Which rows to compute, and how all others follow from them.

    Attributes:
        sources: The rows to compute.
        images: For each atom, three images of sources that are rows of that atom.
    """

    sources: list[AtomDisplacement]
    images: list[list[RowImage]]


def plan(operations: Operations) -> Plan:
    """Choose rows: as few as the operations allow, one to three for each inequivalent atom."""
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
    """Three images of sources at an atom, and the volume that their directions span."""
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
    """The first of some unit vectors and two that span much with it, and the volume."""
    second = int(np.abs(vectors @ vectors[0]).argmin())
    volumes = np.abs(vectors @ np.cross(vectors[0], vectors[second]))
    third = int(volumes.argmax())
    return [0, second, third], float(volumes[third])


def _displacements(operations: Operations, atom: int) -> np.ndarray:
    """Unit vectors, as few as possible, whose images by the site symmetry span the space."""
    site = operations.cartesian[operations.atom[:, atom] == atom]
    candidates = DIRECTIONS / np.linalg.norm(DIRECTIONS, axis=1)[:, None]
    for number in (1, 2):
        sets = [candidates[list(c)] for c in combinations(range(len(candidates)), number)]
        volumes = [_widest((c @ site.transpose(0, 2, 1)).reshape(-1, 3))[1] for c in sets]
        if max(volumes) > MIN_VOLUME:
            return sets[int(np.argmax(volumes))]
    return np.eye(3)
