"""The structure that results are for, in a file that gives every digit back.

The format is ASE's extended XYZ, which ASE itself writes to 1e-8 Å.
"""

from __future__ import annotations

from numbers import Real
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io.extxyz import output_column_format

from mace_functional.screening.record import STRUCTURE
from mace_functional.support.atomic_write import atomic_write

EIGHT_DECIMALS, ALL_DIGITS = "%16.8f", "%.17g"


def write_geometry(folder: Path, atoms: Atoms) -> None:
    """Write a structure to a folder, with all that a model may read from it."""
    bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    bare.info = {k: v for k, v in atoms.info.items() if isinstance(v, Real | str)}
    arrays = {"symbols": np.array(atoms.get_chemical_symbols()), "positions": atoms.positions}
    arrays |= {k: v for k, v in atoms.arrays.items() if k not in ("numbers", "positions")}
    comment, _, _, form = output_column_format(bare, list(arrays), arrays)
    form = form.replace(EIGHT_DECIMALS, ALL_DIGITS)
    columns = [c for array in arrays.values() for c in array.reshape(len(atoms), -1).T]
    lines = [form % row for row in zip(*columns, strict=True)]
    with atomic_write(folder / STRUCTURE) as partial:
        # Comments of files may hold bytes that are no characters: they stay as they are.
        text = f"{len(atoms)}\n{comment}\n{''.join(lines)}"
        partial.write_text(text, encoding="utf-8", errors="surrogateescape")
