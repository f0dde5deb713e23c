"""Changes of a structure in its relaxation: volume, shape and bonds.

Two atoms are bonded if their distance is less than 1.2 times the sum of their covalent radii, and
apart beyond 1.5 times. A bond counts as broken if its atoms are apart afterwards, and as formed if
they were apart before. Distances in between do not count, because neighbours in metals and salts
lie close to any single limit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.data import covalent_radii

from mace_functional.structure.neighbours import search

BONDED, APART = 1.2, 1.5
"""Distances relative to the sum of covalent radii. Bonds reach 1.1 in molecules and frameworks, and
1.15 in metals; second neighbours begin at 1.5."""


def changes(before: Atoms, after: Atoms) -> dict[str, Any]:
    """Part of a record about changes in a relaxation.

    Args:
        before: The structure as it was read.
        after: The same atoms after relaxation, none of them wrapped into another cell.

    Returns:
        Values by attributes of `Record`: the volume before, Å³; the smallest ratio of a height of
        the cell after and before; numbers of bonds broken and formed.
    """
    crystal = bool(before.pbc.all())
    return {
        "volume_read": float(before.get_volume()) if crystal else None,
        "thinnest": float((_heights(after) / _heights(before)).min()) if crystal else None,
        "n_bonds_broken": _lost(before, after),
        "n_bonds_formed": _lost(after, before),
    }


def _lost(one: Atoms, other: Atoms) -> int:
    """Number of bonds of one geometry whose atoms are apart in the other."""
    far = _ratios(other, *_bonds(one)) > APART
    return int(far.sum()) // 2  # each bond is listed in both directions


def _bonds(atoms: Atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First atoms, second atoms and cell shifts of all bonds, in both directions."""
    reach = 2 * BONDED * float(covalent_radii[atoms.numbers].max())
    second, first, shifts = search(atoms.positions, atoms.cell.array, atoms.pbc, reach)
    bonded = _ratios(atoms, first, second, shifts) < BONDED
    return first[bonded], second[bonded], shifts[bonded]


def _ratios(atoms: Atoms, first: np.ndarray, second: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Distances of pairs relative to sums of covalent radii."""
    vectors = atoms.positions[second] - atoms.positions[first] + shifts @ atoms.cell.array
    radii = covalent_radii[atoms.numbers]
    ratios: np.ndarray = np.linalg.norm(vectors, axis=1) / (radii[first] + radii[second])
    return ratios


def _heights(atoms: Atoms) -> np.ndarray:
    """Distances between opposite faces of the cell, Å, (3,)."""
    heights: np.ndarray = 1 / np.linalg.norm(np.linalg.inv(atoms.cell.array), axis=0)
    return heights
