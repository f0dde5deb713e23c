"""Lengths and spherical harmonics of the edges, as one function of the edge vectors.

With solid harmonics `S_l = r^l Y_l(v / r)`, whose derivatives are solid harmonics one degree lower,
`dS_l/dv_a = D_a S_(l-1)`, all derivatives of `Y_l = r^(-l) S_l` are small matrix products with Y
itself: with `G_a = D_a Y` and the unit vector u,

    r dY/dv_a          = G_a - l u_a Y,
    r^2 d2Y/dv_a dv_b  = D_a D_b Y - l (u_a G_b + u_b G_a + delta_ab Y) + l (l+2) u_a u_b Y.

In the code y is Y, d and dd are D and D D, g is a cotangent of Y, gl and gll are g times l and
g times l (l+2), and a name such as gl_y is the sum of a product over the harmonics.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import factorial, sqrt

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from mace_functional.autodiff.local import LocalFunction
from mace_functional.autodiff.torch_internals import temporarily_clear_interpreter_stack
from mace_functional.mace.harmonics import spherical_harmonics


class EdgeGeometry(LocalFunction):
    """Lengths and spherical harmonics of edge vectors.

    With x the vectors (..., 3) and M = 1 + (l_max + 1)^2, the methods return the value (..., M),
    lengths first, the Jacobian (..., M, 3) and, for a cotangent (..., M), the weighted Hessian
    (..., 3, 3).

    Args:
        l_max: Largest degree of the harmonics.
        device: Device of the vectors.
    """

    def __init__(self, l_max: int, device: torch.device | str = "cpu") -> None:
        self.l_max = l_max
        d = _gradient_matrices(l_max)
        count = len(d)
        dd = np.einsum("MNa,NLb->MabL", d, d).reshape(count, -1)
        degrees = [float(degree) for degree in range(l_max + 1) for _ in range(2 * degree + 1)]
        arrays = d.transpose(1, 0, 2).reshape(count, -1), dd, np.array(degrees)
        with temporarily_clear_interpreter_stack():  # the tensors outlive transforms active now
            self.constants = [torch.as_tensor(array, device=device) for array in arrays]

    @override
    def value(self, x: Tensor, *rest: Tensor) -> Tensor:
        r = torch.sqrt((x * x).sum(-1, keepdim=True))
        return torch.cat([r, *spherical_harmonics(x / r, self.l_max)], -1)

    @override
    def jacobian(self, x: Tensor, *rest: Tensor) -> Tensor:
        return self.value_and_jacobian(x)[1]

    @override
    def value_and_jacobian(self, x: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        r_y = self.value(x)
        r, y = r_y[..., :1], r_y[..., 1:]
        u = x / r
        d, _, degrees = self._constants(x)
        l_y_u = (degrees * y)[..., None] * u[..., None, :]
        dy_dx = ((y @ d).unflatten(-1, (-1, 3)) - l_y_u) / r[..., None]
        return r_y, torch.cat([u[..., None, :], dy_dx], -2)

    @override
    def weighted_hessian(self, cotangent: Tensor, x: Tensor, *rest: Tensor) -> Tensor:
        r_y = self.value(x)
        r, y = r_y[..., :1], r_y[..., 1:]
        g_r, g = cotangent[..., :1], cotangent[..., 1:]
        u = x / r
        d, dd, degrees = self._constants(x)
        gl = g * degrees
        gl_dy = (gl[..., None, :] @ (y @ d).unflatten(-1, (-1, 3)))[..., 0, :]
        g_ddy = ((g @ dd).unflatten(-1, (9, -1)) @ y[..., None]).unflatten(-2, (3, 3))
        gl_dy_u = gl_dy[..., :, None] * u[..., None, :]
        gl_y = (gl * y).sum(-1)[..., None, None]
        gll_y = (gl * (degrees + 2) * y).sum(-1)[..., None, None]
        identity = torch.eye(3, dtype=x.dtype, device=x.device)
        uu = u[..., :, None] * u[..., None, :]
        r2_hessian = g_ddy[..., 0] - gl_dy_u - gl_dy_u.mT - gl_y * identity + gll_y * uu
        return r2_hessian / (r * r)[..., None] + (g_r / r)[..., None] * (identity - uu)

    def _constants(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return D as (M', M 3), D D as (M, 9 M''), and the degree l of each harmonic, (M,)."""
        d, dd, degrees = (constant.to(like.dtype) for constant in self.constants)
        return d, dd, degrees


class EdgeLengths(LocalFunction):
    """Lengths (..., 1) of edge vectors (..., 3)."""

    @override
    def value(self, x: Tensor, *rest: Tensor) -> Tensor:
        return torch.sqrt((x * x).sum(-1, keepdim=True))

    @override
    def jacobian(self, x: Tensor, *rest: Tensor) -> Tensor:
        return (x / self.value(x))[..., None, :]

    @override
    def weighted_hessian(self, cotangent: Tensor, x: Tensor, *rest: Tensor) -> Tensor:
        r = self.value(x)
        u = x / r
        identity = torch.eye(3, dtype=x.dtype, device=x.device)
        return (cotangent / r)[..., None] * (identity - u[..., :, None] * u[..., None, :])

    @override
    def joined(
        self, count: int, rest: Sequence[Tensor], mapped: Sequence[bool]
    ) -> tuple[EdgeLengths, Sequence[Tensor]]:
        return self, rest


@lru_cache
def _gradient_matrices(l_max: int) -> np.ndarray:
    """Compute D (M, M', 3) with `dS_M/dv_a = sum_M' D[M, M', a] S_M'`.

    D is a numpy array, so that transforms of torch that are active in the first call leave no trace
    in the cached result. With the functions `R_lm` of `_real_from_complex`,

        dR_lm/dx = i (R_(l-1),m-1 + R_(l-1),m+1) / 2,   dR_lm/dy = R_(l-1),m,
        dR_lm/dz = (R_(l-1),m-1 - R_(l-1),m+1) / 2.
    """
    count = (l_max + 1) ** 2
    out = np.zeros((count, count, 3))
    for degree in range(1, l_max + 1):
        rows = slice(degree**2, (degree + 1) ** 2)
        lower = slice((degree - 1) ** 2, degree**2)
        shifts = [(2, 0), (1, 1), (0, 2)]  # from m to m - 1, m and m + 1
        below, same, above = (np.pad(np.eye(2 * degree - 1), (n, (0, 0))) for n in shifts)
        d_complex = np.stack([0.5j * (below + above), same, 0.5 * (below - above)])
        c, c_inverse = _real_from_complex(degree), np.linalg.inv(_real_from_complex(degree - 1))
        out[rows, lower] = (c @ d_complex @ c_inverse).real.transpose(1, 2, 0)
    return out


def _real_from_complex(degree: int) -> np.ndarray:
    """Compute C (M, M) with `S_M = sum_m C[M, m] R_lm`, for one degree l.

    `R_lm = r^l P_l^m(y/r) e^(i m phi) / (l + m)!` with the angle phi from z to x, and P without the
    Condon-Shortley phase; `R_l,-m = (-1)^m conj(R_lm)`.
    """
    out = np.zeros((2 * degree + 1, 2 * degree + 1), dtype=complex)
    for m in range(-degree, degree + 1):
        k = abs(m)
        square = (2 * degree + 1) * (2 if m else 1) * factorial(degree - k) * factorial(degree + k)
        half = 0.5 * sqrt(square) * (1 if m >= 0 else -1j)  # real part for m >= 0, else imaginary
        out[degree + m, degree + k] += half
        out[degree + m, degree - k] += (-1) ** k * half.conjugate()
    return out
