"""Placeholder cells of 1 x 1 x 1 Å, in files of molecules whose format requires a cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mace_functional.structure.reading.reading_record import Read

FILLER = (1.0, 1.0, 1.0, 90.0, 90.0, 90.0)
"""Cell lengths, Å, and angles, degrees, of a placeholder cell."""

FINDING = (
    "the cell of 1 x 1 x 1 Å is a placeholder: it is left out, and the structure is a molecule "
    "that is not periodic"
)
"""Finding about a placeholder cell."""


def is_filler(parameters: Sequence[float] | np.ndarray) -> bool:
    """Return True if lengths, Å, and angles, degrees, are those of a placeholder cell."""
    return bool(np.allclose(parameters, FILLER))


def without_filler(read: Read) -> Read:
    """Remove a placeholder cell; the cell of a single atom is kept."""
    atoms = read.atoms
    if len(atoms) < 2 or not atoms.pbc.all() or not is_filler(atoms.cell.cellpar()):
        return read
    molecule = atoms.copy()
    molecule.set_cell(None)
    molecule.pbc = False
    return replace(read, atoms=molecule, findings=(*read.findings, FINDING))
