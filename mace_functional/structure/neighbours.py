"""Neighbour search, and the padded layout of its result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from ase.geometry import complete_cell
from matscipy.neighbours import neighbour_list

from mace_functional.autodiff.memory import free_memory

Edges = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Receiver i, sender j and unit shift S of each edge; i and j are indices of atoms."""

LARGEST = 1e6
"""Largest coordinate or lattice vector component that is accepted, Å.

Above it, rounding changes distances between atoms by more than 1e-9 Å. Near 1e150 their squares
overflow, and matrix decompositions do not terminate.
"""

COINCIDENT = 1e-3
"""Distance of two atoms below which a neighbour search raises, Å.

At distance zero the direction of the pair is undefined and the energy singular. Limits for real
matter are in `contacts`.
"""

MIN_SPACING = 1e-2
"""Spacing of lattice planes below which a neighbour search raises, Å."""

MOST_NEIGHBOURS = 300_000
"""Average number of neighbours of an atom above which a neighbour search raises.

The densest matter has 95 000 within the 31.8 Å of D3 (metallic hydrogen, 0.7 atoms/Å³), diamond
24 000. A molecule of twelve atoms in a cell of 1 x 1 x 1 Å has 1.6 million.
"""

BYTES_PER_PAIR = 105
"""Memory per pair during search and packing, bytes.

Measured on 22 000 atoms of diamond; the search alone takes 29 bytes.
"""

MAX_BINS = 50
"""Largest number of search bins along a direction that is not periodic; affects only speed."""


class Pairs(NamedTuple):
    """Pairs of atoms within a distance, each in both orders.

    Attributes:
        receiver: Atom i, (E,).
        sender: Atom j, (E,).
        shifts: Lattice vectors S, (E, 3): `r_ij = x_i - x_j + S cell`.
        distance: Length of r_ij, Å, (E,).
    """

    receiver: np.ndarray
    sender: np.ndarray
    shifts: np.ndarray
    distance: np.ndarray


