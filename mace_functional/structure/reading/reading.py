"""Reading of a structure: its file, the checks and the record."""

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
    """A structure and the record of how it was read.

    Attributes:
        atoms: The structure.
        record: Properties and findings.
    """

    atoms: Atoms
    record: StructureRecord


def read_structure(path: str | os.PathLike[str]) -> Atoms:
    """Read the structure of a file, and check it.

    Args:
        path: Path of a file in any format that ASE reads; the last of several structures is read.

    Returns:
        The structure, with the masses of isotopes and the constraints that the file has.

    Raises:
        StructureError: If the file does not exist or cannot be read, or its structure cannot be
            computed: partly occupied sites, coinciding atoms, missing coordinates, ... It is a
            ValueError; it names the file, the error and a remedy.

    Warns:
        StructureWarning: One for each finding: a correction, or something to check.
    """
    reading = read(path)
    _warn(reading.record)
    return reading.atoms


def read(path: str | os.PathLike[str]) -> Reading:
    """Read the structure of a file, with its record.

    Args:
        path: Path of a file in any format that ASE reads; the last of several structures is read.

    Raises:
        StructureError: See `read_structure`.
    """
    path = Path(path)
    name = os.fspath(path)
    if not path.is_file():
        raise StructureError(
            f"there is no file {name}: give one, or the name of a structure that comes with this "
            f"package: {', '.join(STRUCTURES)}"
        )
    try:
        content, format = read_file(path)
        content = without_filler(content)
        return Reading(content.atoms, checked(content, file=name, format=format))
    except StructureError as error:
        raise StructureError(f"{name}: {error}") from error


def find(name: str) -> Reading:
    """Read the structure of a file, or return an example structure if there is no such file.

    Args:
        name: Path of a file, or name of one of `STRUCTURES`.

    Raises:
        StructureError: See `read_structure`.
    """
    if Path(name).is_file() or not is_example(name):
        return read(name)
    atoms = example_structure(name)
    return Reading(atoms, structure_record(atoms))


def structure_record(atoms: Atoms) -> StructureRecord:
    """Return the record of an Atoms object, after the checks that files undergo.

    Args:
        atoms: The structure.

    Raises:
        StructureError: If the structure cannot be computed; see `read_structure`.
    """
    return checked(Read(atoms))


def _warn(record: StructureRecord) -> None:
    for finding in record.findings:
        warnings.warn(f"{record.file}: {finding}", StructureWarning, stacklevel=3)
