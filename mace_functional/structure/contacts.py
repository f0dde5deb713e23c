"""Limits of the distance between two atoms.

The measure of a pair is its distance divided by the sum of the two covalent radii (Cordero et al.,
Dalton Trans. 2008, 2832; `ase.data.covalent_radii`),

    ratio_ij = |x_i - x_j + S cell| / (R_i + R_j).

The shortest contact of a structure is the pair with the smallest ratio, periodic images included.
A limit in Å would not do: 0.74 Å is the bond length of H2, but no distance of two metal atoms.

Measured: 0.77 (the radical CN) and more in sound structures (ASE's collections of molecules, dimers
and elements, hydrides, ionic crystals, frameworks, hydrogen under pressure); 0.001 to 0.58 in files
that were misread or contain errors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii

from mace_functional.structure import neighbours

REFUSED = 0.4
"""Smallest accepted ratio of a distance to the sum of covalent radii.

Below it a file is refused and an optimiser takes no step, because the energy of a potential may be
unbounded from below there.
"""

REPORTED = 0.65
"""Ratio of a distance to the sum of covalent radii below which a contact is reported.

It is shorter than any bond, but most errors in files lead to smaller ratios. Alkali metals reach it
above 100 GPa.
"""

FIRST_REACH = 1.3
"""Ratio up to which pairs are searched first; most structures have a bond below it."""

FARTHEST = 20.0
"""Largest distance of a contact, Å; pairs farther apart are not searched for."""


@dataclass(frozen=True)
class Contact:
    """A pair of atoms that are close to each other.

    Attributes:
        first: Index of one atom.
        second: Index of the other atom; equal to `first` for an atom and its own image.
        symbols: Elements of the two.
        distance: Distance in Å.
        ratio: Distance divided by the sum of the covalent radii.
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
    """Return the covalent radius of each atom, Å, (N,), given atomic numbers (N,)."""
    return covalent_radii[numbers]


def shortest_contact(atoms: Atoms) -> Contact | None:
    """Return the pair of atoms with the smallest ratio, over all periodic images.

    Args:
        atoms: The structure; its periodic lattice vectors must be linearly independent.

    Returns:
        The pair, or None if all distances exceed `FARTHEST`.

    Raises:
        ValueError: If the cell is too small for its atoms; see also `neighbours.pairs`.
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
    """Return the smallest ratio of a distance to the sum of covalent radii; infinity if large.

    It is infinite if no pair comes within `FIRST_REACH` times the largest of these sums.

    Args:
        atoms: The structure.

    Raises:
        ValueError: See `neighbours.pairs`.
    """
    radii = radii_of(atoms.numbers)
    contact = _shortest_within(atoms, radii, FIRST_REACH * 2 * float(radii.max()))
    return math.inf if contact is None else contact.ratio


def filled_fraction(atoms: Atoms, scale: float = REFUSED) -> float:
    """Return the volume of spheres of `scale` times the covalent radii, per volume of the cell."""
    spheres = 4 / 3 * math.pi * float(((scale * radii_of(atoms.numbers)) ** 3).sum())
    return spheres / abs(float(np.linalg.det(atoms.cell.array)))


def _check_room(atoms: Atoms, radii: np.ndarray) -> None:
    """Raise if the cell is so small that some pair must have a ratio below `REFUSED`.

    If all ratios are larger, spheres of `REFUSED` times the radii do not overlap, so that their
    volume is less than that of the cell. This bounds the number of pairs before the search.
    """
    if atoms.pbc.all() and filled_fraction(atoms) > 1:
        volume = abs(float(np.linalg.det(atoms.cell.array)))
        raise ValueError(
            f"{len(atoms)} atoms have no room in a cell of {volume:.3g} Å³, "
            f"{float(atoms.get_masses().sum()) / volume * GRAM_PER_CM3:.3g} g/cm³: give the right "
            "cell in Å, or no cell for a molecule"
        )


GRAM_PER_CM3 = 1.66053906660
"""Density of one amu/Å³ in g/cm³."""


def _shortest_within(atoms: Atoms, radii: np.ndarray, reach: float) -> Contact | None:
    pairs = neighbours.pairs(atoms.positions, atoms.cell.array, atoms.pbc, reach)
    if not len(pairs.distance):
        return None
    ratios = pairs.distance / (radii[pairs.sender] + radii[pairs.receiver])
    k = int(np.argmin(ratios))
    first, second = sorted((int(pairs.sender[k]), int(pairs.receiver[k])))
    symbols = chemical_symbols[atoms.numbers[first]], chemical_symbols[atoms.numbers[second]]
    return Contact(first, second, symbols, float(pairs.distance[k]), float(ratios[k]))
