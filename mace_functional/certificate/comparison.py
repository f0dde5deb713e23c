"""Comparison of two quantities that should be equal, and its verdict.

A comparison has an error, a bound and a size. The bound is the largest error that rounding and
finite differences explain. It is useful only if it is small compared with `RESOLUTION` times the
size of the quantity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from mace_functional.certificate.subject import Subject

RESOLUTION = 1e-4
"""Relative error that every check must find; a check whose bound exceeds half of it cannot."""

MAX_ROUNDING = 5e5
"""Largest rounding error of forces, Hessian products and D(q), in units of size x precision.

In double precision this is 1e-10 of the size; smaller errors are not found. Correct models have
2e-13 (MACE-MP-0 small and MACE-DAC-1, 22 atoms).
"""

MAX_ENERGY_ROUNDING = 2e3
"""Largest rounding error of energies, in units of size x machine precision.

In double precision this is 4e-13 of the size; correct models have 1e-15.
"""


class Verdict(StrEnum):
    """Result of a check."""

    HOLDS = "holds"
    FAILS = "fails"
    NOT_RESOLVED = "not resolved"
    NOT_APPLICABLE = "not applicable"


class NotApplicableError(Exception):
    """A check cannot be applied to this potential and structure; the message says why."""


@dataclass(frozen=True)
class Comparison:
    """Error, bound and size of a quantity that was computed in two ways.

    Attributes:
        what: Name of the quantity.
        error: Largest difference between the two results.
        bound: Largest difference that rounding and finite differences explain.
        size: Root mean square of the quantity.
        unit: Unit of error, bound and size.
    """

    what: str
    error: float
    bound: float
    size: float
    unit: str

    @property
    def excess(self) -> float:
        """Ratio of error and bound; infinite if either is NaN."""
        if math.isnan(self.error) or math.isnan(self.bound):
            return math.inf
        if self.error == 0:
            return 0.0
        return self.error / self.bound if self.bound > 0 else math.inf

    @property
    def verdict(self) -> Verdict:
        """Verdict: FAILS above the bound, NOT_RESOLVED if the bound exceeds `RESOLUTION` / 2."""
        if self.excess > 1:
            return Verdict.FAILS
        if self.size == 0:
            return Verdict.NOT_APPLICABLE
        if not self.bound <= 0.5 * RESOLUTION * self.size:
            return Verdict.NOT_RESOLVED
        return Verdict.HOLDS


def worst(comparisons: Sequence[Comparison]) -> Comparison:
    """Return the comparison that decides: one that fails, else not resolved, else the closest one.

    Comparisons of quantities that are zero, which cannot find an error, come last.
    """
    order = [Verdict.FAILS, Verdict.NOT_RESOLVED, Verdict.HOLDS, Verdict.NOT_APPLICABLE]
    return min(comparisons, key=lambda c: (order.index(c.verdict), -c.excess))


@dataclass(frozen=True)
class Examination:
    """A check that can be run.

    Attributes:
        name: Name of the check.
        compared: Description of the two compared quantities.
        run: Function from a subject to comparisons; it may raise `NotApplicableError`.
    """

    name: str
    compared: str
    run: Callable[[Subject], Iterable[Comparison]]


def largest(tensor: Tensor) -> float:
    """Return the largest absolute value of the entries; zero if there are none."""
    return float(tensor.detach().abs().max()) if tensor.numel() else 0.0


def rms(tensor: Tensor) -> float:
    """Return the root mean square of the entries; zero if there are none."""
    return float(tensor.detach().abs().square().mean().sqrt()) if tensor.numel() else 0.0


def compare(
    what: str, found: Tensor, expected: Tensor, *, unit: str, relative: float, extra: float = 0.0
) -> Comparison:
    """Compare two tensors of the same quantity.

    Args:
        what: Name of the quantity.
        found: Result of one method.
        expected: Result of the other method, whose root mean square is the size.
        unit: Unit of both.
        relative: Bound as a fraction of the size.
        extra: Another bound, in `unit`; the larger one counts.
    """
    size = rms(expected)
    error = largest(found.to(expected.dtype) - expected)
    return Comparison(what, error, max(relative * size, extra), size, unit)


def rounding(dtype: torch.dtype) -> float:
    """Return the largest relative rounding error of forces and second derivatives."""
    return MAX_ROUNDING * torch.finfo(dtype).eps


def energy_rounding(dtype: torch.dtype) -> float:
    """Return the largest relative rounding error of energies."""
    return MAX_ENERGY_ROUNDING * torch.finfo(dtype).eps
