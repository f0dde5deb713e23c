"""Isotopes: the symbols D and T, and masses that differ from the natural ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import atomic_masses, atomic_numbers, chemical_symbols

HYDROGEN = {"D": 2.01410178, "T": 3.01604928}
"""Masses of D and T, amu (Wang et al., Chinese Phys. C 45, 030003, 2021)."""

NATURAL = 1e-3
"""Relative difference of a mass from the natural one above which it is that of an isotope.

Tables of natural masses agree to within it. The isotopes of an element with several isotopes differ
by more.
"""


@dataclass(frozen=True)
class Isotope:
    """Atoms of one element whose mass differs from the natural one.

    Attributes:
        symbol: Symbol of the element.
        mass: Mass in amu.
        count: Number of atoms.
    """

    symbol: str
    mass: float
    count: int


def element_and_mass(symbol: str) -> tuple[str, float]:
    """Return the element of a symbol, D and T included, and its mass in amu.

    Raises:
        KeyError: If the symbol is unknown.

    >>> element_and_mass("D")
    ('H', 2.01410178)
    """
    if symbol in HYDROGEN:
        return "H", HYDROGEN[symbol]
    return symbol, float(atomic_masses[atomic_numbers[symbol]])


def set_symbols(atoms: Atoms, symbols: Sequence[str]) -> None:
    """Set the masses of atoms whose symbol is D or T."""
    isotopic = [i for i, symbol in enumerate(symbols) if symbol in HYDROGEN]
    if isotopic:
        masses = atoms.get_masses()
        masses[isotopic] = [HYDROGEN[symbols[i]] for i in isotopic]
        atoms.set_masses(masses)


def isotopes_of(atoms: Atoms) -> tuple[Isotope, ...]:
    """Return the isotopes of a structure, sorted by element and mass."""
    masses = atoms.get_masses()
    natural = atomic_masses[atoms.numbers]
    other = np.flatnonzero(np.abs(masses - natural) > NATURAL * natural)
    found = Counter((chemical_symbols[atoms.numbers[i]], round(float(masses[i]), 6)) for i in other)
    return tuple(Isotope(symbol, mass, n) for (symbol, mass), n in sorted(found.items()))
