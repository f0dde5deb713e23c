"""Real spherical harmonics of unit vectors, in e3nn's convention.

The polar axis is y, components are ordered m = -l ... l, and `sum_m Y_lm^2 = 2l + 1` ("component"
normalisation). With P_lm the polynomial part of the associated Legendre functions, without the
Condon-Shortley phase, and `A_m + i B_m = (z + i x)^m`,

    Y_l,+m = N_lm P_lm(y) A_m(z, x),   Y_l,-m = N_lm P_lm(y) B_m(z, x),
    N_lm^2 = (2l + 1) (2 - delta_m0) (l - m)! / (l + m)!

Source: Blanco, Florez, Bermejo, J. Mol. Struct. THEOCHEM 419, 19 (1997), with axes cycled.
"""

from __future__ import annotations

from math import factorial, sqrt

import torch
from torch import Tensor


def spherical_harmonics(directions: Tensor, l_max: int) -> list[Tensor]:
    """Compute the real spherical harmonics up to degree `l_max`.

    Args:
        directions: Unit vectors (..., 3).
        l_max: Largest degree.

    Returns:
        One tensor (..., 2l+1) for each l from 0 to `l_max`.
    """
    x, y, z = directions.unbind(-1)
    cosines, sines = [torch.ones_like(x)], [torch.zeros_like(x)]
    for _ in range(l_max):
        a, b = cosines[-1], sines[-1]
        cosines.append(z * a - x * b)
        sines.append(z * b + x * a)
    legendre = _legendre(y, l_max)
    harmonics = []
    for degree in range(l_max + 1):
        components = {}
        for m in range(degree + 1):
            ratio = factorial(degree - m) / factorial(degree + m)
            norm = sqrt((2 * degree + 1) * (2 if m else 1) * ratio)
            polar = norm * legendre[degree, m]
            components[m] = polar * cosines[m]
            components[-m] = polar * sines[m] if m else components[0]
        harmonics.append(torch.stack([components[m] for m in range(-degree, degree + 1)], -1))
    return harmonics


def _legendre(y: Tensor, l_max: int) -> dict[tuple[int, int], Tensor]:
    """Compute `P_lm(y) = (1 - y^2)^(-m/2) P_l^m(y)` for `m <= l <= l_max`, by recursion in l."""
    table: dict[tuple[int, int], Tensor] = {}
    double_factorial = 1.0
    for m in range(l_max + 1):
        table[m, m] = torch.full_like(y, double_factorial)
        double_factorial *= 2 * m + 1
        for degree in range(m + 1, l_max + 1):
            upper = (2 * degree - 1) * y * table[degree - 1, m]
            if degree > m + 1:
                upper = upper - (degree + m - 1) * table[degree - 2, m]
            table[degree, m] = upper / (degree - m)
    return table
