"""Reader of XYZ and extended XYZ files; D and T are allowed as elements."""

from __future__ import annotations

import io
import re
from typing import Any

import ase.io
from ase.data import chemical_symbols

from mace_functional.structure.reading.errors import StructureError
from mace_functional.structure.reading.isotopes import HYDROGEN, set_symbols
from mace_functional.structure.reading.reading_record import Read

PROPERTIES = re.compile(r'Properties=(["\']?)([^\s"\']+)\1')
"""Columns of an extended XYZ file: name, type and width of each, separated by colons."""

SPECIES = "species"
"""Name of the column of elements."""


def read_xyz(text: str) -> Read:
    """Read the last structure of an XYZ file.

    Args:
        text: Text of the file.

    Raises:
        StructureError: If there are too few or too many lines.
        Exception: If ASE raises.
    """
    lines = text.splitlines()
    frames = _frames(lines)
    begin, end = frames[-1]
    frame = lines[begin:end]
    column = _species_column(frame[1])
    symbols: list[str] = []
    if column is not None:
        for number in range(2, 2 + int(frame[0])):
            words = frame[number].split()
            if len(words) > column:
                symbol = words[column]
                symbols.append(symbol.upper() if symbol.upper() in HYDROGEN else symbol)
                words[column] = _ase_symbol(symbol)
                frame[number] = " ".join(words)
    atoms: Any = ase.io.read(io.StringIO("\n".join(frame) + "\n"), format="extxyz")
    if not atoms.has("masses"):
        set_symbols(atoms, symbols)
    findings: tuple[str, ...] = ()
    if len(frames) > 1:
        findings = (f"it holds {len(frames)} structures: the last one is read",)
    return Read(atoms, findings=findings)


def _frames(lines: list[str]) -> list[tuple[int, int]]:
    """Return the first line of each frame, and the line after its last one.

    Raises:
        StructureError: If the number of lines of a frame differs from its number of atoms.
    """
    frames: list[tuple[int, int]] = []
    line = 0
    while line < len(lines) and lines[line].strip():
        word = lines[line].strip()
        if not word.isdigit():
            raise StructureError(
                f"line {line + 1} should be a number of atoms, but is {word[:40]!r}: correct it, "
                "or the previous number of atoms"
            )
        end = line + 2 + int(word)
        if end > len(lines):
            raise StructureError(
                f"line {line + 1} says {word} atoms, but the file has fewer: it is cut off"
            )
        while end < len(lines) and lines[end].lstrip().startswith("VEC"):
            end += 1
        frames.append((line, end))
        line = end
    if not frames:
        raise StructureError("it is empty: give the number of atoms, a comment, and the atoms")
    return frames


def _species_column(comment: str) -> int | None:
    """Return the column of the elements; None if there is none."""
    found = PROPERTIES.search(comment)
    if found is None:
        return 0
    fields = found[2].split(":")
    column = 0
    for name, width in zip(fields[::3], fields[2::3], strict=False):
        if name == SPECIES:
            return column
        column += int(width)
    return None


def _ase_symbol(symbol: str) -> str:
    """Return a symbol that ASE knows, given a symbol, an isotope of hydrogen or a number."""
    if symbol.upper() in HYDROGEN:
        return "H"
    if symbol.isdigit() and 0 < int(symbol) < len(chemical_symbols):
        return chemical_symbols[int(symbol)]
    return symbol
