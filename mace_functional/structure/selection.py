"""Selection of the atoms that move: by indices, by a mask, or by ASE constraints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian, FixCom, FixedLine, FixedPlane, FixScaled
from scipy.sparse import bsr_array, csc_array, csr_array
from torch import Tensor

Selection = Sequence[int] | Sequence[bool] | np.ndarray | Tensor
"""Indices of atoms (negative ones count from the end), or a Boolean mask of all atoms."""

CONSTRAINTS = (FixAtoms, FixCartesian, FixScaled, FixedLine, FixedPlane, FixCom)
"""Supported ASE constraints: those that confine displacements to a linear space."""


@dataclass(frozen=True, eq=False)
class Freedom:
    """The displacements of N atoms that constraints leave free.

    Attributes:
        held: Projector onto the forbidden displacements of each atom, (N, 3, 3).
        sums: Orthonormal forbidden displacements of several atoms together, (3N, c).
    """

    held: np.ndarray
    sums: np.ndarray

    @property
    def whole(self) -> bool:
        """True if no displacement is forbidden."""
        return not (self.held.any() or self.sums.size)

    @property
    def pinned(self) -> bool:
        """True if some atom is held in some direction."""
        return bool(self.held.any())

    @property
    def atoms(self) -> list[int]:
        """Indices of the atoms that can move in some direction, ascending."""
        return np.flatnonzero(np.trace(self.held, axis1=1, axis2=2) < 3 - 1e-9).tolist()

    @property
    def by_atoms(self) -> bool:
        """True if each atom is either free or held in all directions."""
        rank = np.trace(self.held, axis1=1, axis2=2)
        return not self.sums.size and bool((np.abs(rank * (3 - rank)) < 1e-9).all())

    def basis(self, chosen: Sequence[int] | None = None) -> np.ndarray:
        """Return an orthonormal basis of the free Cartesian displacements, (3k, m).

        Args:
            chosen: Indices of the k atoms that may move; all atoms if None.
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

    def sparse_basis(self) -> csr_array:
        """Return an orthonormal basis of the free Cartesian displacements, sparse, (3N, m).

        Each column moves one atom, so that `sums` must be empty.
        """
        values, vectors = np.linalg.eigh(self.held)
        along_axes = (self.held == self.held * np.eye(3)).all((1, 2))
        vectors[along_axes] = np.eye(3)
        values[along_axes] = self.held[along_axes][:, range(3), range(3)]
        blocks = np.arange(len(self.held))
        by_atoms = bsr_array((vectors, blocks, np.arange(len(blocks) + 1)))
        return csr_array(csc_array(by_atoms)[:, values.ravel() < 1e-9])

    def basis_of_atoms(self) -> np.ndarray | None:
        """Return the basis for the atoms in `atoms`; None if all their coordinates are free."""
        return None if self.by_atoms else self.basis(self.atoms)


def freedom(atoms: Atoms, what: str) -> Freedom:
    """Return the displacements that the ASE constraints of a structure leave free.

    FixAtoms, FixCartesian, FixScaled, FixedLine, FixedPlane and FixCom are supported. ASE reads
    FixScaled from selective dynamics of a POSCAR, and FixAtoms and FixCartesian also from
    `move_mask` of extended XYZ.

    Args:
        atoms: The structure.
        what: Name of the calling function, for the error, such as "relax".

    Raises:
        ValueError: If there is a constraint of another kind.
    """
    count = len(atoms)
    held = np.zeros((count, 3, 3))
    sums = []
    for constraint in atoms.constraints:
        if not isinstance(constraint, CONSTRAINTS):
            raise ValueError(
                f"{what} does not support the constraint {type(constraint).__name__}, only "
                f"{', '.join(c.__name__ for c in CONSTRAINTS)}. Remove it with "
                "atoms.set_constraint(), or hold atoms or directions instead"
            )
        if isinstance(constraint, FixCom):
            sums.append(_weighted_sums(atoms, constraint))
        else:
            held[constraint.get_indices()] += _forbidden(constraint, atoms)
    return Freedom(_projectors(held), _orthonormal(sums, count))


