"""The cell of 1 x 1 x 1 Å that files of molecules have where their format asks for one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mace_functional.structure.reading.reading_record import Read

FILLER = (1.0, 1.0, 1.0, 90.0, 90.0, 90.0)
"""Lengths, Å, and angles, degrees."""

FINDING = (
    "the cell of 1 x 1 x 1 Å only fills a place in the file: it is left out, and the structure is "
    "a molecule that is not periodic"
)


def is_filler(parameters: Sequence[float] | np.ndarray) -> bool:
    """Whether lengths, Å, and angles, degrees, are those of a cell that only fills a place."""
    return bool(np.allclose(parameters, FILLER))


def without_filler(read: Read) -> Read:
    """The same without a cell that only fills a place; one atom may have such a cell."""
    atoms = read.atoms
    if len(atoms) < 2 or not atoms.pbc.all() or not is_filler(atoms.cell.cellpar()):
        return read
    bare = atoms.copy()
    bare.set_cell(None)
    bare.pbc = False
    return replace(read, atoms=bare, findings=(*read.findings, FINDING))
