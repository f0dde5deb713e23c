"""Ranges of atoms on the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence

RANGE = re.compile(r"(-?\d+)(?:-(-?\d+))?")
"""Pattern of an atom's number or of a range, such as `5`, `0-5` or `-3--1`."""


def numbers_in(words: Sequence[str], count: int) -> list[int]:
    """Return the atoms that words such as `0-5,9` or `-3--1` select.

    Args:
        words: Numbers of atoms and ranges with both their ends, separated by commas. Numbers begin
            at 0; negative numbers count from the end.
        count: Number N of atoms in the structure.

    Returns:
        Numbers from 0 to N - 1 in ascending order, without duplicates.

    Raises:
        ValueError: If a word is neither a number nor a range, a number is out of range, or a range
            is empty.

    Example:
        >>> numbers_in(["0-2,4", "-1"], 10), numbers_in(["-3--1"], 10)
        ([0, 1, 2, 4, 9], [7, 8, 9])
    """
    numbers: set[int] = set()
    for word in ",".join(words).split(","):
        match = RANGE.fullmatch(word.strip())
        if match is None:
            raise ValueError(f"{word!r} is neither the number of an atom nor a range such as 0-5")
        ends = [int(end) for end in match.groups() if end is not None]
        if min(ends) < -count or max(ends) >= count:
            raise ValueError(f"atoms are numbered from 0 to {count - 1}: there is no {word}")
        first, last = ends[0] % count, ends[-1] % count
        if first > last:
            raise ValueError(f"the range {word} is empty: give the lower number first")
        numbers.update(range(first, last + 1))
    return sorted(numbers)
