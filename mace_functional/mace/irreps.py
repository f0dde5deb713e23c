"""Irreducible representations of O(3), and direct sums of them, in e3nn's notation.

An irrep has a degree l = 0, 1, 2, ... and a parity p = +1 ("e", even) or -1 ("o", odd); it has
2l+1 components. A direct sum is written `128x0e+64x1o`: 128 scalars and 64 vectors. The product of
two irreps holds each degree from |l1 - l2| to l1 + l2 once, with the parity p1 p2.
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
    """One irrep; irreps are ordered by degree, and odd before even.

    Attributes:
        l: Degree.
        p: Parity, 1 or -1.
    """

    l: int  # noqa: E741
    p: int

    def __str__(self) -> str:
        return f"{self.l}{'e' if self.p == 1 else 'o'}"

    def __mul__(self, other: Irrep) -> list[Irrep]:
        """The irreps of the product, by degree."""
        degrees = range(abs(self.l - other.l), self.l + other.l + 1)
        return [Irrep(degree, self.p * other.p) for degree in degrees]

    @property
    def dim(self) -> int:
        """Number of components."""
        return 2 * self.l + 1

    def is_scalar(self) -> bool:
        """Whether neither rotations nor reflections change it."""
        return self == SCALAR


SCALAR = Irrep(0, 1)
"""The irrep of invariants, 0e."""


class Channels(NamedTuple):
    """Copies of one irrep: a term of a direct sum.

    Attributes:
        mul: Number of copies.
        ir: The irrep.
    """

    mul: int
    ir: Irrep

    def __str__(self) -> str:
        return f"{self.mul}x{self.ir}"


class Irreps(tuple[Channels, ...]):
    """A direct sum of irreps, as a tuple of (mul, ir) in their order.

    >>> irreps = Irreps("2x0e + 1o")
    >>> str(irreps), irreps.dim, irreps.lmax, irreps.count(SCALAR)
    ('2x0e+1x1o', 5, 1, 2)

    Args:
        terms: Text, or pairs of number and irrep.

    Raises:
        ValueError: If the text is no direct sum.
    """

    def __new__(cls, terms: str | Iterable[tuple[int, Irrep]]) -> Irreps:
        """The terms, of a text or as they are."""
        pairs = _parsed(terms) if isinstance(terms, str) else terms
        return super().__new__(cls, (Channels(mul, ir) for mul, ir in pairs))

    def __repr__(self) -> str:
        return "+".join(map(str, self))

    def count(self, ir: object) -> int:
        """Number of copies of an irrep in all terms."""
        return sum(mul for mul, irrep in self if ir == irrep)

    @property
    def dim(self) -> int:
        """Number of components of all copies."""
        return sum(mul * ir.dim for mul, ir in self)

    @property
    def lmax(self) -> int:
        """Largest degree."""
        return max(ir.l for mul, ir in self if mul)


def _parsed(text: str) -> list[tuple[int, Irrep]]:
    """Numbers and irreps of a text such as "2x0e + 1o"; without a number it is one."""
    terms = []
    for term in text.split("+") if text.strip() else ():
        match = _TERM.fullmatch(term)
        if match is None:
            raise ValueError(f"{text!r:.60} is no sum of irreps such as 128x0e+64x1o")
        mul, degree, parity = match.groups(default="1")
        terms.append((int(mul), Irrep(int(degree), _PARITIES[parity])))
    return terms
