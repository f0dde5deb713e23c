"""Counts of elements, from a formula or from atoms, and their comparison."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from ase.data import atomic_numbers

from mace_functional.structure.reading.isotopes import HYDROGEN

TERM = re.compile(r"([A-Z][a-z]?)(\d*\.?\d*)")
"""An element and its count in a formula."""

AGREES = 0.01
"""Relative difference of two counts up to which they agree, because formulas are rounded."""


def parse_formula(formula: str) -> dict[str, float] | None:
    """Return the counts of a formula such as "Al2 O3"; D and T count as H.

    Returns:
        Counts by element; None for other formulas (brackets, unknown numbers).

    >>> parse_formula("C4 H2 D2 O")
    {'C': 4.0, 'H': 4.0, 'O': 1.0}
    """
    counts: dict[str, float] = {}
    for word in re.split(r"[\s,]+", formula.strip()):
        terms = TERM.findall(word)
        if not terms or "".join(a + b for a, b in terms) != word:
            return None
        for symbol, number in terms:
            element = "H" if symbol in HYDROGEN else symbol
            if element not in atomic_numbers or number == ".":
                return None
            counts[element] = counts.get(element, 0.0) + float(number or 1)
    return counts if all(count > 0 for count in counts.values()) else None


def composition(symbols: Iterable[str]) -> dict[str, float]:
    """Return the number of atoms of each element; D and T count as H."""
    counted = Counter("H" if symbol in HYDROGEN else symbol for symbol in symbols)
    return {symbol: float(count) for symbol, count in counted.items()}


def formula_units(found: Mapping[str, float], stated: Mapping[str, float]) -> float | None:
    """Return the number of stated formula units in a composition; None if the ratios differ."""
    if found.keys() != stated.keys():
        return None
    units = sum(found.values()) / sum(stated.values())
    same = all(abs(found[e] - units * stated[e]) <= AGREES * found[e] for e in found)
    return units if same else None


def in_words(counts: Mapping[str, float]) -> str:
    """Return a formula such as "Al12 O18"."""
    return " ".join(f"{symbol}{count:g}" for symbol, count in sorted(counts.items()))
