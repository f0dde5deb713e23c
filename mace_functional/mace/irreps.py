"""Irreducible representations of O(3), and direct sums of them, in e3nn's notation.

An irrep has a degree l = 0, 1, 2, ..., a parity p = +1 ("e", even) or -1 ("o", odd), and 2l+1
components. The direct sum of 128 scalars and 64 vectors is written `128x0e+64x1o`. The product of
two irreps contains each degree from |l1 - l2| to l1 + l2 once, with the parity p1 p2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

_TERM = re.compile(r"\s*(?:(\d+)\s*x)?\s*(\d+)([eo])\s*", re.ASCII)
_PARITIES = {"e": 1, "o": -1}


@dataclass(frozen=True, order=True)
class Irrep:
    """An irreducible representation of O(3); the order is by degree, then odd before even.

    Attributes:
        l: Degree.
        p: Parity, 1 or -1.
    """

    l: int  # noqa: E741
    p: int

    def __str__(self) -> str:
        return f"{self.l}{'e' if self.p == 1 else 'o'}"

    def __mul__(self, other: Irrep) -> list[Irrep]:
        """Return the irreps in the product of two, by degree."""
        degrees = range(abs(self.l - other.l), self.l + other.l + 1)
        return [Irrep(degree, self.p * other.p) for degree in degrees]

    @property
    def dim(self) -> int:
        """Number of components, 2l+1."""
        return 2 * self.l + 1

    def is_scalar(self) -> bool:
        """True for the irrep 0e, which rotations and reflections leave unchanged."""
        return self == SCALAR


SCALAR = Irrep(0, 1)
"""The irrep of invariants, 0e."""


class Channels(NamedTuple):
    """A number of copies of one irrep: a term of a direct sum.

    Attributes:
        mul: Number of copies.
        ir: The irrep.
    """

    mul: int
    ir: Irrep

    def __str__(self) -> str:
        return f"{self.mul}x{self.ir}"


class Irreps(tuple[Channels, ...]):
    """A direct sum of irreps, as a tuple of terms (mul, ir).

    >>> irreps = Irreps("2x0e + 1o")
    >>> str(irreps), irreps.dim, irreps.lmax, irreps.count(SCALAR)
    ('2x0e+1x1o', 5, 1, 2)

    Args:
        terms: A text in e3nn's notation, or pairs (mul, ir).

    Raises:
        ValueError: If the text is not a direct sum of irreps.
    """

    def __new__(cls, terms: str | Iterable[tuple[int, Irrep]]) -> Irreps:
        """Make the terms from a text or from pairs (mul, ir)."""
        pairs = _parsed(terms) if isinstance(terms, str) else terms
        return super().__new__(cls, (Channels(mul, ir) for mul, ir in pairs))

    def __repr__(self) -> str:
        return "+".join(map(str, self))

    def count(self, ir: object) -> int:
        """Return the number of copies of an irrep in all terms."""
        return sum(mul for mul, irrep in self if ir == irrep)

    @property
    def dim(self) -> int:
        """Number of components of all terms."""
        return sum(mul * ir.dim for mul, ir in self)

    @property
    def lmax(self) -> int:
        """Largest degree l of a term that has copies."""
        return max(ir.l for mul, ir in self if mul)


def _parsed(text: str) -> list[tuple[int, Irrep]]:
    """Parse a text such as "2x0e + 1o" into pairs (mul, ir); mul is 1 if it is not written."""
    terms = []
    for term in text.split("+") if text.strip() else ():
        match = _TERM.fullmatch(term)
        if match is None:
            raise ValueError(f"{text!r:.60} is not a sum of irreps such as 128x0e+64x1o")
        mul, degree, parity = match.groups(default="1")
        terms.append((int(mul), Irrep(int(degree), _PARITIES[parity])))
    return terms
