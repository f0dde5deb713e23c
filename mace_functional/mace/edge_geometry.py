"""Lengths and spherical harmonics of the edges, as one function of the edge vectors.

With solid harmonics `S_l = r^l Y_l(v / r)`, whose derivatives are solid harmonics one degree lower,
`dS_l/dv_a = D_a S_(l-1)`, all derivatives of `Y_l = r^(-l) S_l` are small matrix products with Y
itself: with `G_a = D_a Y` and the unit vector u,

    r dY/dv_a          = G_a - l u_a Y,
    r^2 d2Y/dv_a dv_b  = D_a D_b Y - l (u_a G_b + u_b G_a + delta_ab Y) + l (l+2) u_a u_b Y.
"""

from __future__ import annotations

from functools import lru_cache
from math import factorial, sqrt

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from mace_functional.autodiff.local import LocalFunction
from mace_functional.mace.harmonics import spherical_harmonics


class EdgeGeometry(LocalFunction):
    """From vectors (..., 3) to lengths and harmonics, (..., 1 + (l_max + 1)^2)."""

    def __init__(self, l_max: int) -> None:
        self.l_max = l_max
        first = _gradient_matrices(l_max)
        count = len(first)
        second = np.einsum("MNa,NLb->MabL", first, first).reshape(count, -1)
        degrees = [float(degree) for degree in range(l_max + 1) for _ in range(2 * degree + 1)]
        self.constants = first.transpose(1, 0, 2).reshape(count, -1), second, np.array(degrees)

    @override
    def value(self, x: Tensor, *rest: Tensor) -> Tensor:
        r = torch.sqrt((x * x).sum(-1, keepdim=True))
        return torch.cat([r, *spherical_harmonics(x / r, self.l_max)], -1)

    @override
    def jacobian(self, x: Tensor, *rest: Tensor) -> Tensor:
        return self.value_and_jacobian(x)[1]

    @override
    def value_and_jacobian(self, x: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        y = self.value(x)
        r, harmonics = y[..., :1], y[..., 1:]
        u = x / r
        first, _, degrees = self._constants(x)
        scaled = (degrees * harmonics)[..., None] * u[..., None, :]
        gradient = ((harmonics @ first).unflatten(-1, (-1, 3)) - scaled) / r[..., None]
        return y, torch.cat([u[..., None, :], gradient], -2)

    @override
    def weighted_hessian(self, cotangent: Tensor, x: Tensor, *rest: Tensor) -> Tensor:
        y = self.value(x)
        r, harmonics = y[..., :1], y[..., 1:]
        g_r, g = cotangent[..., :1], cotangent[..., 1:]
        u = x / r
        first, second, degrees = self._constants(x)
        gl = g * degrees
        gl_dy = (gl[..., None, :] @ (harmonics @ first).unflatten(-1, (-1, 3)))[..., 0, :]
        g_ddy = ((g @ second).unflatten(-1, (9, -1)) @ harmonics[..., None]).unflatten(-2, (3, 3))
        u_dy = gl_dy[..., :, None] * u[..., None, :]
        gl_y = (gl * harmonics).sum(-1)[..., None, None]
        gll_y = (gl * (degrees + 2) * harmonics).sum(-1)[..., None, None]
        identity = torch.eye(3, dtype=x.dtype, device=x.device)
        uu = u[..., :, None] * u[..., None, :]
        of_harmonics = g_ddy[..., 0] - u_dy - u_dy.mT - gl_y * identity + gll_y * uu
        return of_harmonics / (r * r)[..., None] + (g_r / r)[..., None] * (identity - uu)

    def _constants(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """D as (M', M 3), D D as (M, 9 M''), and the degree l of each harmonic."""
        d, dd, degrees = (
            torch.as_tensor(constant, dtype=like.dtype, device=like.device)
            for constant in self.constants
        )
        return d, dd, degrees


@lru_cache
def _gradient_matrices(l_max: int) -> np.ndarray:
    """D (M, M', 3) with `dS_M/dv_a = sum_M' D[M, M', a] S_M'`.

    They are numbers whatever transforms or modes of torch are active when they are asked for first.
    With the functions `R_lm` of `_real_from_complex`,

        dR_lm/dx = i (R_(l-1),m-1 + R_(l-1),m+1) / 2,   dR_lm/dy = R_(l-1),m,
        dR_lm/dz = (R_(l-1),m-1 - R_(l-1),m+1) / 2.
    """
    count = (l_max + 1) ** 2
    out = np.zeros((count, count, 3))
    for degree in range(1, l_max + 1):
        rows = slice(degree**2, (degree + 1) ** 2)
        lower = slice((degree - 1) ** 2, degree**2)
        shifts = [(2, 0), (1, 1), (0, 2)]  # from m to m - 1, m and m + 1
        before, same, after = (np.pad(np.eye(2 * degree - 1), (n, (0, 0))) for n in shifts)
        along = np.stack([0.5j * (before + after), same, 0.5 * (before - after)])
        here, back = _real_from_complex(degree), np.linalg.inv(_real_from_complex(degree - 1))
        out[rows, lower] = (here @ along @ back).real.transpose(1, 2, 0)
    return out


def _real_from_complex(degree: int) -> np.ndarray:
    """C (M, M) with `S_M = sum_m C[M, m] R_lm`, for one degree l.

    `R_lm = r^l P_l^m(y/r) e^(i m phi) / (l + m)!` with the angle phi from z to x, and P without the
    Condon-Shortley phase; `R_l,-m = (-1)^m conj(R_lm)`.
    """
    out = np.zeros((2 * degree + 1, 2 * degree + 1), dtype=complex)
    for m in range(-degree, degree + 1):
        k = abs(m)
        square = (2 * degree + 1) * (2 if m else 1) * factorial(degree - k) * factorial(degree + k)
        half = 0.5 * sqrt(square) * (1 if m >= 0 else -1j)  # of the real or the imaginary part
        out[degree + m, degree + k] += half
        out[degree + m, degree - k] += (-1) ** k * half.conjugate()
    return out
