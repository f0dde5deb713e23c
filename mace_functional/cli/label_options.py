"""Options for files of labelled structures, and their reading."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mace_functional.cli.arguments import Parser

if TYPE_CHECKING:
    from mace_functional.training import LabelledStructure

KEYS = {"energy": "eV", "forces": "eV/Å", "stress": "eV/Å³", "virials": "eV", "hessian": "eV/Å²"}
"""Labels whose keys are options, with their units."""

KEY = re.compile(rf"\b({'|'.join(KEYS)})_key=('?)(\w+)\2")
"""Pattern of a key as an argument in python, which errors name."""


def add_labels(parser: Parser) -> None:
    """Add the files of labelled structures, and the keys of their labels."""
    parser.add_argument(
        "data",
        nargs="+",
        metavar="DATA",
        help="files of labelled structures: extended XYZ with the keys of mace-torch, any other "
        "format of ASE, or phonopy's yaml files",
    )
    for label, unit in KEYS.items():
        parser.add_argument(
            f"--{label}-key",
            type=_key,
            default=f"REF_{label}",
            metavar="KEY",
            help=f"key of the {label} in the data, {unit}, or none (%(default)s)",
        )
    parser.add_argument(
        "--hessians",
        type=Path,
        metavar="FILE",
        help="npz file of Hessians, eV/Å², by name or number of the structures in DATA "
        "(NAME.hessians.npz beside NAME.extxyz)",
    )


def read_labels(
    options: argparse.Namespace, file: str | Path, hessians: Path | None = None
) -> list[LabelledStructure]:
    """Read the labelled structures of a file with the keys of the options.

    Raises:
        StructureError: If the file cannot be read; the error names options of the command line.
    """
    from mace_functional.training import read_labelled

    keys = {f"{label}_key": getattr(options, f"{label}_key") for label in KEYS}
    with _words_of_the_command_line():
        return read_labelled(file, hessians=hessians, **keys)


def all_labels(options: argparse.Namespace) -> list[LabelledStructure]:
    """Read the labelled structures of all files of DATA."""
    return [k for file in options.data for k in read_labels(options, file, options.hessians)]


def _key(word: str) -> str | None:
    return None if word == "none" else word


@contextmanager
def _words_of_the_command_line() -> Iterator[None]:
    """Name options in errors of the reader, such as --energy-key, in place of its arguments."""
    from mace_functional.structure.reading.errors import StructureError

    try:
        yield
    except StructureError as error:
        raise StructureError(KEY.sub(_option_of, str(error))) from error


def _option_of(found: re.Match[str]) -> str:
    return f"--{found[1]}-key {'none' if found[3] == 'None' else found[3]}"
