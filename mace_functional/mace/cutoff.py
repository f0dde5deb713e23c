"""The polynomial cutoff function, which goes to zero smoothly at the cutoff radius."""

from __future__ import annotations

from math import perm

import torch
from torch import Tensor, nn

from mace_functional.autodiff.jets import Jet


def polynomial_cutoff(r: Tensor, r_max: Tensor, p: int, order: int) -> Jet:
    """Compute the jet of the polynomial cutoff function, (..., 1) each, up to an order.

    It falls from 1 at r = 0 to 0 at `r_max`, where its first two derivatives vanish too:
    `f(u) = 1 - (p+1)(p+2)/2 u^p + p(p+2) u^(p+1) - p(p+1)/2 u^(p+2)`, `u = r / r_max`.
    Source: Gasteiger, Gross, Guennemann, ICLR 2020 (arXiv:2003.03123), eq. 8.
    """
    u = r / r_max
    inside = r < r_max
    coefficients = [(p, -(p + 1) * (p + 2) / 2), (p + 1, p * (p + 2)), (p + 2, -p * (p + 1) / 2)]
    out = []
    for n in range(order + 1):
        terms = [c * perm(power, n) * u ** (power - n) for power, c in coefficients if n <= power]
        value = sum(terms, torch.zeros_like(u)) / r_max**n
        out.append((1 + value if n == 0 else value) * inside)
    return out


class CutoffRadius(nn.Module):
    """A container of the cutoff radius of the cutoff function."""

    r_max: Tensor
