"""What moves: atoms by their numbers or a mask, and what constraints of ASE leave free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian, FixCom, FixedLine, FixedPlane, FixScaled
from torch import Tensor

Selection = Sequence[int] | Sequence[bool] | np.ndarray | Tensor
"""Numbers of atoms from 0, negative ones from the end; or a mask of all atoms."""

CONSTRAINTS = (FixAtoms, FixCartesian, FixScaled, FixedLine, FixedPlane, FixCom)
"""Constraints of ASE that confine displacements to a linear space."""


@dataclass(frozen=True, eq=False)
class Freedom:
    """The displacements of N atoms that constraints leave free.

    Attributes:
        held: Projector onto the displacements that are forbidden to each atom, (N, 3, 3).
        sums: Orthonormal displacements of several atoms together that are forbidden, (3N, c).
    """

    held: np.ndarray
    sums: np.ndarray

    @property
    def whole(self) -> bool:
        """Whether nothing is held."""
        return not (self.held.any() or self.sums.size)

    @property
    def pinned(self) -> bool:
        """Whether some atom is held in some direction."""
        return bool(self.held.any())

    @property
    def atoms(self) -> list[int]:
        """Numbers of the atoms that can move in some direction, ascending."""
        return np.flatnonzero(np.trace(self.held, axis1=1, axis2=2) < 3 - 1e-9).tolist()

    @property
    def by_atoms(self) -> bool:
        """Whether each atom is either free or held in all directions."""
        shares = np.trace(self.held, axis1=1, axis2=2)
        return not self.sums.size and bool((np.abs(shares * (3 - shares)) < 1e-9).all())

    def basis(self, chosen: Sequence[int] | None = None) -> np.ndarray:
        """Orthonormal basis of the free displacements, Cartesian, (3k, m).

        Args:
            chosen: Numbers of k atoms, while all others rest; all atoms if None.
        """
        numbers = np.arange(len(self.held)) if chosen is None else np.asarray(chosen)
        count, held = len(numbers), self.held[numbers]
        diagonal = held[:, range(3), range(3)]
        if not self.sums.size and np.array_equal(held, diagonal[:, :, None] * np.eye(3)):
            return np.eye(3 * count)[:, diagonal.ravel() == 0]
        forbidden = np.zeros((count, 3, count, 3))
        forbidden[range(count), :, range(count)] = held
        sums = self.sums[(3 * numbers[:, None] + np.arange(3)).ravel()]
        values, vectors = np.linalg.eigh(forbidden.reshape(3 * count, -1) + sums @ sums.T)
        return vectors[:, values < 1e-9]

    def basis_of_atoms(self) -> np.ndarray | None:
        """The same for `atoms`; None if all their coordinates are free."""
        return None if self.by_atoms else self.basis(self.atoms)


def freedom(atoms: Atoms, what: str) -> Freedom:
    """What the constraints of a structure leave free: the one place that reads them.

    FixAtoms, FixCartesian, FixScaled (selective dynamics of a POSCAR), FixedLine, FixedPlane and
    FixCom hold what they say. FixAtoms and FixCartesian come from `move_mask` of extended XYZ too.

    Args:
        atoms: The structure.
        what: What asks, for the error: "relax".

    Raises:
        ValueError: If there is a constraint of another kind.
    """
    count = len(atoms)
    held = np.zeros((count, 3, 3))
    sums = []
    for constraint in atoms.constraints:
        if not isinstance(constraint, CONSTRAINTS):
            raise ValueError(
                f"{what} does not know the constraint {type(constraint).__name__}: it takes "
                f"{', '.join(c.__name__ for c in CONSTRAINTS)}. Remove it with "
                "atoms.set_constraint(), or hold atoms or directions instead"
            )
        if isinstance(constraint, FixCom):
            sums.append(_weighted_sums(atoms, constraint))
        else:
            held[constraint.get_indices()] += _forbidden(constraint, atoms)
    return Freedom(_projectors(held), _orthonormal(sums, count))


def refuse_constraints(atoms: Atoms, what: str, instead: str) -> None:
    """Refuse a structure in which something is held.

    Args:
        atoms: The structure.
        what: What needs all atoms free, for the error.
        instead: What to do, for the error.

    Raises:
        ValueError: If there is a constraint that holds anything.
    """
    if freedom(atoms, what).whole:
        return
    names = ", ".join(sorted({type(c).__name__ for c in atoms.constraints}))
    raise ValueError(
        f"{what} needs all atoms free, and constraints hold some ({names}): remove them with "
        f"atoms.set_constraint(), or {instead}"
    )


def free_atoms(atoms: Atoms, indices: Selection | None = None) -> list[int]:
    """The atoms that move.

    Args:
        atoms: The structure.
        indices: The atoms that move, whatever constraints there are. If None, all that constraints
            leave free to move in some direction; see `freedom`.

    Returns:
        Numbers from 0 to N - 1: in the given order, or ascending.

    Raises:
        ValueError: As `atom_numbers` and `freedom`, or if all atoms are held.
    """
    if indices is not None:
        return atom_numbers(indices, len(atoms))
    return atom_numbers(freedom(atoms, "the choice of free atoms").atoms, len(atoms))


def check_vibrates(atoms: Atoms, free: Sequence[int], name: str = "the structure") -> None:
    """Refuse the modes at Gamma of a single atom: all of them are translations.

    Args:
        atoms: The structure.
        free: The atoms that move.
        name: Of the structure, for the error.

    Raises:
        ValueError: If the one atom of the structure moves.
    """
    if len(atoms) > 1 or len(free) == 0:
        return
    if atoms.pbc.any():
        raise ValueError(
            f"{name} has one atom in its cell, whose modes at Gamma are translations, without "
            "frequencies and heat: take a mesh of wave vectors, as in --mesh 8 8 8"
        )
    raise ValueError(f"{name} is a single atom, which has no vibrations")


def atom_numbers(indices: Selection, count: int) -> list[int]:
    """Numbers of the chosen atoms, in the given order.

    Args:
        indices: The choice.
        count: Number N of atoms of the structure.

    Returns:
        Numbers from 0 to N - 1.

    Raises:
        ValueError: If no atom is chosen, one is chosen twice, a number is out of range, or a mask
            is not one of all atoms.

    Example:
        >>> atom_numbers([2, -1], 5), atom_numbers([True, False, True], 3)
        ([2, 4], [0, 2])
    """
    chosen = np.asarray(indices.cpu() if isinstance(indices, Tensor) else indices)
    if chosen.dtype == bool:
        if chosen.shape != (count,):
            raise ValueError(f"a mask of {count} atoms has shape ({count},), not {chosen.shape}")
        chosen = np.flatnonzero(chosen)
    if chosen.shape == (0,):
        raise ValueError("no atom is free to move")
    if chosen.ndim != 1 or chosen.dtype.kind not in "iu":
        raise ValueError(f"give the numbers of atoms, or a mask, not {indices!r}")
    if chosen.min() < -count or chosen.max() >= count:
        raise ValueError(f"atom numbers must lie between 0 and {count - 1}, not {indices!r}")
    numbers = [int(number) % count for number in chosen]
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"atoms must be given once: {numbers}")
    return numbers


def _forbidden(constraint: object, atoms: Atoms) -> np.ndarray:
    """Projector onto what a constraint of single atoms forbids to each of them, (3, 3)."""
    if isinstance(constraint, FixedLine):
        return np.eye(3) - np.outer(constraint.dir, constraint.dir)
    if isinstance(constraint, FixedPlane):
        return np.outer(constraint.dir, constraint.dir)
    if isinstance(constraint, FixCartesian):
        return np.diag(np.asarray(constraint.mask, dtype=float))
    if isinstance(constraint, FixScaled):
        # Free are the lattice vectors that the mask does not name.
        along = atoms.cell.complete().array[~np.asarray(constraint.mask)]
        return np.eye(3) - np.linalg.pinv(along) @ along
    return np.eye(3)


def _projectors(held: np.ndarray) -> np.ndarray:
    """Projectors (N, 3, 3) onto the ranges of sums of projectors."""
    along_axes = (held == held * np.eye(3)).all((1, 2))
    values, vectors = np.linalg.eigh(held)
    kept = vectors * (values > 1e-9)[:, None]
    projectors = kept @ kept.transpose(0, 2, 1)
    return np.where(along_axes[:, None, None], np.minimum(held, 1.0), projectors)


def _weighted_sums(atoms: Atoms, constraint: FixCom) -> np.ndarray:
    """Displacements (3N, 3) to which those are orthogonal that keep a centre of mass in place."""
    weights = np.zeros(len(atoms))
    weights[constraint.index] = atoms.get_masses()[constraint.index]
    return np.kron(weights[:, None] / np.linalg.norm(weights), np.eye(3))


def _orthonormal(sums: list[np.ndarray], count: int) -> np.ndarray:
    if not sums:
        return np.zeros((3 * count, 0))
    left, sizes, _ = np.linalg.svd(np.column_stack(sums), full_matrices=False)
    return left[:, sizes > 1e-9]
