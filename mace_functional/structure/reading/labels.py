"""Elements from the symbols and labels that files give to sites."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice, product

from ase.data import atomic_numbers

from mace_functional.structure.reading.composition import composition, formula_units
from mace_functional.structure.reading.errors import StructureError
from mace_functional.structure.reading.isotopes import HYDROGEN
from mace_functional.structure.reading.occupancy import named

MOST_READINGS = 4096
"""Largest number of combinations of readings of labels that are compared with the formula."""


def element_of_symbol(symbol: str) -> str | None:
    """Return the element of a type symbol such as "Fe3+", "NA" or "D"; None if there is none.

    >>> [element_of_symbol(symbol) for symbol in ("Fe3+", "NA", "O2-", "D", "X")]
    ['Fe', 'Na', 'O', 'D', None]
    """
    letters = re.match(r"[A-Za-z]*", symbol.strip())
    word = letters[0] if letters else ""
    if word.upper() in HYDROGEN:
        return word.upper()
    return next(iter(_readings(word)), None)


def elements_of_labels(
    labels: Sequence[str], multiplicities: Sequence[int], formula: dict[str, float] | None
) -> tuple[list[str], tuple[str, ...]]:
    """Return the elements of sites that have only labels, such as "Na1", "CL2" or "O1W".

    "CL" may be chlorine or a carbon atom named L. The formula decides. Without a formula, the
    longer symbol is used; a finding reports it if the label is in capitals.

    Args:
        labels: Label of each site.
        multiplicities: Number of atoms of each site.
        formula: Counts by element that the file states; None if it states none.

    Returns:
        The symbols and the findings.

    Raises:
        StructureError: If a label does not begin with an element.
    """
    words = [re.match(r"[A-Za-z]*", label.strip())[0] for label in labels]  # type: ignore[index]
    kinds = {word: _readings(word) for word in words}
    unknown = [label for label, word in zip(labels, words, strict=True) if not kinds[word]]
    if unknown:
        raise StructureError(
            f"the elements of sites {named(unknown)} are unknown: give them in a column "
            "_atom_site_type_symbol"
        )
    for reading in islice(product(*kinds.values()), MOST_READINGS):
        element = dict(zip(kinds, reading, strict=True))
        symbols = [element[word] for word in words]
        if formula is None:
            break
        atoms = (s for s, n in zip(symbols, multiplicities, strict=True) for _ in range(n))
        if formula_units(composition(atoms), formula) is not None:
            return symbols, ()
    symbols = [kinds[word][0] for word in words]
    ambiguous = [
        f"{label} as {symbol}"
        for label, word, symbol in zip(labels, words, symbols, strict=True)
        if len(kinds[word]) > 1 and word[1].isupper()
    ]
    if not ambiguous:
        return symbols, ()
    return symbols, (
        "there is no column of elements, and labels in capitals are read as the longer symbol: "
        f"{named(ambiguous)}",
    )


def _readings(word: str) -> list[str]:
    """Return the elements with which a word may begin, the likelier one first."""
    found = [word[:2].capitalize()] if len(word) > 1 else []
    found.append(word[:1].upper())
    return [each for each in found if each == "D" or (each in atomic_numbers and each != "X")]
