"""Central differences extrapolated to a step of zero, with their uncertainty.

The error of `(f(h) - f(-h)) / 2h` is a series in `h^2`. Richardson extrapolation with steps
`h_k = h / 2^k`,

    T_k0 = (f(h_k) - f(-h_k)) / 2 h_k,      T_kj = T_k(j-1) + (T_k(j-1) - T_(k-1)(j-1)) / (4^j - 1)

removes its terms one by one. The result is the entry that differs least from the two entries in its
formula. Its uncertainty is this difference plus the rounding error of f divided by the step. It is
large if f is noisy or has a kink, for example where an atom crosses a cutoff.

Source: Ridders, Adv. Eng. Software 4, 75 (1982).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mace_functional.certificate.comparison import largest

LEVELS = 4
"""Number of steps h_k, each half of the previous one."""

ROUNDING = 10.0
"""Relative rounding error of f in units of the machine precision."""


class Slope(NamedTuple):
    """A derivative by finite differences.

    Attributes:
        value: Extrapolated derivative.
        uncertainty: Uncertainty of its entries.
    """

    value: Tensor
    uncertainty: float


def differentiate(f: Callable[[float], Tensor], step: float) -> Slope:
    """Return the derivative of f at zero.

    Args:
        f: A function of one number.
        step: Largest step h.
    """
    previous: list[Tensor] = []
    best: Slope | None = None
    for k in range(LEVELS):
        h = step / 2**k
        above, below = f(h).detach(), f(-h).detach()
        noise = ROUNDING * torch.finfo(above.dtype).eps * largest(above) / h
        row = [(above - below) / (2 * h)]
        for j in range(1, k + 1):
            row.append(row[-1] + (row[-1] - previous[j - 1]) / (4**j - 1))
            changes = row[j] - row[j - 1], row[j] - previous[j - 1]
            slope = Slope(row[j], max(map(largest, changes)) + noise)
            # A NaN is never smaller, so that it is returned only if the first result is NaN.
            if best is None or slope.uncertainty < best.uncertainty:
                best = slope
        previous = row
    assert best is not None
    return best
