"""The structure that results are for, as extended XYZ with energy, forces and every digit.

ASE writes this format to 1e-8 Å. Here ASE writes the line that describes the columns, and the
columns themselves have all digits. Reading the file with ASE gives back the same numbers.
"""

from __future__ import annotations

import io
from numbers import Real
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms

from mace_functional.screening.record import STRUCTURE
from mace_functional.support.atomic_write import atomic_write


def write_geometry(
    folder: Path,
    atoms: Atoms,
    *,
    energy: float | None = None,
    forces: np.ndarray | None = None,
    stress: np.ndarray | None = None,
) -> None:
    """Write a structure to a folder, with all that a model may read from it.

    Args:
        folder: Folder of the structure.
        atoms: The structure.
        energy: Potential energy, eV.
        forces: Forces, eV/Å, (N, 3).
        stress: Stress, eV/Å³, (3, 3).
    """
    bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    bare.info = {k: v for k, v in atoms.info.items() if isinstance(v, Real | str)}
    for name, values in atoms.arrays.items():
        bare.arrays[name] = values
    for name, value in {"energy": energy, "stress": stress}.items():
        if value is not None:
            bare.info[name] = value
    if forces is not None:
        bare.arrays["forces"] = forces
    with atomic_write(folder / STRUCTURE) as partial:
        # Comments of files may hold bytes that are no characters: they stay as they are.
        partial.write_text(_extended_xyz(bare), encoding="utf-8", errors="surrogateescape")


def read_geometry(folder: Path, atoms: Atoms) -> Atoms:
    """The structure with the geometry that `write_geometry` wrote, all else as it is.

    Args:
        folder: Folder of the structure.
        atoms: The structure as it was read.

    Raises:
        ValueError: If the file holds another structure.
    """
    kept = ase.io.read(folder / STRUCTURE, index=-1, format="extxyz")
    assert isinstance(kept, Atoms)
    if not np.array_equal(kept.numbers, atoms.numbers):
        raise ValueError(f"{folder / STRUCTURE} has other atoms")
    here = atoms.copy()
    if kept.cell.any():
        here.set_cell(kept.cell.array)
    here.positions = kept.positions
    return here


def _extended_xyz(atoms: Atoms) -> str:
    """Text of the file: ASE's line of comment, and columns in its order with all digits."""
    buffer = io.StringIO()
    ase.io.write(buffer, atoms, format="extxyz")
    count, comment, _ = buffer.getvalue().split("\n", 2)
    others = [v for k, v in atoms.arrays.items() if k not in ("numbers", "positions")]
    arrays = [np.array(atoms.get_chemical_symbols()), atoms.positions, *others]
    columns = [column for array in arrays for column in array.reshape(len(atoms), -1).T]
    lines = [" ".join(map(_word, row)) for row in zip(*columns, strict=True)]
    return "\n".join([count, comment, *lines, ""])


def _word(value: Any) -> str:
    """A number with every digit, a truth value as T or F, or text."""
    if isinstance(value, bool | np.bool_):
        return "T" if value else "F"
    return f"{value:.17g}" if isinstance(value, float | np.floating) else str(value)
