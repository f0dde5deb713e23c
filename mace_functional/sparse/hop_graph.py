"""Hop graph of a structure: which atoms are coupled, counted in edges of the potential.

In a potential with edges and n layers, the energy of an atom depends on the atoms within n steps
along the edges of the graph. Two atoms are coupled only if a third one is within n steps of both,
so they are within 2n steps of each other. Periodic images count as one atom: the blocks of all
images of a pair are summed in the Hessian of the cell.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import csr_array, eye_array


def one_hop(graph: Any) -> csr_array:
    """Return the pairs of atoms that an edge joins, and each atom with itself.

    Args:
        graph: Graph of a structure of N atoms.

    Returns:
        A symmetric pattern (N, N); its values are True.
    """
    node, slot = np.nonzero(graph.edge_mask.cpu().numpy())
    order = graph.order.cpu().numpy()
    i, j = order[node], order[graph.senders.cpu().numpy()[node, slot]]
    n_atoms = graph.n_atoms
    edges = csr_array((np.ones(len(i), dtype=bool), (i, j)), shape=(n_atoms, n_atoms))
    return _pattern(edges + edges.T + eye_array(n_atoms, dtype=bool, format="csr"))


def within_hops(step: csr_array, hops: int) -> csr_array:
    """Return the pairs of atoms that a path of at most `hops` edges joins.

    Args:
        step: Pairs within one hop, from `one_hop`, (N, N).
        hops: Number of hops, at least 1.

    Returns:
        A symmetric pattern (N, N) with sorted indices; its values are True.
    """
    reached = step
    for _ in range(hops - 1):
        further = _pattern(reached @ step)
        if further.nnz == reached.nnz:
            break
        reached = further
    return reached


def union(patterns: list[csr_array]) -> csr_array:
    """Return the pairs that any of several patterns has."""
    joined = patterns[0]
    for pattern in patterns[1:]:
        joined = _pattern(joined + pattern)
    return joined


def _pattern(matrix: csr_array) -> csr_array:
    """Return the pattern of a matrix, with sorted indices and values True."""
    pattern = csr_array(matrix, dtype=bool)
    pattern.sum_duplicates()
    pattern.data[:] = True
    return pattern
