"""Reading a structure: the file, the checks, the record."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

from ase import Atoms

from mace_functional.structure.examples import STRUCTURES, example_structure, is_example
from mace_functional.structure.reading.checks import checked
from mace_functional.structure.reading.errors import StructureError, StructureWarning
from mace_functional.structure.reading.filler import without_filler
from mace_functional.structure.reading.formats import read_file
from mace_functional.structure.reading.reading_record import Read, StructureRecord


@dataclass(frozen=True, eq=False)
class Reading:
    """A structure, and what is known of it.

    Attributes:
        atoms: The structure.
        record: What was read.
    """

    atoms: Atoms
    record: StructureRecord


def read_structure(path: str | os.PathLike[str]) -> Atoms:
    """Read the structure of a file, and check it.

    Args:
        path: Of a file in any format that ASE reads; of several structures it is the last one.

    Returns:
        The structure, with the masses of isotopes and the constraints that the file has.

    Raises:
        StructureError: If there is no such file, it cannot be read, or what it holds is no material
            that can be computed: sites partly occupied, atoms on top of each other, coordinates
            missing, ... It is a ValueError; it names the file, what is wrong and what to do.

    Warns:
        StructureWarning: Of each finding: what was repaired, or should be looked at.
    """
    reading = read(path)
    _warn(reading.record)
    return reading.atoms


def read(path: str | os.PathLike[str]) -> Reading:
    """Read the structure of a file, with the record of what was read.

    Args:
        path: As of `read_structure`, whose errors it raises.
    """
    path = Path(path)
    name = os.fspath(path)
    if not path.is_file():
        raise StructureError(
            f"there is no file {name}: give one, or the name of a structure that comes with this "
            f"package: {', '.join(STRUCTURES)}"
        )
    try:
        held, format = read_file(path)
        held = without_filler(held)
        return Reading(held.atoms, checked(held, file=name, format=format))
    except StructureError as error:
        raise StructureError(f"{name}: {error}") from error


def find(name: str) -> Reading:
    """Read the structure of a file, or take one of the package where there is no such file.

    Args:
        name: Of the file, or of one of `STRUCTURES`.

    Raises:
        StructureError: As `read_structure`.
    """
    if Path(name).is_file() or not is_example(name):
        return read(name)
    atoms = example_structure(name)
    return Reading(atoms, structure_record(atoms))


def structure_record(atoms: Atoms) -> StructureRecord:
    """The record of a structure that is given as Atoms, after the same checks as of a file.

    Args:
        atoms: The structure.

    Raises:
        StructureError: If it is no material that can be computed; see `read_structure`.
    """
    return checked(Read(atoms))


def _warn(record: StructureRecord) -> None:
    for finding in record.findings:
        warnings.warn(f"{record.file}: {finding}", StructureWarning, stacklevel=3)
