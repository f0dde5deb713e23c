"""Isotopes: symbols of hydrogen's, and masses that are not the natural ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import atomic_masses, atomic_numbers, chemical_symbols

HYDROGEN = {"D": 2.01410178, "T": 3.01604928}
"""Masses of the isotopes of hydrogen that have a symbol of their own, amu (Wang et al., Chinese
Phys. C 45, 030003, 2021)."""

NATURAL = 1e-3
"""Relative difference of two masses of one natural element: tables agree to it, and no isotope of
an element that has several is so near."""


@dataclass(frozen=True)
class Isotope:
    """Atoms of one element whose mass is not the natural one.

    Attributes:
        symbol: Of the element.
        mass: amu.
        count: How many atoms.
    """

    symbol: str
    mass: float
    count: int


def element_and_mass(symbol: str) -> tuple[str, float]:
    """The element of a symbol, D and T included, and its mass in amu.

    Raises:
        KeyError: If there is no such element.

    >>> element_and_mass("D")
    ('H', 2.01410178)
    """
    if symbol in HYDROGEN:
        return "H", HYDROGEN[symbol]
    return symbol, float(atomic_masses[atomic_numbers[symbol]])


def set_symbols(atoms: Atoms, symbols: Sequence[str]) -> None:
    """Give atoms the masses of symbols such as D, if there are any."""
    isotopic = [i for i, symbol in enumerate(symbols) if symbol in HYDROGEN]
    if isotopic:
        masses = atoms.get_masses()
        masses[isotopic] = [HYDROGEN[symbols[i]] for i in isotopic]
        atoms.set_masses(masses)


def isotopes_of(atoms: Atoms) -> tuple[Isotope, ...]:
    """Elements with masses that are not the natural ones, by element and mass."""
    masses = atoms.get_masses()
    natural = atomic_masses[atoms.numbers]
    other = np.flatnonzero(np.abs(masses - natural) > NATURAL * natural)
    found = Counter((chemical_symbols[atoms.numbers[i]], round(float(masses[i]), 6)) for i in other)
    return tuple(Isotope(symbol, mass, n) for (symbol, mass), n in sorted(found.items()))
