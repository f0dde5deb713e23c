"""Which atoms move: by their numbers, by a mask, or by the constraints of ASE."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from torch import Tensor

Selection = Sequence[int] | Sequence[bool] | np.ndarray | Tensor
"""Numbers of atoms from 0, negative ones from the end; or a mask of all atoms."""


def free_atoms(atoms: Atoms, indices: Selection | None = None) -> list[int]:
    """The atoms that move.

    Args:
        atoms: The structure.
        indices: The atoms that move, whatever constraints there are. If None, all but those that
            `FixAtoms` holds, as in ASE's `Vibrations`; other constraints hold nothing here.

    Returns:
        Numbers from 0 to N - 1: in the given order, or ascending.

    Raises:
        ValueError: As `atom_numbers`, or if all atoms are held.
    """
    if indices is not None:
        return atom_numbers(indices, len(atoms))
    free = np.ones(len(atoms), dtype=bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            free[constraint.get_indices()] = False
    return atom_numbers(free, len(atoms))


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
