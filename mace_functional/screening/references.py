"""Reference heat capacities, from a table in a CSV file."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

NAME = "name"
"""Name of the column with the names of structures; without it, the first column has them."""

TEMPERATURE = re.compile(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?) ?K(?![A-Za-z])")
"""Pattern of a temperature in the name of a column."""


@dataclass(frozen=True)
class Reference:
    """Heat capacities from elsewhere, to compare with.

    Attributes:
        label: Name of the reference.
        temperature: Temperature of the heat capacities, K.
        values: Heat capacities by names of structures, J/(g K). Structures may be missing, and
            others are ignored.
    """

    label: str
    temperature: float
    values: dict[str, float]


def read_references(path: Path, columns: Sequence[str]) -> list[Reference]:
    """Read columns of a table to compare with.

    Args:
        path: A CSV file with a line of headings.
        columns: Names of columns in J/(g K), with the temperature after an @ (`cv@300`) or in the
            name itself (`cv_300K`).

    Returns:
        A reference for each column. Empty, infinite and NaN fields are left out.

    Raises:
        ValueError: If a column is missing, has no temperature, or has a field that is no number, or
            two numbers for one structure.
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
    """Numbers of a column by names of structures; lines without a name are left out.

    Raises:
        ValueError: If a field is no number, or a structure has two different numbers.
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
    """Name of a column and its temperature."""
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
        raise ValueError(f"{column!r} has no temperature: give it in K, as in {column}@300")
    return column, temperature


def has_temperature(column: str) -> bool:
    """True if the name of a column has a temperature, as cv_300K has."""
    return bool(_temperatures(column))


def _temperatures(column: str) -> list[str]:
    return TEMPERATURE.findall(column.replace("_", " "))


def _number(row: dict[str, str], column: str, names: str, path: Path) -> float:
    field = (row[column] or "").strip()
    try:
        return float(field or "nan")
    except ValueError as error:
        raise ValueError(f"{path}: {column} of {row[names]} is no number: {field!r}") from error
