"""Files that verbs write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ase.io
from ase import Atoms
from matplotlib.figure import Figure

from mace_functional.atomic_write import atomic_write

FIGURES = (".png", ".pdf", ".svg")
"""Suffixes of figures."""


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
