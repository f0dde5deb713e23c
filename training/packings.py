"""Crystals of small molecules: molecules packed at random, for their interactions with each other.

They are no crystals that anyone has seen. The teacher relaxes them to minima near by.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
from ase import Atoms
from molecules import molecules

LARGEST = 13
"""Largest number of atoms of a molecule."""

FEWEST = 9
"""A cell has one or two molecules if these have at least this number of atoms, and four if not."""

GAP = 2.4
"""Distance of the boxes around neighbouring molecules, Å: that of hydrogen atoms in contact."""

METALS = (11, 13, 30)
"""Elements of molecules that would bind to their neighbours."""

REACTIVE = ("G2 CH2_s1A1d", "G2 SiH2_s1A1d", "G2 SiO", "G2 O3")
"""Closed-shell molecules that would react with each other."""

HELD_OUT = ("H3N", "CH2O2", "C2H5NO2")
"""Molecules of crystals on which the student is tested."""


def packings() -> Iterator[tuple[str, Atoms]]:
    """Yield crystals of the small closed-shell molecules of the training."""
    for name, atoms in molecules():
        if _is_packed(name, atoms):
            yield (
                f"{name}, packed",
                _packed(atoms, np.random.default_rng(zlib.crc32(name.encode()))),
            )


def _is_packed(name: str, molecule: Atoms) -> bool:
    closed_shell = (
        molecule.numbers.sum() % 2 == 0 and not molecule.get_initial_magnetic_moments().any()
    )
    return (
        closed_shell
        and len(molecule) <= LARGEST
        and not name.startswith("S22")
        and name not in REACTIVE
        and not np.isin(molecule.numbers, METALS).any()
        and molecule.get_chemical_formula() not in HELD_OUT
    )


def _packed(molecule: Atoms, rng: np.random.Generator) -> Atoms:
    """Return a crystal with molecules in random orientations, in boxes of equal size."""
    enough = (r for r in ((1, 1, 1), (1, 1, 2)) if len(molecule) * np.prod(r) >= FEWEST)
    repeats = next(enough, (1, 2, 2))
    copies = []
    for _ in range(int(np.prod(repeats))):
        copy = molecule.copy()
        copy.set_initial_magnetic_moments(None)
        copy.rotate(360 * rng.random(), rng.normal(size=3))
        copy.positions -= (copy.positions.max(0) + copy.positions.min(0)) / 2
        copies.append(copy)
    box = np.max([np.ptp(copy.positions, axis=0) for copy in copies], axis=0) + GAP
    crystal = Atoms(cell=box * repeats, pbc=True)
    for copy, place in zip(copies, np.ndindex(repeats), strict=True):
        copy.positions += (np.array(place) + 0.5) * box
        crystal += copy
    return crystal
