"""Structures from files, with checks.

A file that cannot be computed raises an error. A suspicious file gives findings. The record of a
structure holds its findings and further properties.

    atoms = read_structure("ZnO.cif")       # findings are warnings
    reading = read("ZnO.cif")               # reading.atoms, reading.record.findings

The checks cover: rounded coordinates at special positions, partial occupancy and alternative
positions, settings and origins of space groups, elements in labels, placeholder cells, atoms that
are too close or listed twice, isotopes, and formulas, densities and space groups that disagree with
the atoms.
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
