"""Reading and writing of files, with errors that a person can act on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import ase.io
from ase import Atoms


def read_structure(path: Path) -> Atoms:
    """The (last) structure of a file in any format that ASE reads.

    Raises:
        ValueError: If there is no such file or ASE cannot read it.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        atoms = ase.io.read(path)
    except Exception as error:
        raise ValueError(f"ASE cannot read a structure from {path}: {error}") from error
    if not isinstance(atoms, Atoms) or len(atoms) == 0:
        raise ValueError(f"{path} holds no structure")
    return atoms


def write_structure(path: Path, atoms: Atoms) -> None:
    """Write a structure in the format of the file's name; the old file stays until it is whole."""
    partial = path.with_name(f".partial-{path.name}")
    bare = atoms.copy()
    bare.calc = None
    ase.io.write(partial, bare)
    os.replace(partial, path)


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write JSON; the old file stays until the new one is whole."""
    partial = path.with_name(f".partial-{path.name}")
    partial.write_text(json.dumps(data, indent=1) + "\n")
    os.replace(partial, path)
