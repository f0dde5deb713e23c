"""Structures from files, with checks.

A finding is told, a wrong material is refused, and a file that is right passes without a word. One
record says of every structure what was read.

    atoms = read_structure("ZnO.cif")       # findings are warnings
    reading = read("ZnO.cif")               # reading.atoms, reading.record.findings

What is looked for: rounded coordinates at special positions, partial occupancy and alternative
positions, settings and origins of space groups, elements in labels, cells that only fill a place,
atoms too near each other or listed twice, formulas, densities and space groups that are stated and
not found, isotopes.
"""

from mace_functional.structure.reading.errors import StructureError, StructureWarning
from mace_functional.structure.reading.reading import (
    Reading,
    find,
    read,
    read_structure,
    structure_record,
)
from mace_functional.structure.reading.reading_record import StructureRecord

__all__ = [
    "Reading",
    "StructureError",
    "StructureRecord",
    "StructureWarning",
    "find",
    "read",
    "read_structure",
    "structure_record",
]
