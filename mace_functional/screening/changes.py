"""What a relaxation did to a structure: its volume, its shape, its bonds.

Two atoms have a bond where their distance is less than 1.2 times the sum of their covalent radii,
and none beyond 1.5 times. A bond is broken that goes from the one to the other, and formed the
other way round. What ends between the two is not counted, since in metals and salts neighbours lie
close to any single limit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.data import covalent_radii

from mace_functional.structure.neighbours import search

BONDED, APART = 1.2, 1.5
"""Distances over the sum of covalent radii. Bonds of molecules and frameworks are up to 1.1, metals
up to 1.15; second neighbours begin at 1.5."""


def changes(before: Atoms, after: Atoms) -> dict[str, Any]:
    """Facts of a record about a relaxation.

    Args:
        before: The structure as it was read.
        after: The same atoms after relaxation, none of them moved to another cell.

    Returns:
        Values by names of attributes of `Record`: the volume before, Å³; the smallest height of the
        cell over that before; numbers of bonds broken and formed.
    """
    crystal = bool(before.pbc.all())
    return {
        "volume_read": float(before.get_volume()) if crystal else None,
        "thinnest": float((_heights(after) / _heights(before)).min()) if crystal else None,
        "n_bonds_broken": _lost(before, after),
        "n_bonds_formed": _lost(after, before),
    }


def _lost(one: Atoms, other: Atoms) -> int:
    """How many bonds of one geometry are none in the other."""
    far = _ratios(other, *_bonds(one)) > APART
    return int(far.sum()) // 2  # each bond goes both ways


def _bonds(atoms: Atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First and second atoms and shifts of all bonds, both ways."""
    reach = 2 * BONDED * float(covalent_radii[atoms.numbers].max())
    second, first, shifts = search(atoms.positions, atoms.cell.array, atoms.pbc, reach)
    bonded = _ratios(atoms, first, second, shifts) < BONDED
    return first[bonded], second[bonded], shifts[bonded]


def _ratios(atoms: Atoms, first: np.ndarray, second: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Distances over sums of covalent radii."""
    vectors = atoms.positions[second] - atoms.positions[first] + shifts @ atoms.cell.array
    radii = covalent_radii[atoms.numbers]
    ratios: np.ndarray = np.linalg.norm(vectors, axis=1) / (radii[first] + radii[second])
    return ratios


def _heights(atoms: Atoms) -> np.ndarray:
    """Distances between opposite faces of the cell, Å, (3,)."""
    heights: np.ndarray = 1 / np.linalg.norm(np.linalg.inv(atoms.cell.array), axis=0)
    return heights
