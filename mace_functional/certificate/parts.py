"""Dispersion: the correction alone against differences, and the sum against its parts."""

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
from mace_functional.potential.protocol import HasDispersion, Potential

PART = 1e-7
"""Bound of the sum against its parts, as a fraction of the size of the dispersion.

The rounding of the sum, which is larger than its smaller part, comes on top.
"""


def _split(s: Subject) -> tuple[Potential, Potential]:
    parts = s.potential.split_dispersion() if isinstance(s.potential, HasDispersion) else None
    if parts is None:
        raise NotApplicableError("the potential has no dispersion")
    return parts


def _alone(s: Subject) -> Iterator[Comparison]:
    alone = replace(s, potential=_split(s)[1])
    for check in differences.CHECKS:
        if check.name in ("forces", "Hessian products"):
            yield from check.run(alone)


def _sum(s: Subject) -> Iterator[Comparison]:
    rest, dispersion = _split(s)
    whole, *parts = (
        three_orders(p, s.atoms, s.vectors[0]) for p in (s.potential, rest, dispersion)
    )
    dtype = s.potential.dtype
    rounded = energy_rounding(dtype), rounding(dtype), rounding(dtype)
    names = ("energy", "eV"), ("forces", "eV/Å"), ("H v", "eV/Å²")
    for total, a, b, relative, (what, unit) in zip(whole, *parts, rounded, names, strict=True):
        bound = PART * rms(b) + relative * rms(a)
        yield Comparison(what, largest(total - a - b), bound, rms(b), unit)


CHECKS = (
    Examination("dispersion alone", "its F and H v with differences of its E and F", _alone),
    Examination("dispersion in the sum", "E, F and H v with those of the parts", _sum),
)
