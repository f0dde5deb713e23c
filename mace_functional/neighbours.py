"""Neighbour search, and the padded layout of its result."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase.geometry import complete_cell
from matscipy.neighbours import neighbour_list

Edges = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Receiver, sender and unit shift of each edge, by the numbers of the atoms."""

COINCIDENT = 1e-3
"""Atoms closer than this, in Å, are taken for an error in the input."""

MIN_SPACING = 1e-2
"""Lattice planes closer than this, in Å, are taken for an error too."""

MAX_BINS = 50
"""Bins of the search along a direction that is not periodic; their number is a matter of speed."""


def search(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> Edges:
    """All pairs within the cutoff, over all periodic images.

    Args:
        positions: Å, (N, 3).
        cell: Lattice vectors in Å, (3, 3); those of directions that are not periodic do not matter.
        pbc: Periodic directions, (3,).
        cutoff: Å.

    Returns:
        Receiver i, sender j and unit shift S of each edge, `r_ij = x_i - x_j + S cell`.

    Raises:
        ValueError: If numbers are not finite, periodic lattice vectors are zero or linearly
            dependent, or atoms coincide.
    """
    if not np.isfinite(positions).all():
        bad = np.flatnonzero(~np.isfinite(positions).all(1))
        raise ValueError(f"positions of atoms {bad.tolist()} are not finite numbers")
    if not np.isfinite(cell).all():
        raise ValueError("the cell has entries that are not finite numbers")
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
    box, origin = _enclosing_box(positions, periodic, pbc, cutoff)
    sender, receiver, shifts, distance = neighbour_list(
        "ijSd", positions=positions - origin, cell=box, pbc=pbc, cutoff=cutoff
    )
    if (distance < COINCIDENT).any():
        k = int(np.argmin(distance))
        raise ValueError(
            f"atoms {int(sender[k])} and {int(receiver[k])} are {distance[k]:.1e} Å apart: "
            "remove the duplicate (or check the cell, if it is an image of the same atom)"
        )
    return receiver, sender, shifts


def _enclosing_box(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray]:
    """A box that keeps the periodic vectors and, up to a size, encloses all atoms otherwise."""
    scaled = positions @ np.linalg.inv(cell)
    low, high = scaled.min(0), scaled.max(0)
    margin = cutoff / np.linalg.norm(cell, axis=1)
    stretch = np.where(pbc, 1.0, np.minimum(high - low + 2 * margin, MAX_BINS * margin))
    origin = np.where(pbc, 0.0, low - margin) @ cell
    return cell * stretch[:, None], origin


def pack(
    edges: Edges, kinds: np.ndarray, counts: Sequence[int], width: int | None, size: int
) -> dict[str, np.ndarray]:
    """Arrange atoms by element and edges in rows of equal width.

    Args:
        edges: Receiver, sender and shift of each edge.
        kinds: Element of each atom, as an index into `counts`.
        counts: Nodes to provide for each element.
        width: Neighbours to provide for each node; as many as needed if None.
        size: Atoms to provide.

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
