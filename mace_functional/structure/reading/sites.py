"""Atoms of a cell from the sites of a file and the symmetry operations of its space group.

A site x at a special position is one that some operations bring back to itself. Where the file
rounds its coordinates (0.33 for 1/3), they bring it to x + d_g instead, and one atom would become
two or three that are 0.003 to 0.3 Å apart. The site is moved to the mean of these images,

    x' = x + 1/|G_x| sum_(g in G_x) d_g,

which is the special position itself, and the images of x' coincide exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mace_functional.structure.neighbours import pairs

FINEST, COARSEST = 1e-3, 0.02
"""Images of a site that differ by less in each fractional coordinate are one atom. The tolerance is
two units of the last digit of the coordinates, as rounding makes them differ at a position such as
(x, 2x, z), between these limits: relaxed structures keep a symmetry to 1e-3, and 0.02 is for two
digits. Images farther apart are of a site that is split, and are left as they are."""

NEAREST_IMAGES = 0.3
"""Å: images that are farther apart are different atoms, however large the cell is."""

ROUNDING = 1.5e-4
"""Largest shift of a fractional coordinate to a special position that four digits explain (5e-5 in
x, twice that in 2x): up to it nothing is said."""

SAME_PLACE = 0.05
"""Å: atoms of one element and of different sites that are nearer than this are one atom, listed
more than once."""

SEARCHED = 1.0
"""Å: a search for nearer pairs only would take many small bins."""

ROUNDS = 4
"""The images that coincide may become more once the site has moved; two rounds do in practice."""


SAME = 1e-9
"""Images of a special position differ by less, in fractional coordinates."""

DIRECTION = np.sqrt([2.0, 3.0, 5.0])
"""Different images of a site differ along it, as its components have no rational ratio."""


@dataclass(frozen=True, eq=False)
class FractionalOperations:
    """Symmetry operations `x -> R x + t` of fractional coordinates.

    Attributes:
        rotations: R, (M, 3, 3).
        translations: t, (M, 3).
    """

    rotations: np.ndarray
    translations: np.ndarray

    def __len__(self) -> int:
        return len(self.rotations)

    @property
    def point_order(self) -> int:
        """Number of different rotations."""
        return len(np.unique(np.rint(self.rotations).astype(int).reshape(len(self), 9), axis=0))

    def misfit(self, cell: np.ndarray) -> float:
        """Largest relative change that an operation makes to the metric of a cell."""
        metric = cell @ cell.T
        turned = np.einsum("mji,jk,mkl->mil", self.rotations, metric, self.rotations)
        scale = np.sqrt(np.outer(np.diag(metric), np.diag(metric)))
        return float((np.abs(turned - metric) / scale).max())


@dataclass(frozen=True, eq=False)
class Orbits:
    """The atoms of a cell.

    Attributes:
        scaled: Fractional coordinates, (N, 3).
        sites: Number of the site of each atom, (N,).
        shifts: How far each site was moved to its special position, fractional, (S, 3).
        images: How many atoms each site would have made without that, (S,).
    """

    scaled: np.ndarray
    sites: np.ndarray
    shifts: np.ndarray
    images: np.ndarray


def orbits(
    scaled: np.ndarray, operations: FractionalOperations, cell: np.ndarray, tolerances: np.ndarray
) -> Orbits:
    """All images of all sites.

    Args:
        scaled: Fractional coordinates of the sites, (S, 3).
        operations: Of the space group.
        cell: Lattice vectors, Å, (3, 3).
        tolerances: Of each site, between `FINEST` and `COARSEST`, (S,).
    """
    if len(operations) == 1:
        n = len(scaled)
        return Orbits(scaled, np.arange(n), np.zeros((n, 3)), np.ones(n, dtype=int))
    found, shifts, images = [], [], []
    for x, tolerance in zip(scaled, tolerances, strict=True):
        there = _special_position(x, operations, cell, tolerance)
        found.append(_images(there, operations))
        shifts.append(there - x)
        images.append(len(found[-1]) if (there == x).all() else _count(x, operations))
    sites = np.repeat(np.arange(len(scaled)), [len(each) for each in found])
    return Orbits(np.concatenate(found), sites, np.array(shifts), np.array(images))


def repeated(orbits: Orbits, numbers: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Which atoms stand in the place of an earlier one of the same element and another site, (N,).

    Args:
        orbits: The atoms.
        numbers: Atomic number of each, (N,).
        cell: Lattice vectors, Å, (3, 3).
    """
    periodic = np.ones(3, dtype=bool)
    near = pairs(orbits.scaled @ cell, cell, periodic, SEARCHED)
    later = near.receiver[
        (near.distance < SAME_PLACE)
        & (near.sender < near.receiver)
        & (numbers[near.sender] == numbers[near.receiver])
        & (orbits.sites[near.sender] != orbits.sites[near.receiver])
    ]
    dropped = np.zeros(len(numbers), dtype=bool)
    dropped[later] = True
    return dropped


def tolerance_of(coordinates: Sequence[str]) -> float:
    """The tolerance for a site by the last digit of its coordinates, between the two limits.

    What is a multiple of 1/8 is exact, however few digits it has.

    Args:
        coordinates: Fractional ones, as the file has them.

    >>> tolerance_of(["0.33", "0.67", "0.382"]), tolerance_of(["0.5", "0.123", "0"])
    (0.02, 0.002)
    """
    inexact = [c for c in (text.partition("(")[0] for text in coordinates) if float(c) * 8 % 1]
    digits = min((len(c.partition(".")[2]) for c in inexact if "e" not in c.lower()), default=9)
    return float(np.clip(2 * 10.0**-digits, FINEST, COARSEST))


def _special_position(
    x: np.ndarray, operations: FractionalOperations, cell: np.ndarray, tolerance: float
) -> np.ndarray:
    """The site moved to the mean of those of its images that are nearly in its place."""
    for _ in range(ROUNDS):
        difference = _apply(x, operations) - x
        difference -= np.rint(difference)
        near = (np.abs(difference).max(1) < 1.001 * tolerance) & (
            np.linalg.norm(difference @ cell, axis=1) < NEAREST_IMAGES
        )
        shift = difference[near].mean(0)
        if np.abs(shift).max() < 1e-12:
            break
        x = x + shift
    return x


def _images(x: np.ndarray, operations: FractionalOperations) -> np.ndarray:
    """Different images of a site in the cell, which differ by rounding or by much more."""
    images = _apply(x, operations) % 1.0
    images[images > 1 - SAME] = 0.0
    order = np.argsort(images @ DIRECTION)
    along = (images @ DIRECTION)[order]
    return images[np.sort(order[np.concatenate([[True], np.diff(along) > SAME])])]


def _count(x: np.ndarray, operations: FractionalOperations) -> int:
    """Number of different images of a site as it is."""
    return len(np.unique(np.round(_apply(x, operations) % 1.0, 6) % 1.0, axis=0))


def _apply(x: np.ndarray, operations: FractionalOperations) -> np.ndarray:
    return operations.rotations @ x + operations.translations
