"""Heat capacities of others, from a table in a CSV file."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

NAME = "name"
"""The column with the names of structures; the first one, if there is none of this name."""

TEMPERATURE = re.compile(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?) ?K(?![A-Za-z])")
"""In the name of a column."""


@dataclass(frozen=True)
class Reference:
    """Heat capacities from elsewhere, to compare with.

    Attributes:
        label: What they are called.
        temperature: That they are for, K.
        values: By name of the structure, J/(g K); structures may be missing, or be others.
    """

    label: str
    temperature: float
    values: dict[str, float]


def read_references(path: Path, columns: Sequence[str]) -> list[Reference]:
    """Read columns of a table to compare with.

    Args:
        path: A CSV file with a line of headings.
        columns: Names of columns in J/(g K), with the temperature behind an @ (`cv@300`), or in
            the name itself (`cv_300K`).

    Returns:
        One for each column. Structures whose field is empty, infinite or NaN are left out.

    Raises:
        ValueError: If a column is missing, has no temperature, or holds something else or two
            numbers for one structure.
        OSError: If the file cannot be read.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file)
        try:
            headings, rows = table.fieldnames or [], list(table)
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no CSV file: {error}") from error
    if not headings:
        raise ValueError(f"{path} is empty")
    names = NAME if NAME in headings else headings[0]
    references = []
    for word in columns:
        column, temperature = _column(word, headings, path)
        references.append(Reference(column, temperature, _values(rows, names, column, path)))
    return references


def _values(
    rows: Sequence[dict[str, str]], names: str, column: str, path: Path
) -> dict[str, float]:
    """The numbers of a column, by the names of structures; lines without a name are left out.

    Raises:
        ValueError: If a field is no number, or a structure has two different ones.
    """
    known: dict[str, float] = {}
    for row in rows:
        name, value = (row[names] or "").strip(), _number(row, column, names, path)
        if not name or not math.isfinite(value):
            continue
        if known.setdefault(name, value) != value:
            raise ValueError(
                f"{path}: {column} of {name} is {known[name]:g} in one line and {value:g} in "
                "another: remove one of them"
            )
    return known


def _column(word: str, headings: Sequence[str], path: Path) -> tuple[str, float]:
    """A column and its temperature."""
    column, _, behind = (word, "", "") if word in headings else word.rpartition("@")
    if column not in headings:
        raise ValueError(
            f"{path} has no column {word.partition('@')[0]!r}: it has {', '.join(headings)}"
        )
    found = _temperatures(column)
    try:
        temperature = float(behind or found[-1])
    except (ValueError, IndexError):
        temperature = math.nan
    if not 0 <= temperature < math.inf:
        raise ValueError(f"at which temperature is {column!r}? Say so, as in {column}@300")
    return column, temperature


def has_temperature(column: str) -> bool:
    """Whether the name of a column says a temperature, as cv_300K does."""
    return bool(_temperatures(column))


def _temperatures(column: str) -> list[str]:
    return TEMPERATURE.findall(column.replace("_", " "))


def _number(row: dict[str, str], column: str, names: str, path: Path) -> float:
    field = (row[column] or "").strip()
    try:
        return float(field or "nan")
    except ValueError as error:
        raise ValueError(f"{path}: {column} of {row[names]} is no number: {field!r}") from error
