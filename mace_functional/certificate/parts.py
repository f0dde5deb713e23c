"""Checks of sums of potentials: the last part alone, and the sum against its parts.

The last part, such as a dispersion correction, is often a thousand times smaller than the others,
so that checks of the sum cannot find an error in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mace_functional.certificate import differences
from mace_functional.certificate.comparison import (
    Comparison,
    Examination,
    NotApplicableError,
    energy_rounding,
    largest,
    rms,
    rounding,
)
from mace_functional.certificate.subject import Subject, three_orders
from mace_functional.potential.protocol import HasParts, Potential

PART_BOUND = 1e-7
"""Bound of the difference between the sum and its parts, as a fraction of the last part.

The rounding error of the largest part is added.
"""


def _parts(s: Subject) -> tuple[Potential, ...]:
    if not isinstance(s.potential, HasParts):
        raise NotApplicableError("the potential is not a sum")
    return s.potential.potentials


def _alone(s: Subject) -> Iterator[Comparison]:
    alone = replace(s, potential=_parts(s)[-1])
    for check in differences.CHECKS:
        if check.name in ("forces", "Hessian products"):
            yield from check.run(alone)


def _sum(s: Subject) -> Iterator[Comparison]:
    whole, *parts = (three_orders(p, s.atoms, s.vectors[0]) for p in (s.potential, *_parts(s)))
    dtype = s.potential.dtype
    roundings = energy_rounding(dtype), rounding(dtype), rounding(dtype)
    names = ("energy", "eV"), ("forces", "eV/Å"), ("H v", "eV/Å²")
    orders = zip(whole, *parts, strict=True)
    for (total, *terms), relative, (what, unit) in zip(orders, roundings, names, strict=True):
        last, largest_part = rms(terms[-1]), max(map(rms, terms))
        bound = PART_BOUND * last + relative * largest_part
        yield Comparison(what, largest(total - sum(terms)), bound, last, unit)


CHECKS = (
    Examination("last part alone", "its F and H v with differences of its E and F", _alone),
    Examination("sum of parts", "E, F and H v with those of the parts", _sum),
)
