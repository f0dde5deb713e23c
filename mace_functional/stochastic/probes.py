r"""Probing vectors: random signs on groups of coordinates that hardly feel each other.

The trace of a symmetric matrix F is estimated by G vectors, which are zero outside of one group of
coordinates each and have random signs z inside:

    Q = sum_g z_g^T F z_g,    mean tr F,    variance 2 sum_{i != j in the same group} F_ij^2.

The functions of a Hessian that heat capacities need decay within a few bonds. Groups therefore
hold one Cartesian direction, and atoms of one colour, where atoms of equal colours are as far apart
as the number of colours allows: a colouring minimises sum 1 / d^6 over pairs of equal colours. In
MOF-5 at 300 K, four colours leave a fifth of the standard error of one vector over all coordinates,
for twelve times the vectors; for vectors over all coordinates it would be 0.29.

Source: Bekas, Kokiopoulou, Saad, Appl. Numer. Math. 57, 1214 (2007), for random signs; Tang, Saad,
Numer. Linear Algebra Appl. 19, 485 (2012), for probing.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mace_functional.structure.neighbours import pairs

RANGE = 6.0
"""Distance of atoms that a colouring keeps apart, Å.

Beyond it, functions of the Hessian of MOF-5 at 300 K are 1e-3 of a diagonal element.
"""

NEAREST = 0.5
"""Distance below which pairs of atoms count as equally near, Å."""

MOST_SWEEPS = 20
"""Largest number of sweeps over all atoms. In MOF-5, 5 to 10 leave nothing to improve."""


def colours(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, count: int) -> np.ndarray:
    """Colour atoms so that atoms of equal colours are far apart, also across periodic images.

    Args:
        positions: Positions in Å, (N, 3).
        cell: Lattice vectors in Å as rows, (3, 3).
        pbc: Periodic directions, (3,).
        count: Number of colours; N or more give each atom its own.

    Returns:
        Colour of each atom, from 0, (N,).
    """
    n = len(positions)
    if count >= n:
        return np.arange(n)
    found = pairs(positions, cell, pbc, RANGE)
    other = found.sender != found.receiver
    order = np.argsort(found.receiver[other], kind="stable")
    neighbours = found.sender[other][order]
    costs = 1 / np.maximum(found.distance[other][order], NEAREST) ** 6
    ends = np.cumsum(np.bincount(found.receiver[other], minlength=n))
    random = np.random.default_rng(0)
    colour = random.integers(count, size=n)
    for _ in range(MOST_SWEEPS):
        changed = False
        for i in random.permutation(n):
            mine = slice(ends[i - 1] if i else 0, ends[i])
            cost = np.bincount(colour[neighbours[mine]], costs[mine], count)
            best = int(cost.argmin())
            if cost[best] < cost[colour[i]]:
                colour[i], changed = best, True
        if not changed:
            break
    return np.unique(colour, return_inverse=True)[1]


def probes(colour: np.ndarray | None, n_atoms: int, generator: torch.Generator) -> Tensor:
    """Return vectors of random signs, one for each direction and colour, (G, 3N).

    Args:
        colour: Colour of each atom, (N,); None for one vector over all coordinates.
        n_atoms: Number N of atoms.
        generator: Source of the signs.
    """
    drawn = torch.randint(0, 2, (3 * n_atoms,), generator=generator, dtype=torch.float64)
    signs = 2 * drawn - 1
    if colour is None:
        return signs[None]
    group = 3 * torch.as_tensor(colour)[:, None] + torch.arange(3)
    vectors = torch.zeros(3 * (int(colour.max()) + 1), 3 * n_atoms, dtype=torch.float64)
    vectors[group.reshape(-1), torch.arange(3 * n_atoms)] = signs
    return vectors
