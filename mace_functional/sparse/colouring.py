"""Colouring of atoms: columns of a sparse Hessian that share one product.

Atoms of one colour are displaced together. The change of the gradient on each atom is then the sum
of its blocks with all atoms of the colour. If no row of the pattern has two of them, this sum is a
single block, because all others are zero: two columns may share a product if no row contains both.
Rows of the pattern are neighbourhoods, so this is a colouring of the graph with distance two. It
needs at least as many colours as the longest row has blocks.

Source: Curtis, Powell, Reid, J. Inst. Math. Appl. 1974, 13, 117; Gebremedhin, Manne, Pothen, SIAM
Rev. 2005, 47, 629.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array


def coloured(pattern: csr_array) -> np.ndarray:
    """Colour the columns of a symmetric pattern greedily, those with the longest rows first.

    Each column takes the first colour that no row of its neighbourhood contains.

    >>> path = csr_array(np.eye(5) + np.eye(5, k=1) + np.eye(5, k=-1))
    >>> coloured(path)
    array([2, 0, 1, 2, 0])

    Args:
        pattern: Pairs of coupled atoms, symmetric, (N, N).

    Returns:
        Colour of each atom, from 0, (N,).
    """
    n_atoms = pattern.shape[0]
    lengths = np.diff(pattern.indptr)
    colours = np.full(n_atoms, -1)
    taken = np.zeros((n_atoms, int(lengths.max(initial=1))), dtype=bool)
    for atom in np.argsort(-lengths, kind="stable"):
        rows = pattern.indices[pattern.indptr[atom] : pattern.indptr[atom + 1]]
        free = ~taken[rows].any(0)
        colour = int(free.argmax()) if free.any() else taken.shape[1]
        if colour == taken.shape[1]:
            taken = np.pad(taken, ((0, 0), (0, max(1, colour // 8))))
        taken[rows, colour] = True
        colours[atom] = colour
    return colours
