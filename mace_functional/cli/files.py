"""Reading and writing of files, with errors that a person can act on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ase.io
from ase import Atoms
from matplotlib.figure import Figure

from mace_functional.atomic_write import atomic_write
from mace_functional.structures import STRUCTURES, example_structure

FIGURES = (".png", ".pdf", ".svg")
"""Suffixes of figures."""


def find_structure(name: str) -> Atoms:
    """The structure of a file, or one that comes with the package where there is no such file.

    Raises:
        ValueError: If there is neither, or ASE cannot read the file.
    """
    path = Path(name)
    if path.is_file() or name.lower() not in map(str.lower, STRUCTURES):
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
        raise ValueError(f"ASE cannot read a structure from {path}: {error}") from error
    if not isinstance(atoms, Atoms) or len(atoms) == 0:
        raise ValueError(f"{path} holds no structure")
    return atoms


def write_structure(path: Path, atoms: Atoms) -> None:
    """Write a structure in the format of the file's name."""
    bare = atoms.copy()
    bare.calc = None
    with atomic_write(path) as partial:
        ase.io.write(partial, bare)


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write JSON."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(data, indent=1) + "\n")


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure in the format of the file's name, one of `FIGURES`."""
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=300)
