"""Limit of the step of each atom, by a stiffness that is added where the step is too long.

The trust radius limits a step as a whole, and grows with the number of atoms. Without another limit
one atom of a large cell could take all of it. A diagonal stiffness l_i for each atom i is raised
until

    s = -(H + l + mu)^-1 g,        |s_i| <= MAX_ATOM_STEP.

For an atom with the stiffness k_i, whose neighbours do not move, the rule

    l_i -> (k_i + l_i) |s_i| / MAX_ATOM_STEP - k_i

is exact. k_i is the mean of the diagonal of H at first. Atoms that move together, along a soft
mode, have much less: their step s_i becomes much shorter than the limit. It shows the stiffness
that they have, by comparison with the step s_i0 before l_i was added,

    k_i = l_i |s_i| / (|s_i0| - |s_i|).
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array, diags_array

MAX_ATOM_STEP = 0.1
"""Largest displacement of an atom in one step, Å.

With larger steps, atoms of a distorted cell end in other minima. MOF-5 of 848 atoms, rattled by
0.1 Å and strained by 2 %, ends 8 eV higher without a limit, and another start 2.5 eV higher with
0.2 Å; with 0.1 Å it does not, and 106 atoms take as many gradients (`benchmarks/README.md`).
"""

SLIGHTLY_LONGER = 1.05
"""Length of a step over `MAX_ATOM_STEP` that is accepted."""

MUCH_SHORTER = 0.7
"""Length of a limited step over `MAX_ATOM_STEP`, below which its stiffness is lowered."""


class AtomLimit:
    """Stiffness that limits the steps of atoms.

    Args:
        groups: Number of the atom that each coordinate moves, (d,); -1 for none.
        diagonal: Diagonal of the Hessian, eV/Å², (d,).

    Attributes:
        active: True if the step of an atom was limited.
    """

    def __init__(self, groups: np.ndarray, diagonal: np.ndarray) -> None:
        self._moves_atom = groups >= 0
        self._atom = np.where(self._moves_atom, groups, 0)
        count = self._sums(np.ones(len(groups)))
        self._stiffness = self._sums(diagonal) / np.maximum(count, 1.0)
        self._added = np.zeros_like(self._stiffness)
        self._free_ratio = np.zeros_like(self._stiffness)

    @property
    def active(self) -> bool:
        """True if the step of an atom was limited."""
        return bool(self._added.any())

    def matrix(self) -> csr_array:
        """Return the stiffness that is added to the Hessian, diagonal, (d, d)."""
        return diags_array(np.where(self._moves_atom, self._added[self._atom], 0.0)).tocsr()

    def adjusted(self, step: np.ndarray) -> bool:
        """Adjust the stiffness after a step (d,); return False if the step meets the limit."""
        ratio = np.sqrt(self._sums(step**2)) / MAX_ATOM_STEP
        limited = self._added > 0
        too_short = limited & (ratio < MUCH_SHORTER)
        if ratio.max(initial=0.0) <= SLIGHTLY_LONGER and not too_short.any():
            return False
        self._free_ratio = np.where(limited, self._free_ratio, ratio)
        fall = self._free_ratio - ratio
        shown = self._added * ratio / np.where(fall > 0, fall, np.inf)
        learnt = limited & (fall > 0)
        self._stiffness = np.where(learnt, np.minimum(shown, self._stiffness), self._stiffness)
        needed = (self._stiffness + self._added) * ratio - self._stiffness
        self._added = np.where(limited | (ratio > 1), np.maximum(needed, 0.0), 0.0)
        return True

    def _sums(self, values: np.ndarray) -> np.ndarray:
        """Sum values (d,) over the coordinates of each atom."""
        return np.bincount(self._atom, self._moves_atom * values)
