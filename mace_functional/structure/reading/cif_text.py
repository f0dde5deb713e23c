"""The text of a CIF or mmCIF: its blocks, with the values of each tag.

gemmi parses the text. Tags are in lower case with `_` for `.`, so that CIF, mmCIF and different
versions of the CIF dictionary have the same tags.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from gemmi import cif

from mace_functional.structure.reading.errors import StructureError
from mace_functional.structure.reading.occupancy import named

BARE_WORDS = re.compile(r"^(\s*_\S+)[ \t]+(?!['\";#])(\S+[ \t]+[^#\n]*?)[ \t]*$", re.MULTILINE)
"""A tag with several words without quotes: an error that many programs make."""

SITES = "_atom_site_"
"""Prefix of the tags of sites."""

NOTHING = ("?", ".")
"""CIF values for "unknown" and "does not apply"."""


class Block:
    """One block of a CIF.

    Args:
        block: The block parsed by gemmi.
    """

    def __init__(self, block: cif.Block) -> None:
        self.name = block.name
        self._columns: dict[str, list[str]] = {}
        items: Iterable[Any] = block  # gemmi's own hints lack it
        for item in items:
            if item.pair is not None:
                tag, value = item.pair
                self._columns.setdefault(_plain(tag), [value])
            elif item.loop is not None:
                tags, values = item.loop.tags, item.loop.values
                for number, tag in enumerate(tags):
                    self._columns.setdefault(_plain(tag), values[number :: len(tags)])

    def column(self, *tags: str) -> list[str] | None:
        """Return the values of the first tag that the block has, unquoted; None if it has none."""
        for tag in tags:
            if tag in self._columns:
                return [cif.as_string(v) if v not in NOTHING else v for v in self._columns[tag]]
        return None

    def value(self, *tags: str) -> str | None:
        """Return the value of the first tag that has one."""
        for tag in tags:
            column = self.column(tag)
            if column and column[0].strip() not in ("", *NOTHING):
                return " ".join(column[0].split())
        return None

    def number(self, *tags: str) -> float | None:
        """Return the number of the first tag that has one, without its uncertainty."""
        for tag in tags:
            number = cif.as_number(self._columns.get(tag, ["?"])[0])
            if math.isfinite(number):
                return float(number)
        return None

    def numbers(self, tags: Sequence[str], labels: Sequence[str]) -> np.ndarray | None:
        """Return the numbers of each site, (S, len(tags)); None if a tag is missing.

        Raises:
            StructureError: If a value is not a number.
        """
        columns = [self._columns.get(tag) for tag in tags]
        if any(column is None for column in columns):
            return None
        numbers = np.array([[cif.as_number(v) for v in column or ()] for column in columns]).T
        bad = np.flatnonzero(~np.isfinite(numbers).all(1))
        if len(bad):
            raise StructureError(
                f"coordinates of sites {named([labels[int(i)] for i in bad])} are not numbers "
                "('?', '.' or words): give them, or remove the sites"
            )
        return numbers

    def keep_sites(self, rows: Sequence[int], count: int) -> None:
        """Keep only some rows of the loop of sites, which has `count` rows."""
        for tag, column in self._columns.items():
            if tag.startswith(SITES) and len(column) == count:
                self._columns[tag] = [column[i] for i in rows]


def blocks_of(text: str) -> list[Block]:
    """Return all blocks of a file.

    Raises:
        StructureError: If the text is not a CIF.
    """
    try:
        return [Block(block) for block in _parsed(text)]
    except (ValueError, RuntimeError) as error:
        first = str(error).replace("string:", "line ", 1)
        try:
            quoted = BARE_WORDS.sub(lambda m: f"{m[1]} '{m[2]}'", text)
            return [Block(block) for block in _parsed(quoted)]
        except (ValueError, RuntimeError):
            raise StructureError(f"it is not a CIF: {first}; correct it there") from error


def _parsed(text: str) -> cif.Document:
    document = cif.Document()
    document.parse_string(text)
    return document


def _plain(tag: str) -> str:
    return tag.lower().replace(".", "_")
