"""One comparison of two numbers that should be equal, and the verdict on it.

A comparison has an error, the bound that rounding and steps allow it, and the size of what is
compared. A bound is only of use where it is small beside an error that matters: a fraction
`RESOLUTION` of the size.
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
"""Relative error that every check has to find. One whose bound exceeds half of it cannot."""

SUMS = 5e5
"""Rounding of forces, Hessian products and D(q), in units of the machine precision times the size.

1e-10 of the size in double precision, below which no error is seen. Sound models have 2e-13
(MACE-MP-0 small and MACE-DAC-1, 22 atoms).
"""

ENERGY_SUMS = 2e3
"""The same of energies: 4e-13 of their size in double precision, where sound models have 1e-15."""


class Verdict(StrEnum):
    """What came out of a check."""

    HOLDS = "holds"
    FAILS = "fails"
    NOT_RESOLVED = "not resolved"
    NOT_APPLICABLE = "not applicable"


class NotApplicableError(Exception):
    """A check has nothing to compare for this potential and structure; the message says why."""


@dataclass(frozen=True)
class Comparison:
    """Two things that should be equal.

    Attributes:
        what: Name of the quantity.
        error: Largest difference between them.
        bound: Largest difference that rounding and steps explain.
        size: How large the quantity is: its root mean square.
        unit: Of all three.
    """

    what: str
    error: float
    bound: float
    size: float
    unit: str

    @property
    def excess(self) -> float:
        """Error over bound; infinite if the error is no number."""
        if math.isnan(self.error) or math.isnan(self.bound):
            return math.inf
        if self.error == 0:
            return 0.0
        return self.error / self.bound if self.bound > 0 else math.inf

    @property
    def verdict(self) -> Verdict:
        """FAILS above the bound; NOT_RESOLVED if an error of `RESOLUTION` could hide below it."""
        if self.excess > 1:
            return Verdict.FAILS
        if self.size == 0:
            return Verdict.NOT_APPLICABLE
        if not self.bound <= 0.5 * RESOLUTION * self.size:
            return Verdict.NOT_RESOLVED
        return Verdict.HOLDS


def worst(comparisons: Sequence[Comparison]) -> Comparison:
    """The comparison that decides: one that fails, else one that is not resolved, else the nearest.

    Where something is zero and there is nothing to see in it, the others decide.
    """
    order = [Verdict.FAILS, Verdict.NOT_RESOLVED, Verdict.HOLDS, Verdict.NOT_APPLICABLE]
    return min(comparisons, key=lambda c: (order.index(c.verdict), -c.excess))


@dataclass(frozen=True)
class Examination:
    """A check before it is run.

    Attributes:
        name: Of the check.
        compared: What is compared with what.
        run: Subject to comparisons; raises `NotApplicableError`.
    """

    name: str
    compared: str
    run: Callable[[Subject], Iterable[Comparison]]


def largest(tensor: Tensor) -> float:
    """Largest entry by its absolute value; zero if there is none."""
    return float(tensor.detach().abs().max()) if tensor.numel() else 0.0


def rms(tensor: Tensor) -> float:
    """Root mean square of the entries."""
    return float(tensor.detach().abs().square().mean().sqrt()) if tensor.numel() else 0.0


def compare(
    what: str, found: Tensor, expected: Tensor, *, unit: str, relative: float, extra: float = 0.0
) -> Comparison:
    """Compare two tensors of the same quantity.

    Args:
        what: Name of the quantity.
        found: By one way.
        expected: By the other; gives the size.
        unit: Of both.
        relative: Bound, as a fraction of the size.
        extra: Bound by other reasons, in the unit; the larger one counts.
    """
    size = rms(expected)
    error = largest(found.to(expected.dtype) - expected)
    return Comparison(what, error, max(relative * size, extra), size, unit)


def rounding(dtype: torch.dtype) -> float:
    """Relative rounding of forces and second derivatives."""
    return SUMS * torch.finfo(dtype).eps


def energy_rounding(dtype: torch.dtype) -> float:
    """Relative rounding of energies."""
    return ENERGY_SUMS * torch.finfo(dtype).eps
