r"""Thermodynamics of a mode, as functions of the eigenvalue l of the mass-weighted Hessian.

`vibrations.mode_functions` has the formulas. C and U are smooth functions of l at l = 0, with C = k
and U = kT there; S is -k/2 log(l) and a smooth function. Eigenvalues at and below zero have no
harmonic thermodynamics: all functions are zero there, as imaginary modes are left out by
`harmonic_thermo`. Only the limits of C and U at l = 0 are kept, for quadratures with a node there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mace_functional.units import K_B
from mace_functional.vibrations.mode_functions import mode_functions


class SpectralFunctions:
    """The thermodynamic functions of a mode at T temperatures, with its zero-point energy.

    The functions are stacked as C, S, F and U at all temperatures, then the zero-point energy and
    the count of eigenvalues below zero: 4 T + 2 in all.

    Args:
        temperatures: Temperatures in K, (T,).
    """

    def __init__(self, temperatures: Tensor) -> None:
        self._t = temperatures.to(torch.float64)
        self._kelvins = self._t.tolist()

    @property
    def count(self) -> int:
        """Number of functions."""
        return 4 * len(self._t) + 2

    def __call__(self, values: Tensor) -> Tensor:
        """Compute all functions of eigenvalues (...), in eV and eV/K, (4 T + 2, ...)."""
        values = values.to(torch.float64)
        at = [mode_functions(values, t) for t in self._kelvins]
        c, s, f, u = (
            torch.stack([getattr(of_t, name) for of_t in at])
            for name in ("heat_capacity", "entropy", "free_energy", "energy")
        )
        t, at_zero = self._t.to(values.device).reshape(-1, *[1] * values.ndim), values == 0
        c = torch.where(at_zero & (t > 0), K_B, c)
        u = torch.where(at_zero, K_B * t, u)
        zero_point = mode_functions(values, 0.0).energy
        return torch.cat([c, s, f, u, zero_point[None], (values < 0).to(c)[None]])

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
        step = self.entropy_step(gauss, shorter)
        s = (gauss + step)[n : 2 * n]
        below_zero = gauss[-1:]
        free_energy = u - self._t.to(u)[:, None] * s
        return torch.cat([c, s, free_energy, u, last[:1], below_zero])

    def entropy_step(self, longer: Tensor, shorter: Tensor) -> Tensor:
        """Return the difference of two S and what it changes in F; zero for C, U and the others.

        Args:
            longer: Values of all functions, such as quadratures of k steps, (4 T + 2, ...).
            shorter: The same for half the steps.
        """
        n = len(self._t)
        step = torch.zeros_like(longer)
        step[n : 2 * n] = longer[n : 2 * n] - shorter[n : 2 * n]
        step[2 * n : 3 * n] = -self._t.to(step).view(-1, *[1] * (step.ndim - 1)) * step[n : 2 * n]
        return step
