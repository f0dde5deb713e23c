"""Central differences extrapolated to a step of zero, with their uncertainty.

The error of `(f(h) - f(-h)) / 2h` is a series in `h^2`. With steps `h_k = h / 2^k`, Richardson's

    T_k0 = (f(h_k) - f(-h_k)) / 2 h_k,      T_kj = T_k(j-1) + (T_k(j-1) - T_(k-1)(j-1)) / (4^j - 1)

remove its terms one by one. The entry that differs least from the two that it was made of is taken,
and this difference, plus the rounding of f over the step, is its uncertainty. It is large where f
is noisy or has a kink, as where an atom crosses a cutoff.

Source: Ridders, Adv. Eng. Software 4, 75 (1982).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mace_functional.certificate.comparison import largest

LEVELS = 4
"""Steps, each half of the one before."""

ROUNDING = 10.0
"""Rounding of f in units of the machine precision."""


class Slope(NamedTuple):
    """A derivative by differences.

    Attributes:
        value: As extrapolated.
        uncertainty: Of its largest entry.
    """

    value: Tensor
    uncertainty: float


def differentiate(f: Callable[[float], Tensor], step: float) -> Slope:
    """The derivative of f at zero.

    Args:
        f: A function of one number.
        step: The first and largest.
    """
    before: list[Tensor] = []
    best: Slope | None = None
    for k in range(LEVELS):
        h = step / 2**k
        above, below = f(h).detach(), f(-h).detach()
        noise = ROUNDING * torch.finfo(above.dtype).eps * largest(above) / h
        row = [(above - below) / (2 * h)]
        for j in range(1, k + 1):
            row.append(row[-1] + (row[-1] - before[j - 1]) / (4**j - 1))
            changes = row[j] - row[j - 1], row[j] - before[j - 1]
            slope = Slope(row[j], max(map(largest, changes)) + noise)
            # Written so that a NaN is never preferred, and kept if there is nothing else.
            if best is None or slope.uncertainty < best.uncertainty:
                best = slope
        before = row
    assert best is not None
    return best
