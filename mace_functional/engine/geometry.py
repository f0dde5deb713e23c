"""Lengths and spherical harmonics of the edges, as one function of the edge vectors.

With solid harmonics `S_l = r^l Y_l(v / r)`, whose derivatives are solid harmonics one degree lower,
`dS_l/dv_a = D_a S_(l-1)`, all derivatives of `Y_l = r^(-l) S_l` are small matrix products with Y
itself: with `G_a = D_a Y` and the unit vector u,

    r dY/dv_a          = G_a - l u_a Y,
    r^2 d2Y/dv_a dv_b  = D_a D_b Y - l (u_a G_b + u_b G_a + delta_ab Y) + l (l+2) u_a u_b Y.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.func import jacfwd, vmap
from typing_extensions import override

from mace_functional.engine.harmonics import spherical_harmonics
from mace_functional.engine.local import LocalFunction


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
        return self.linearised(x)[1]

    @override
    def linearised(self, x: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        y = self.value(x)
        r, harmonics = y[..., :1], y[..., 1:]
        u = x / r
        first, _, degrees = self._constants(x)
        scaled = (degrees * harmonics)[..., None] * u[..., None, :]
        gradient = ((harmonics @ first).unflatten(-1, (-1, 3)) - scaled) / r[..., None]
        return y, torch.cat([u[..., None, :], gradient], -2)

    @override
    def curvature(self, cotangent: Tensor, x: Tensor, *rest: Tensor) -> Tensor:
        y = self.value(x)
        r, harmonics = y[..., :1], y[..., 1:]
        g_r, g = cotangent[..., :1], cotangent[..., 1:]
        u = x / r
        first, second, degrees = self._constants(x)
        lowered = ((g * degrees)[..., None, :] @ (harmonics @ first).unflatten(-1, (-1, 3)))[
            ..., 0, :
        ]
        twice = ((g @ second).unflatten(-1, (9, -1)) @ harmonics[..., None]).unflatten(-2, (3, 3))
        mixed = lowered[..., :, None] * u[..., None, :]
        weight = (g * degrees * harmonics).sum(-1)[..., None, None]
        bend = (g * degrees * (degrees + 2) * harmonics).sum(-1)[..., None, None]
        identity = torch.eye(3, dtype=x.dtype, device=x.device)
        projector = u[..., :, None] * u[..., None, :]
        of_harmonics = twice[..., 0] - mixed - mixed.mT - weight * identity + bend * projector
        return of_harmonics / (r * r)[..., None] + (g_r / r)[..., None] * (identity - projector)

    def _constants(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """D as (M', M 3), D D as (M, 9 M''), and the degree l of each harmonic."""
        d, dd, degrees = (
            torch.as_tensor(constant, dtype=like.dtype, device=like.device)
            for constant in self.constants
        )
        return d, dd, degrees


@lru_cache
def _gradient_matrices(l_max: int) -> np.ndarray:
    """D (M, M', 3) with `dS_M/dv_a = sum_M' D[M, M', a] S_M'`, by a fit that is exact."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(8 * (l_max + 1) ** 2, 3, dtype=torch.float64, generator=generator)
    vectors = vectors / vectors.norm(dim=1, keepdim=True)

    def solid(v: Tensor) -> Tensor:
        r = torch.sqrt((v * v).sum())
        harmonics = spherical_harmonics(v / r, l_max)
        return torch.cat([r**degree * y for degree, y in enumerate(harmonics)])

    values = vmap(solid)(vectors).numpy()
    slopes = vmap(jacfwd(solid))(vectors).numpy()
    out = np.zeros((values.shape[1], values.shape[1], 3))
    for degree in range(1, l_max + 1):
        rows = slice(degree**2, (degree + 1) ** 2)
        lower = slice((degree - 1) ** 2, degree**2)
        fit = np.linalg.lstsq(
            values[:, lower], slopes[:, rows].reshape(len(vectors), -1), rcond=None
        )[0]
        out[rows, lower] = fit.reshape(2 * degree - 1, 2 * degree + 1, 3).transpose(1, 0, 2)
    out[np.abs(out) < 1e-12] = 0.0
    return out
