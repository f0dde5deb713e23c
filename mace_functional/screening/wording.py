"""Numbers, counts, times and errors in words, and text that can be shown on one line."""

from __future__ import annotations

import math
from collections.abc import Sequence

MISSING = "–"
"""Sign that stands for a missing value."""

LARGE = 1e7
"""Numbers from here on are written with an exponent: 1e300 has 300 digits otherwise."""


def printable(words: str) -> str:
    """Text on one line, without control characters and others that cannot be drawn."""
    line = " ".join(words.split())
    return "".join(c if c.isprintable() else "\ufffd" for c in line)


def formatted(value: float | None, form: str) -> str:
    """A number in a format, or a sign for a missing one."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:.3g}" if abs(value) >= LARGE else format(value, form)


def counted(number: int, noun: str) -> str:
    """A number and its noun: 1 structure, 2 structures."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def reason_of(error: Exception) -> str:
    """Reason of a failure: the text of a ValueError, or kind and text of another error."""
    if isinstance(error, MemoryError):
        return f"not enough memory: {error}"
    if type(error) is ValueError and str(error):
        return str(error)
    return f"{type(error).__name__}: {error}"


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    if not math.isfinite(seconds):
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def mesh_words(mesh: Sequence[int]) -> str:
    """The size of a mesh of wave vectors: 4 × 4 × 4."""
    return " × ".join(map(str, mesh))
