r"""The polynomial that a Gauss quadrature integrates in place of a function.

A Gauss quadrature with the nodes t_i is the integral of the Hermite interpolant h of f, which has
the values and slopes of f there:

    h(t) = sum_i l_i(t)^2 [f(t_i) (1 - 2 l_i'(t_i) (t - t_i)) + f'(t_i) (t - t_i)],
    l_i(t) = prod_{m != i} (t - t_m) / (t_i - t_m).

To first order, the quadrature changes with the measure as the integral of h does, although the
nodes move too. What a quadrature lacks therefore scatters from vector to vector as y^T (f - h)(D) y
would with a fixed h.

Source: Golub, Meurant, *Matrices, Moments and Quadrature* (2010), chapter 6.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

SLOPE_STEP = 1e-5
"""Relative change of an eigenvalue in the central differences that give slopes.

Their error is the square of it, 1e-10; rounding leaves 1e-11.
"""


def hermite_interpolants(
    functions: Callable[[Tensor], Tensor], nodes: Tensor, at: Tensor
) -> Tensor:
    """Compute the Hermite interpolants of F functions of v sets of nodes, (F, v, n).

    Args:
        functions: Map from values (...) to values of F functions (F, ...).
        nodes: Nodes of each set, all different, (v, k).
        at: Values at which the interpolants of each set are computed, (v, n).
    """
    k = nodes.shape[1]
    change = SLOPE_STEP * nodes
    slopes = (functions(nodes + change) - functions(nodes - change)) / (2 * change)
    apart = nodes[:, :, None] - nodes[:, None]
    apart.diagonal(dim1=1, dim2=2).fill_(1.0)
    slope_of_basis = (1 / apart).sum(2) - 1
    distance = at[:, None] - nodes[:, :, None]  # (v, k, n)
    basis = torch.ones_like(distance)
    for m in range(k):
        factor = distance[:, m : m + 1] / apart[:, :, m, None]
        factor[:, m] = 1.0
        basis = basis * factor
    tangents = functions(nodes)[..., None] * (1 - 2 * slope_of_basis[..., None] * distance)
    return ((tangents + slopes[..., None] * distance) * basis.square()).sum(2)