def search(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> Edges:
    """Find all pairs within the cutoff; raise if two atoms coincide.

    Args:
        positions: Positions in Å, (N, 3).
        cell: Lattice vectors in Å, (3, 3); vectors of non-periodic directions are ignored.
        pbc: Periodic directions, (3,).
        cutoff: Largest distance, Å.

    Returns:
        Receiver i, sender j and unit shift S of each edge, `r_ij = x_i - x_j + S cell`.

    Raises:
        ValueError: If atoms coincide; see also `pairs`.
        MemoryError: See `pairs`.
    """
    receiver, sender, shifts, distance = pairs(positions, cell, pbc, cutoff)
    if (distance < COINCIDENT).any():
        k = int(np.argmin(distance))
        raise ValueError(
            f"atoms {int(sender[k])} and {int(receiver[k])} are {distance[k]:.1e} Å apart: "
            "remove the duplicate (or check the cell, if it is an image of the same atom)"
        )
    return receiver, sender, shifts


def pairs(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> Pairs:
    """Find all pairs within the cutoff, over all periodic images, coinciding atoms included.

    Args:
        positions: Positions in Å, (N, 3).
        cell: Lattice vectors in Å, (3, 3); vectors of non-periodic directions are ignored.
        pbc: Periodic directions, (3,).
        cutoff: Largest distance, Å.

    Raises:
        ValueError: If numbers are not finite, periodic lattice vectors are zero or linearly
            dependent, or atoms have more than `MOST_NEIGHBOURS` neighbours on average.
        MemoryError: If the pairs do not fit into the free memory.
    """
    if not np.isfinite(positions).all():
        bad = np.flatnonzero(~np.isfinite(positions).all(1))
        raise ValueError(f"positions of atoms {bad.tolist()} are not finite numbers")
    if not np.isfinite(cell).all():
        raise ValueError("the cell has entries that are not finite numbers")
    if max(np.abs(positions).max(initial=0.0), np.abs(cell[pbc]).max(initial=0.0)) > LARGEST:
        raise ValueError(
            f"coordinates or lattice vectors exceed {LARGEST:g} Å: give them in Å and near the "
            "origin"
        )
    lengths = np.linalg.norm(cell, axis=1)
    if (lengths[pbc] == 0).any():
        missing = np.flatnonzero(pbc & (lengths == 0)).tolist()
        raise ValueError(
            f"directions {missing} are periodic but their lattice vectors are zero: "
            "set the cell, or make the directions non-periodic with atoms.pbc"
        )
    spacing = (1 / np.linalg.norm(np.linalg.pinv(cell[pbc]), axis=0)).min(initial=np.inf)
    if spacing < MIN_SPACING or np.linalg.matrix_rank(cell[pbc], tol=MIN_SPACING) < pbc.sum():
        raise ValueError(
            "the periodic lattice vectors are linearly dependent or too short: lattice planes "
            f"are less than {MIN_SPACING} Å apart"
        )
    periodic = complete_cell(cell * pbc[:, None])
    _check_number(positions, periodic, pbc, cutoff)
    box, origin = _enclosing_box(positions, periodic, pbc, cutoff)
    sender, receiver, shifts, distance = neighbour_list(
        "ijSd", positions=positions - origin, cell=box, pbc=pbc, cutoff=cutoff
    )
    return Pairs(receiver, sender, shifts, distance)


def closer_than(cutoff: float, edges: Edges, positions: np.ndarray, cell: np.ndarray) -> Edges:
    """Return the edges that are shorter than a cutoff.

    Args:
        cutoff: Upper limit of the length, Å.
        edges: Receiver i, sender j and unit shift S of each edge.
        positions: Positions in Å, (N, 3).
        cell: Lattice vectors in Å, (3, 3).
    """
    i, j, s = edges
    near = np.linalg.norm(positions[i] - positions[j] + s @ cell, axis=1) < cutoff
    return i[near], j[near], s[near]


def neighbours_expected(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float
) -> float:
    """Estimate the average number of neighbours of an atom from the density, within a factor of 3.

    Args:
        positions: Positions in Å, (N, 3).
        cell: Three vectors, Å, (3, 3); the lengths of non-periodic ones do not matter.
        pbc: Periodic directions, (3,).
        cutoff: Largest distance of neighbours, Å.
    """
    scaled = positions @ np.linalg.inv(cell)
    # Along a non-periodic direction the volume is at least as wide as a sphere of neighbours.
    extent = np.maximum(np.ptp(scaled, axis=0), 2 * cutoff / np.linalg.norm(cell, axis=1))
    across = np.where(pbc, 1.0, extent)
    volume = abs(np.linalg.det(cell * across[:, None]))
    return 4 / 3 * np.pi * cutoff**3 * len(positions) / volume


def _check_number(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> None:
    """Raise if a search would find too many pairs, before it allocates memory."""
    neighbours = neighbours_expected(positions, cell, pbc, cutoff)
    if neighbours > MOST_NEIGHBOURS:
        raise ValueError(
            f"an atom would have {neighbours:.2g} neighbours within {cutoff:g} Å, more than the "
            f"{MOST_NEIGHBOURS} of any matter: the cell is too small for its atoms, or the cutoff "
            "too large"
        )
    needed = neighbours * len(positions) * BYTES_PER_PAIR
    if needed > free_memory(torch.device("cpu")):
        raise MemoryError(
            f"the {neighbours * len(positions):.2g} pairs of {len(positions)} atoms within "
            f"{cutoff:g} Å need {needed / 2**30:.1f} GiB: use a smaller structure or cutoff"
        )


def _enclosing_box(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return a box for the search, and its origin.

    It keeps the periodic vectors. Along the others it encloses the atoms up to `MAX_BINS` cutoffs.
    """
    scaled = positions @ np.linalg.inv(cell)
    low, high = scaled.min(0), scaled.max(0)
    margin = cutoff / np.linalg.norm(cell, axis=1)
    stretch = np.where(pbc, 1.0, np.minimum(high - low + 2 * margin, MAX_BINS * margin))
    origin = np.where(pbc, 0.0, low - margin) @ cell
    return cell * stretch[:, None], origin


def pack(
    edges: Edges, kinds: np.ndarray, counts: Sequence[int], width: int | None, size: int
) -> dict[str, np.ndarray]:
    """Sort atoms by element, and arrange edges in rows of equal length.

    Args:
        edges: Receiver, sender and shift of each edge.
        kinds: Element of each atom, as an index into `counts`.
        counts: Number of nodes of each element, padding included.
        width: Number K of edges of each node, padding included; as many as needed if None.
        size: Number of atoms, padding included.

    Returns:
        The arrays of a `Graph`.
    """
    atoms, nodes = len(kinds), sum(counts)
    by_kind = np.argsort(kinds, kind="stable")
    start = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(int)
    first = np.searchsorted(kinds[by_kind], np.arange(len(counts)))
    inverse = np.zeros(size, dtype=int)
    inverse[by_kind] = start[kinds[by_kind]] + np.arange(atoms) - first[kinds[by_kind]]
    order = np.zeros(nodes, dtype=int)
    order[inverse[:atoms]] = np.arange(atoms)

    receiver, sender, shifts = inverse[edges[0]], inverse[edges[1]], edges[2]
    by_receiver = np.argsort(receiver, kind="stable")
    receiver, sender, shifts = receiver[by_receiver], sender[by_receiver], shifts[by_receiver]
    degree = np.bincount(receiver, minlength=nodes)
    width = max(1, int(degree.max())) if width is None else width
    slot = np.arange(len(receiver)) - np.repeat(np.cumsum(degree) - degree, degree)
    senders = np.zeros((nodes, width), dtype=int)
    unit_shifts = np.zeros((nodes, width, 3))
    edge_mask = np.zeros((nodes, width), dtype=bool)
    senders[receiver, slot], unit_shifts[receiver, slot] = sender, shifts
    edge_mask[receiver, slot] = True
    return {
        "order": order,
        "inverse": inverse,
        "atom_mask": np.arange(size) < atoms,
        "senders": senders,
        "unit_shifts": unit_shifts,
        "edge_mask": edge_mask,
    }