def refuse_constraints(atoms: Atoms, what: str, instead: str) -> None:
    """Raise if a constraint of the structure forbids any displacement.

    Args:
        atoms: The structure.
        what: Name of what needs all atoms free, for the error.
        instead: Advice, for the error.

    Raises:
        ValueError: If a constraint forbids a displacement.
    """
    if freedom(atoms, what).whole:
        return
    names = ", ".join(sorted({type(c).__name__ for c in atoms.constraints}))
    raise ValueError(
        f"{what} needs all atoms free, and constraints hold some ({names}): remove them with "
        f"atoms.set_constraint(), or {instead}"
    )


def free_atoms(atoms: Atoms, indices: Selection | None = None) -> list[int]:
    """Return the indices of the atoms that may move.

    Args:
        atoms: The structure.
        indices: The atoms that may move; constraints are then ignored. If None, all atoms that
            constraints leave free in some direction; see `freedom`.

    Returns:
        Indices from 0 to N - 1, in the order of `indices`, or ascending if it is None.

    Raises:
        ValueError: If all atoms are held; see also `atom_numbers` and `freedom`.
    """
    if indices is not None:
        return atom_numbers(indices, len(atoms))
    return atom_numbers(freedom(atoms, "the choice of free atoms").atoms, len(atoms))


def check_vibrates(atoms: Atoms, free: Sequence[int], name: str = "the structure") -> None:
    """Raise if the structure is a single free atom, whose modes at Gamma are all translations.

    Args:
        atoms: The structure.
        free: Indices of the atoms that move.
        name: Name of the structure, for the error.

    Raises:
        ValueError: If the structure has one atom and it is free.
    """
    if len(atoms) > 1 or len(free) == 0:
        return
    if atoms.pbc.any():
        raise ValueError(
            f"{name} has one atom in its cell, so that its modes at Gamma are translations without "
            "frequency or heat capacity: use a mesh of wave vectors, as in --mesh 8 8 8"
        )
    raise ValueError(f"{name} is a single atom, which has no vibrations")


def atom_numbers(indices: Selection, count: int) -> list[int]:
    """Convert a selection to indices of atoms, in the given order.

    Args:
        indices: Indices or a mask.
        count: Number N of atoms of the structure.

    Returns:
        Indices from 0 to N - 1.

    Raises:
        ValueError: If no atom is selected, one is selected twice, an index is out of range, or the
            length of a mask is not N.

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
    """Return the projector onto the displacements that a constraint forbids an atom, (3, 3)."""
    if isinstance(constraint, FixedLine):
        return np.eye(3) - np.outer(constraint.dir, constraint.dir)
    if isinstance(constraint, FixedPlane):
        return np.outer(constraint.dir, constraint.dir)
    if isinstance(constraint, FixCartesian):
        return np.diag(np.asarray(constraint.mask, dtype=float))
    if isinstance(constraint, FixScaled):
        # Displacements along the lattice vectors outside the mask are free.
        vectors = atoms.cell.complete().array[~np.asarray(constraint.mask)]
        return np.eye(3) - np.linalg.pinv(vectors) @ vectors
    return np.eye(3)


def _projectors(held: np.ndarray) -> np.ndarray:
    """Return projectors (N, 3, 3) onto the ranges of sums of projectors."""
    along_axes = (held == held * np.eye(3)).all((1, 2))
    values, vectors = np.linalg.eigh(held)
    kept = vectors * (values > 1e-9)[:, None]
    projectors = kept @ kept.transpose(0, 2, 1)
    return np.where(along_axes[:, None, None], np.minimum(held, 1.0), projectors)


def _weighted_sums(atoms: Atoms, constraint: FixCom) -> np.ndarray:
    """Return the displacements (3N, 3) that FixCom forbids: they move the centre of mass."""
    weights = np.zeros(len(atoms))
    weights[constraint.index] = atoms.get_masses()[constraint.index]
    return np.kron(weights[:, None] / np.linalg.norm(weights), np.eye(3))


def _orthonormal(sums: list[np.ndarray], count: int) -> np.ndarray:
    if not sums:
        return np.zeros((3 * count, 0))
    left, sizes, _ = np.linalg.svd(np.column_stack(sums), full_matrices=False)
    return left[:, sizes > 1e-9]
