"""How near atoms may come: the one place for such limits.

The measure of a pair is its distance over the sum of the two covalent radii (Cordero et al.,
Dalton Trans. 2008, 2832; `ase.data.covalent_radii`),

    ratio_ij = |x_i - x_j + S cell| / (R_i + R_j),

and the shortest contact of a structure is the pair of the smallest ratio, periodic images included.
A distance in Å alone cannot tell: 0.74 Å is a bond of H2 and no distance between two metal atoms.

Measured: 0.77 (the radical CN) and more in sound structures (ASE's collections of molecules, dimers
and elements, hydrides, ionic crystals, frameworks, hydrogen under pressure), 0.001 to 0.58 in files
that were misread or miswritten.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii

from mace_functional.structure import neighbours

REFUSED = 0.4
"""Smallest ratio that is accepted. Below it two atoms stand in one place: a file of such atoms is
refused, and an optimiser takes no step there, where potentials may fall without end."""

REPORTED = 0.65
"""Ratio below which a contact is told: shorter than any bond, but not by as much as an error of a
file usually makes it. Alkali metals reach it above 100 GPa."""

FIRST_REACH = 1.3
"""Ratio to which pairs are searched first: most structures have a bond below it."""

FARTHEST = 20.0
"""Å: nothing nearer than this is no contact."""


@dataclass(frozen=True)
class Contact:
    """A pair of atoms that are near each other.

    Attributes:
        first: Number of an atom.
        second: Number of the other one; the same number for an atom and its own image.
        symbols: Elements of the two.
        distance: Å.
        ratio: Distance over the sum of the covalent radii.
    """

    first: int
    second: int
    symbols: tuple[str, str]
    distance: float
    ratio: float

    def __str__(self) -> str:
        a, b = self.symbols
        return (
            f"atoms {self.first} ({a}) and {self.second} ({b}) are {self.distance:.3g} Å apart, "
            f"{self.ratio:.2g} of the sum of their covalent radii"
        )


def radii_of(numbers: np.ndarray) -> np.ndarray:
    """Covalent radii by atomic number, Å, (N,)."""
    return covalent_radii[numbers]


def shortest_contact(atoms: Atoms) -> Contact | None:
    """The pair of atoms with the smallest ratio, over all periodic images.

    Args:
        atoms: The structure; its cell must have a volume where it is periodic.

    Returns:
        The pair, or None if no two atoms come within `FARTHEST`.

    Raises:
        ValueError: As `neighbours.search`, or if the atoms cannot have room in the cell.
    """
    radii = radii_of(atoms.numbers)
    _check_room(atoms, radii)
    largest = 2 * float(radii.max())
    reach = FIRST_REACH * largest
    while True:
        contact = _shortest_within(atoms, radii, reach)
        if contact is not None and contact.ratio * largest <= reach:
            return contact
        if reach >= FARTHEST:
            return contact
        reach = min(FARTHEST, 2 * reach if contact is None else contact.ratio * largest)


def smallest_ratio(atoms: Atoms) -> float:
    """Smallest distance of two atoms over the sum of their covalent radii, if it is below a bond's.

    Infinite where no pair comes within `FIRST_REACH` times the largest of these sums.

    Args:
        atoms: The structure.

    Raises:
        ValueError: As `neighbours.pairs`.
    """
    radii = radii_of(atoms.numbers)
    contact = _shortest_within(atoms, radii, FIRST_REACH * 2 * float(radii.max()))
    return math.inf if contact is None else contact.ratio


def filled_fraction(atoms: Atoms, scale: float = REFUSED) -> float:
    """Volume of spheres of `scale` times the covalent radii, over the volume of the cell."""
    spheres = 4 / 3 * math.pi * float(((scale * radii_of(atoms.numbers)) ** 3).sum())
    return spheres / abs(float(np.linalg.det(atoms.cell.array)))


def _check_room(atoms: Atoms, radii: np.ndarray) -> None:
    """Refuse a cell in which some pair must have a ratio below `REFUSED`.

    Where all ratios are larger, spheres of `REFUSED` times the radii do not overlap, so that they
    fill less than the cell. This bounds the number of pairs before any is searched for.
    """
    if atoms.pbc.all() and filled_fraction(atoms) > 1:
        volume = abs(float(np.linalg.det(atoms.cell.array)))
        raise ValueError(
            f"{len(atoms)} atoms have no room in a cell of {volume:.3g} Å³, "
            f"{float(atoms.get_masses().sum()) / volume * GRAM_PER_CM3:.3g} g/cm³: give the right "
            "cell in Å, or none if it is a molecule"
        )


GRAM_PER_CM3 = 1.66053906660
"""One amu/Å³ in g/cm³."""


def _shortest_within(atoms: Atoms, radii: np.ndarray, reach: float) -> Contact | None:
    edges = neighbours.pairs(atoms.positions, atoms.cell.array, atoms.pbc, reach)
    if not len(edges.distance):
        return None
    ratios = edges.distance / (radii[edges.sender] + radii[edges.receiver])
    k = int(np.argmin(ratios))
    first, second = sorted((int(edges.sender[k]), int(edges.receiver[k])))
    symbols = chemical_symbols[atoms.numbers[first]], chemical_symbols[atoms.numbers[second]]
    return Contact(first, second, symbols, float(edges.distance[k]), float(ratios[k]))
