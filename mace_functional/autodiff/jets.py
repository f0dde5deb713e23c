"""Jets: a function of one variable together with its derivatives, `[f, f', f'', ...]`.

A chain of maps applied to a jet gives all derivatives of the result at once. Nested automatic
differentiation would compute the lower derivatives again for each order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import comb

import torch
from torch import Tensor

from mace_functional.autodiff.forward_mode import jvp

Jet = list[Tensor]


def jet_of(function: Callable[[Tensor], Tensor], x: Tensor, order: int) -> Jet:
    """Return the jet, up to an order, of a function that acts on every element of x, (..., 1)."""
    if order == 0:
        return [function(x)]
    lower = jvp(lambda y: jet_of(function, y, order - 1), (x,), (torch.ones_like(x),))
    return [*lower[0], lower[1][-1]]


def multiply(a: Sequence[Tensor], b: Sequence[Tensor]) -> Jet:
    """Return the jet of the product `a b` (Leibniz rule)."""
    return [_sum(_times(comb(n, k), a[k] * b[n - k]) for k in range(n + 1)) for n in range(len(a))]


def compose(derivatives: Sequence[Tensor], x: Sequence[Tensor]) -> Jet:
    """Return the jet of `f(x)` from the derivatives of f at x and the jet of x (Faà di Bruno).

    Args:
        derivatives: `[f, f', f'', ...]` at x.
        x: Jet of x, of the same length.
    """
    out = [derivatives[0]]
    bell: list[list[Tensor]] = [[]]  # partial Bell polynomials B_nk of x', x'', ..., from k = 1
    for n in range(1, len(x)):
        row = [x[n]]
        for k in range(2, n + 1):
            terms = (
                _times(comb(n - 1, i - 1), x[i] * bell[n - i][k - 2]) for i in range(1, n - k + 2)
            )
            row.append(_sum(terms))
        bell.append(row)
        out.append(_sum(derivatives[k] * b for k, b in enumerate(row, 1)))
    return out


def _times(factor: int, x: Tensor) -> Tensor:
    return x if factor == 1 else factor * x


def _sum(terms: Iterable[Tensor]) -> Tensor:
    first, *others = terms
    return sum(others, first)
