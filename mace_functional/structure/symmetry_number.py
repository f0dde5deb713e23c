"""Symmetry numbers of molecules, from the rotations that map a molecule onto itself.

The symmetry number is the number of proper rotations, the identity included, that map each atom
onto an atom of the same element and the same mass. It is 12 for benzene and 1 for HCl. For a linear
molecule the rotations about its axis are not counted: it is 2 if the two ends are alike, otherwise
1. Reflections and inversions are not counted, because no rotation of a molecule is one of them.

All these rotations leave the centre of mass in place. A rotation is determined by the images of two
atoms that are not on a line with the centre. These images are searched among the atoms of the same
kind, at the same distance from the centre and from each other; then all atoms are assigned to the
nearest atom of their kind, and the rotation is refined by least squares (Kabsch, Acta Cryst. 1976,
A32, 922).

Source: Fernández-Ramos, Ellingson, Meana-Pañeda, Marques, Truhlar, Theor. Chem. Acc. 2007, 118,
813, for the definition.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from mace_functional.structure.reading.isotopes import NATURAL
from mace_functional.support.defaults import MOLECULE_TOLERANCE
from mace_functional.support.validation import LOOSEST, in_order, symmetry_tolerance

if TYPE_CHECKING:
    from ase import Atoms

WIDER = 5.0
"""Multiple of the tolerance at which a molecule is tested for a higher symmetry, for a warning."""

Permutation = tuple[int, ...]
"""Image of each atom under a rotation."""


def symmetry_number(
    atoms: Atoms, *, tolerance: float = MOLECULE_TOLERANCE, linear: bool = False
) -> int:
    """Find the symmetry number of a molecule: the number of rotations that map it onto itself.

    Atoms of one element and different masses are different, so that CH4 has 12 and CH3D has 3. Only
    rotations of the whole molecule are counted. Internal rotations, such as that of a methyl group,
    are not.

    Args:
        atoms: A molecule in one piece, not periodic.
        tolerance: Largest distance of an atom from the image of another one, Å.
        linear: True if the molecule is linear at its minimum, although its atoms are not exactly on
            a line. It is always taken as linear if all atoms are within the tolerance of a line.

    Returns:
        The symmetry number; 1 for a single atom.

    Raises:
        TypeError: If the argument is not of class Atoms.
        ValueError: If the structure is periodic or has no atoms, or the tolerance is out of range.

    Warns:
        UserWarning: A slightly larger tolerance would find a higher symmetry.

    >>> from ase.build import molecule
    >>> symmetry_number(molecule("C6H6")), symmetry_number(molecule("CO2"))
    (12, 2)
    """
    in_order("symmetry_number(atoms)", (atoms, "Atoms"))
    tolerance = symmetry_tolerance("tolerance", tolerance)
    if atoms.pbc.any():
        raise ValueError(
            f"a symmetry number is that of a molecule, and this structure is periodic along "
            f"{int(atoms.pbc.sum())} directions: for a molecule in a box, put it in one piece and "
            "set atoms.pbc = False"
        )
    if len(atoms) == 0:
        raise ValueError("there are no atoms: a symmetry number is that of a molecule")
    if len(atoms) == 1:
        return 1
    masses = atoms.get_masses()
    x = atoms.positions - masses @ atoms.positions / masses.sum()
    kinds = _kinds(atoms.numbers, masses)
    widest = min(WIDER * tolerance, LOOSEST)
    axis = np.linalg.svd(x, full_matrices=False)[2][0]
    along = np.outer(x @ axis, axis)
    if linear or np.linalg.norm(x - along, axis=1).max() <= tolerance:
        found = _ends_exchanged(along, kinds)
    else:
        found = _rotations(x, masses, kinds, widest)
    number = _largest_group(found, tolerance)
    higher = _largest_group(found, widest)
    if higher > number:
        needed = sorted(found.values())[higher - 1]
        warnings.warn(
            f"the symmetry number is {number} with a tolerance of {tolerance:g} Å, and {higher} "
            f"with {1.05 * needed:.2g} Å: raise the tolerance or give the number if the higher "
            "symmetry is meant, or relax the molecule further",
            stacklevel=2,
        )
    return number


def _kinds(numbers: np.ndarray, masses: np.ndarray) -> np.ndarray:
    """Return an integer for each atom, the same for atoms of the same element and mass, (N,)."""
    order = np.lexsort((masses, numbers))
    z, m = numbers[order], masses[order]
    differs = (np.diff(z) != 0) | (np.diff(m) > NATURAL * m[1:])
    kinds = np.zeros(len(numbers), dtype=int)
    kinds[order[1:]] = np.cumsum(differs)
    return kinds


def _ends_exchanged(along: np.ndarray, kinds: np.ndarray) -> dict[Permutation, float]:
    """Return the deviations of the identity and of the half turn of a linear molecule.

    Args:
        along: Positions projected on the axis, relative to the centre of mass, Å, (N, 3).
        kinds: Kind of each atom, (N,).
    """
    identity = tuple(range(len(kinds)))
    turned = _assigned(-along, along, kinds)
    if turned is None or tuple(turned) == identity:
        return {identity: 0.0}
    deviation = float(np.linalg.norm(-along - along[turned], axis=1).max())
    return {identity: 0.0, tuple(turned): deviation}


def _rotations(
    x: np.ndarray, masses: np.ndarray, kinds: np.ndarray, widest: float
) -> dict[Permutation, float]:
    """Return the proper rotations that map a nonlinear molecule onto itself.

    Args:
        x: Positions relative to the centre of mass, Å, (N, 3).
        masses: Masses, amu, (N,).
        kinds: Kind of each atom, (N,).
        widest: Largest deviation, Å.

    Returns:
        For each rotation the images of the atoms, and the largest distance of an atom from an
        image, Å. A rotation of a nonlinear molecule is determined by the images.
    """
    found = {}
    a, b, images = _references(x, kinds, widest)
    frame = _frame(x[a], x[b])
    for c, d in images:
        moved = x @ (_frame(x[c], x[d]) @ frame.T).T
        permutation = _assigned(moved, x, kinds)
        if permutation is None or tuple(permutation) in found:
            continue
        left, _, right = np.linalg.svd((masses[:, None] * x[permutation]).T @ x)
        left[:, 2] *= np.linalg.det(left @ right)
        rotated = x @ (left @ right).T
        deviation = float(np.linalg.norm(rotated - x[permutation], axis=1).max())
        if deviation <= widest:
            found[tuple(permutation)] = deviation
    return found


def _references(
    x: np.ndarray, kinds: np.ndarray, widest: float
) -> tuple[int, int, Iterator[tuple[int, int]]]:
    """Choose two atoms that are not on a line with the centre, with as few images as possible.

    Returns:
        The two atoms, and all pairs of atoms that may be their images.
    """
    radii = np.linalg.norm(x, axis=1)
    alike = (kinds[:, None] == kinds) & (np.abs(radii[:, None] - radii) <= widest)
    areas = np.linalg.norm(np.cross(x[:, None], x), axis=2)
    n_images = np.outer(alike.sum(1), alike.sum(1))
    a, b = np.unravel_index(
        np.where(areas >= areas.max() / 2, n_images, n_images.max() + 1).argmin(), areas.shape
    )
    distances = np.linalg.norm(x[:, None] - x, axis=2)
    pairs = product(np.flatnonzero(alike[a]), np.flatnonzero(alike[b]))
    images = (
        (int(c), int(d))
        for c, d in pairs
        if abs(distances[c, d] - distances[a, b]) <= 2 * widest and areas[c, d] > areas[a, b] / 4
    )
    return int(a), int(b), images


def _frame(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return right-handed orthonormal axes of two vectors as columns; the first is along one."""
    u = first / np.linalg.norm(first)
    w = np.cross(first, second)
    w = w / np.linalg.norm(w)
    return np.column_stack([u, np.cross(w, u), w])


def _assigned(moved: np.ndarray, x: np.ndarray, kinds: np.ndarray) -> np.ndarray | None:
    """Return the nearest atom of its kind for each moved atom; None if two have the same."""
    distances = np.linalg.norm(moved[:, None] - x, axis=2)
    distances[kinds[:, None] != kinds] = np.inf
    nearest: np.ndarray = distances.argmin(1)
    return nearest if len(set(nearest.tolist())) == len(nearest) else None


def _largest_group(found: dict[Permutation, float], tolerance: float) -> int:
    """Return the order of the largest group of rotations whose deviations are within a tolerance.

    If the deviation of a molecule from its symmetry is close to the tolerance, the rotations within
    it may be no group. Those of the largest deviation are then left out.
    """
    within = sorted((p for p, d in found.items() if d <= tolerance), key=lambda p: found[p])
    while True:
        group = set(within)
        if all(tuple(g[k] for k in h) in group for g in within for h in within):
            return len(within)
        within.pop()
