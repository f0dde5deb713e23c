"""Structures by the name of a file, or of one that comes with the package."""

from __future__ import annotations

from pathlib import Path

import ase.io
from ase import Atoms

from mace_functional.structures import STRUCTURES, example_structure


def is_example(name: str) -> bool:
    """Whether a structure of this name comes with the package."""
    return name.lower() in map(str.lower, STRUCTURES)


def find_structure(name: str) -> Atoms:
    """The structure of a file, or one that comes with the package where there is no such file.

    Raises:
        ValueError: If there is neither, or ASE cannot read the file.
    """
    path = Path(name)
    if path.is_file() or not is_example(name):
        return read_structure(path)
    return example_structure(name)


def read_structure(path: Path) -> Atoms:
    """The (last) structure of a file in any format that ASE reads.

    Raises:
        ValueError: If there is no such file or ASE cannot read it.
    """
    if not path.is_file():
        raise ValueError(
            f"there is no file {path}: give one, or the name of a structure that comes with this "
            f"package: {', '.join(STRUCTURES)}"
        )
    try:
        atoms = ase.io.read(path)
    except Exception as error:
        why = str(error) or type(error).__name__
        raise ValueError(f"ASE cannot read a structure from {path}: {why}") from error
    if not isinstance(atoms, Atoms) or len(atoms) == 0:
        raise ValueError(f"{path} holds no structure")
    return atoms
