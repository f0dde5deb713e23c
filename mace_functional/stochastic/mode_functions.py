r"""Thermodynamics of a mode, as functions of the eigenvalue l of the mass-weighted Hessian.

With the quantum e = hbar sqrt(l), x = e / kT and y = x / 2,

    C = k (y / sinh y)^2                        U = kT y coth y
    S = k (y coth y - log(2 sinh y))            F = U - T S

In this form C, U and y coth y are smooth functions of l at l = 0, with C = k and U = kT there. S is
-k/2 log(l) and a smooth function. Eigenvalues at and below zero have no harmonic thermodynamics:
all functions are zero there, as imaginary modes are left out by `harmonic_thermo`. Only the limits
of C and U at l = 0 are kept, for quadratures with a node at zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mace_functional.units import FREQUENCY_UNITS, K_B

HBAR_OMEGA = FREQUENCY_UNITS["meV"] / 1e3
"""Quantum of a mode with l = 1 eV/Å²/amu, eV."""

FROZEN = 500.0
"""Largest x / 2 of a mode that is excited: beyond it, exp(-x) is zero in double precision."""


class ModeFunctions:
    """The thermodynamic functions of a mode at T temperatures, with its zero-point energy.

    The functions are stacked as C, S, F and U at all temperatures, then the zero-point energy and
    the count of eigenvalues below zero: 4 T + 2 in all.

    Args:
        temperatures: Temperatures in K, (T,).
    """

    def __init__(self, temperatures: Tensor) -> None:
        self._t = temperatures.to(torch.float64)

    @property
    def count(self) -> int:
        """Number of functions."""
        return 4 * len(self._t) + 2

    def __call__(self, values: Tensor) -> Tensor:
        """Compute all functions of eigenvalues (...), in eV and eV/K, (4 T + 2, ...)."""
        t = self._t.to(values.device).reshape(-1, *[1] * values.ndim)
        e = HBAR_OMEGA * values.clamp(min=0).sqrt()
        positive = values > 0
        warm = positive & (e < 2 * FROZEN * K_B * t)
        y = torch.where(warm, e, 1.0) / torch.where(warm, 2 * K_B * t, 1.0)
        y_coth_y = y / torch.tanh(y)
        c = torch.where(warm, K_B * (y / torch.sinh(y)).square(), 0.0)
        u = torch.where(warm, K_B * t * y_coth_y, e / 2)
        # log(2 sinh y) = y + log(1 - exp(-2 y)) without overflow
        s = torch.where(warm, K_B * (y_coth_y - y - torch.log(-torch.expm1(-2 * y))), 0.0)
        at_zero = values == 0
        c = torch.where(at_zero & (t > 0), K_B, c)
        u = torch.where(at_zero, K_B * t, u)
        zero_point = torch.where(positive, e / 2, 0.0)
        return torch.cat([c, s, u - t * s, u, zero_point[None], (values < 0).to(e)[None]])

    def other_end(self, gauss: Tensor, radau: Tensor, shorter: Tensor) -> Tensor:
        """Return the other end of the bracket that starts at the Gauss quadratures, (4 T + 2, v).

        It is the Gauss-Radau quadrature with a node at zero, for S twice the Gauss quadrature less
        that of half the steps, and for F its value for these U and S.

        Args:
            gauss: Gauss quadratures, (4 T + 2, v).
            radau: Gauss-Radau quadratures with a node at zero, (4 T + 2, v).
            shorter: Gauss quadratures of half the steps, (4 T + 2, v).
        """
        n = len(self._t)
        c, _, _, u, last = radau.split([n, n, n, n, 2])
        s = 2 * gauss[n : 2 * n] - shorter[n : 2 * n]
        below_zero = gauss[-1:]
        free_energy = u - self._t.to(u)[:, None] * s
        return torch.cat([c, s, free_energy, u, last[:1], below_zero])
