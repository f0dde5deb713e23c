"""Atoms of a cell from the sites of a file and the symmetry operations of its space group.

Some operations, the site symmetry group G_x, map a site x at a special position onto itself. If
the file rounds the coordinates (0.33 for 1/3), they map it to x + d_g instead, and one atom would
become two or three atoms that are 0.003 to 0.3 Å apart. The site is moved to the mean of these
images,

    x' = x + 1/|G_x| sum_(g in G_x) d_g,

which is the special position itself. The images of x' coincide exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mace_functional.structure.neighbours import pairs

FINEST, COARSEST = 1e-3, 0.02
"""Limits of the tolerance in each fractional coordinate below which images of a site are one atom.

The tolerance is two units of the last digit of the coordinates, the effect of rounding at a
position such as (x, 2x, z). The lower limit allows for relaxed structures, which keep a symmetry to
1e-3; the upper limit is that of two digits. Images farther apart belong to a split site and stay as
they are.
"""

NEAREST_IMAGES = 0.3
"""Distance of two images of a site above which they are different atoms in any cell, Å."""

ROUNDING = 1.5e-4
"""Shift of a fractional coordinate to a special position above which a finding is reported.

Rounding to four digits explains smaller shifts (5e-5 in x, twice as much in 2x).
"""

SAME_PLACE = 0.05
"""Distance below which atoms of one element on different sites are one atom, listed twice, Å."""

SEARCHED = 1.0
"""Distance to which pairs are searched for `SAME_PLACE`, Å; a smaller one needs too many bins."""

ROUNDS = 4
"""Largest number of rounds that move a site to its special position; usually two suffice.

Another round is needed if further images come within the tolerance after the site has moved.
"""

SAME = 1e-9
"""Distance in fractional coordinates below which images of a special position are equal."""

DIRECTION = np.sqrt([2.0, 3.0, 5.0])
"""Direction for sorting the images of a site; with irrational ratios, no two project alike."""


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
        """Return the largest relative change of the metric of a cell by an operation."""
        metric = cell @ cell.T
        rotated = np.einsum("mji,jk,mkl->mil", self.rotations, metric, self.rotations)
        scale = np.sqrt(np.outer(np.diag(metric), np.diag(metric)))
        return float((np.abs(rotated - metric) / scale).max())


@dataclass(frozen=True, eq=False)
class Orbits:
    """Orbits of S sites: the N atoms of a cell.

    Attributes:
        scaled: Fractional coordinates, (N, 3).
        sites: Index of the site of each atom, (N,).
        shifts: Shift of each site to its special position, fractional, (S, 3).
        images: Number of atoms that each site would give without this shift, (S,).
    """

    scaled: np.ndarray
    sites: np.ndarray
    shifts: np.ndarray
    images: np.ndarray


def orbits(
    scaled: np.ndarray, operations: FractionalOperations, cell: np.ndarray, tolerances: np.ndarray
) -> Orbits:
    """Return the different images of all sites.

    Args:
        scaled: Fractional coordinates of the sites, (S, 3).
        operations: Operations of the space group.
        cell: Lattice vectors, Å, (3, 3).
        tolerances: Tolerance for each site, between `FINEST` and `COARSEST`, (S,).
    """
    if len(operations) == 1:
        n = len(scaled)
        return Orbits(scaled, np.arange(n), np.zeros((n, 3)), np.ones(n, dtype=int))
    found, shifts, images = [], [], []
    for x, tolerance in zip(scaled, tolerances, strict=True):
        special = _special_position(x, operations, cell, tolerance)
        found.append(_images(special, operations))
        shifts.append(special - x)
        images.append(len(found[-1]) if (special == x).all() else _count(x, operations))
    sites = np.repeat(np.arange(len(scaled)), [len(each) for each in found])
    return Orbits(np.concatenate(found), sites, np.array(shifts), np.array(images))


def repeated(orbits: Orbits, numbers: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Return a mask of atoms that coincide with an earlier atom of the same element, (N,).

    Only atoms of different sites count.

    Args:
        orbits: The atoms.
        numbers: Atomic number of each atom, (N,).
        cell: Lattice vectors, Å, (3, 3).
    """
    periodic = np.ones(3, dtype=bool)
    near = pairs(orbits.scaled @ cell, cell, periodic, SEARCHED)
    duplicates = near.receiver[
        (near.distance < SAME_PLACE)
        & (near.sender < near.receiver)
        & (numbers[near.sender] == numbers[near.receiver])
        & (orbits.sites[near.sender] != orbits.sites[near.receiver])
    ]
    mask = np.zeros(len(numbers), dtype=bool)
    mask[duplicates] = True
    return mask


def tolerance_of(coordinates: Sequence[str]) -> float:
    """Return the tolerance for a site, from the number of digits of its coordinates.

    Multiples of 1/8 count as exact, whatever their number of digits.

    Args:
        coordinates: Fractional coordinates as written in the file.

    >>> tolerance_of(["0.33", "0.67", "0.382"]), tolerance_of(["0.5", "0.123", "0"])
    (0.02, 0.002)
    """
    inexact = [c for c in (text.partition("(")[0] for text in coordinates) if float(c) * 8 % 1]
    digits = min((len(c.partition(".")[2]) for c in inexact if "e" not in c.lower()), default=9)
    return float(np.clip(2 * 10.0**-digits, FINEST, COARSEST))


def _special_position(
    x: np.ndarray, operations: FractionalOperations, cell: np.ndarray, tolerance: float
) -> np.ndarray:
    """Move a site to the mean of its images that lie within the tolerance of it."""
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
    """Return the different images of a site in the cell; equal ones differ at most by `SAME`."""
    images = _apply(x, operations) % 1.0
    images[images > 1 - SAME] = 0.0
    order = np.argsort(images @ DIRECTION)
    projections = (images @ DIRECTION)[order]
    return images[np.sort(order[np.concatenate([[True], np.diff(projections) > SAME])])]


def _count(x: np.ndarray, operations: FractionalOperations) -> int:
    """Return the number of different images of a site, without moving it."""
    return len(np.unique(np.round(_apply(x, operations) % 1.0, 6) % 1.0, axis=0))


def _apply(x: np.ndarray, operations: FractionalOperations) -> np.ndarray:
    return operations.rotations @ x + operations.translations
