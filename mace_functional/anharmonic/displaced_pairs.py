"""Pairs of displaced atoms whose third derivatives determine all third-order force constants.

With symmetry, phono3py enumerates them. The first atom is displaced along as few directions as the
symmetry of its site allows. The second atom is displaced along as few directions as are left once
the first one has moved. Opposite displacements are left out: third derivatives are linear in each
displacement. phono3py solves for the force constants, as it does with differences of forces.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from phono3py import Phono3py

LENGTH = 1e3
"""Formal length of displacements for phono3py, Å.

phono3py compares displacements, in units of the lattice vectors, with the tolerance of symmetry.
Short ones would count as equal to their images under all operations.
"""

PARALLEL = 1e-8
"""Largest difference of two opposite unit vectors."""


@dataclass(frozen=True, eq=False)
class DisplacedPairs:
    """One direction of a first atom, and all second displacements that belong to it.

    Attributes:
        atom: Number of the first atom in the supercell.
        direction: Its displacement, a unit vector, (3,).
        second_atoms: Numbers of the second atoms, (m,).
        second_directions: Their displacements, unit vectors, (m, 3).
    """

    atom: int
    direction: np.ndarray
    second_atoms: np.ndarray
    second_directions: np.ndarray

    def __len__(self) -> int:
        return len(self.second_atoms)


class PairPlan(Protocol):
    """A choice of pairs, and the way from their third derivatives to force constants.

    Attributes:
        pairs: The pairs, by first displacement.
    """

    @property
    def pairs(self) -> list[DisplacedPairs]: ...  # noqa: D102

    def force_constants(self, derivatives: Sequence[np.ndarray]) -> np.ndarray:
        """Return third-order force constants, eV/Å³, (n, S, S, 3, 3, 3).

        Args:
            derivatives: For each first displacement, third derivatives along its pairs, eV/Å³,
                (m, S, 3).
        """


class InequivalentPairs:
    """Pairs that are inequivalent by symmetry; a `PairPlan`.

    Args:
        phono3py: The supercell. Its data set becomes that of the pairs, with a formal length.
        cutoff: Largest distance of the two atoms, Å; None for no limit. phono3py keeps pairs beyond
            it in the data set, with third derivatives of zero.
    """

    def __init__(self, phono3py: Phono3py, cutoff: float | None) -> None:
        phono3py.generate_displacements(
            distance=LENGTH, is_plusminus=False, cutoff_pair_distance=cutoff
        )
        self._phono3py = phono3py
        self._data: Any = phono3py.dataset
        # They name opposite displacements, which are taken out.
        self._data.pop("duplicates", None)
        self.pairs = []
        for first in self._data["first_atoms"]:
            first["second_atoms"] = list(_without_opposite(first["second_atoms"]))
            within = [second for second in first["second_atoms"] if second.get("included", True)]
            self.pairs.append(
                DisplacedPairs(
                    int(first["number"]),
                    np.array(first["displacement"]) / LENGTH,
                    np.array([second["number"] for second in within], dtype=int),
                    np.array([second["displacement"] for second in within]).reshape(-1, 3) / LENGTH,
                )
            )

    def force_constants(self, derivatives: Sequence[np.ndarray]) -> np.ndarray:
        """Let phono3py solve for the force constants, and symmetrise them.

        It takes third derivatives as forces that depend on the product of two displacements, which
        it divides by their lengths.
        """
        n_atoms = len(self._phono3py.supercell)
        for first, of_first in zip(self._data["first_atoms"], derivatives, strict=True):
            first["forces"] = np.zeros((n_atoms, 3))
            remaining = iter(of_first)
            for second in first["second_atoms"]:
                second["forces"] = np.zeros((n_atoms, 3))
                if second.get("included", True):
                    second["forces"] -= LENGTH**2 * next(remaining)
        self._phono3py.produce_fc3()
        # Translations and permutations hold already; one pass removes what rounding has left.
        self._phono3py.symmetrize_fc3(options="level=1")
        return self._phono3py.fc3


class AllPairs:
    """All displacements of the primitive cell with all of the supercell; a `PairPlan`.

    Args:
        phono3py: The supercell.
    """

    def __init__(self, phono3py: Phono3py) -> None:
        n_atoms = len(phono3py.supercell)
        self._shape = len(phono3py.primitive), 3, n_atoms, 3, n_atoms, 3
        atoms, directions = np.arange(n_atoms).repeat(3), np.tile(np.eye(3), (n_atoms, 1))
        self.pairs = [
            DisplacedPairs(int(atom), direction, atoms, directions)
            for atom in phono3py.primitive.p2s_map
            for direction in np.eye(3)
        ]

    def force_constants(self, derivatives: Sequence[np.ndarray]) -> np.ndarray:
        """Arrange the third derivatives, which are all elements."""
        return np.stack(derivatives).reshape(self._shape).transpose(0, 2, 4, 1, 3, 5).copy()


def _without_opposite(seconds: list[Any]) -> Iterator[Any]:
    """Yield second displacements, without those that are opposite to an earlier one."""
    kept: dict[int, list[np.ndarray]] = {}
    for second in seconds:
        earlier = kept.setdefault(second["number"], [])
        direction = np.array(second["displacement"]) / LENGTH
        if not any(np.abs(direction + other).max() < PARALLEL for other in earlier):
            earlier.append(direction)
            yield second
