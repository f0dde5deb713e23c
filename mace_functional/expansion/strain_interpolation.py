r"""Interpolation of a smooth function of strain from values and slopes at several cells.

Let f have a Taylor expansion T of order m at e = 0, and values and slopes at K more strains e_k.
The interpolant is T plus a polynomial of degree m + 2K without terms up to order m, in the space of
the kernel

    k(e, e') = sum_(j = m + 1)^(m + 2K) (e . e' / L^2)^j / j!

It reproduces all data, and of all such polynomials it has the smallest norm. Along a line it is the
Hermite interpolant. It is linear in the data, so one set of weights serves all functions.

Source: Fasshauer, Meshfree Approximation Methods with MATLAB, chapter 36 (Hermite interpolation
with kernels).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class StrainTerms(NamedTuple):
    """Linear functions of the data, or basis functions, with their derivatives at a strain.

    Attributes:
        value: Values, (D,).
        slopes: Derivatives by the strain, (S, D).
        second: Second derivatives by the strain, (S, S, D).
    """

    value: Tensor
    slopes: Tensor
    second: Tensor


class StrainInterpolation:
    """Weights of data in the value, the slopes and the second derivatives of the interpolant.

    Data are, in this order: the value at e = 0, the S slopes there, and for order 2 the S x S
    second derivatives; then the values at the K strains; then their K x S slopes.

    Args:
        strains: The strains e_k, without e = 0, (K, S).
        order: Order m of the expansion at e = 0, 1 or 2.
        last_slopes: False if the slopes at the last strain are not used. Comparison with the
            complete interpolant shows the error.
    """

    def __init__(self, strains: Tensor, order: int, *, last_slopes: bool = True) -> None:
        n, s = strains.shape
        self._order = order
        self._degree = order + 2 * n - (not last_slopes)
        self._scale = float(strains.norm(dim=1).max()) if n else 1.0
        self._points = strains / self._scale
        keep = torch.ones(n + n * s, dtype=torch.bool)
        if not last_slopes:
            keep[-s:] = False
        self._keep = keep
        if n:
            expansions, kernels = zip(*(self._terms(e) for e in strains), strict=True)
            gram, expansion = (
                torch.cat([torch.stack([f.value for f in terms]), *(f.slopes for f in terms)])[keep]
                for terms in (kernels, expansions)
            )
            gram = gram[:, keep]
            size = gram.diagonal().sqrt()  # values and slopes are of different size
            self._inverse = torch.linalg.inv(gram / size[:, None] / size) / size[:, None] / size
            self._of_expansion = self._inverse @ expansion

    def weights(self, strain: Tensor) -> StrainTerms:
        """Return the weights of all D data in value, slopes and second derivatives at a strain.

        Args:
            strain: Strain e, (S,).
        """
        expansion, kernels = self._terms(strain)
        if not len(self._points):
            return expansion
        return StrainTerms(
            *(self._combined(*pair) for pair in zip(expansion, kernels, strict=True))
        )

    def _combined(self, expansion: Tensor, kernels: Tensor) -> Tensor:
        kernels = kernels[..., self._keep]
        of_strains = kernels.new_zeros(*kernels.shape[:-1], len(self._keep))
        of_strains[..., self._keep] = kernels @ self._inverse
        return torch.cat([expansion - kernels @ self._of_expansion, of_strains], -1)

    def _terms(self, strain: Tensor) -> tuple[StrainTerms, StrainTerms]:
        """Return the terms of the expansion at e = 0, and the kernels of values and slopes."""
        size, one = len(strain), torch.eye(len(strain), dtype=strain.dtype)
        value, slopes = [strain.new_ones(1), strain], [one.new_zeros(size, 1), one]
        second = [one.new_zeros(size, size, 1 + size)]
        if self._order == 2:
            value.append((strain[:, None] * strain).flatten() / 2)
            slopes.append(_symmetric(torch.einsum("ai,j->aij", one, strain)).flatten(1))
            second.append(_symmetric(torch.einsum("ai,cj->acij", one, one)).flatten(2))
        expansion = StrainTerms(torch.cat(value), torch.cat(slopes, 1), torch.cat(second, 2))

        y, x, scale = self._points, strain / self._scale, self._scale
        u = y @ x
        f0, f1, f2, f3 = (self._kernel(u, r) for r in range(4))
        shift = torch.einsum("k,ka,bc->ackb", f2, y, one)
        kernels = StrainTerms(
            torch.cat([f0, (f1[:, None] * x / scale).flatten()]),
            torch.cat(
                [
                    (f1[:, None] * y).mT / scale,
                    (
                        torch.einsum("k,ka,b->akb", f2, y, x) + torch.einsum("k,ab->akb", f1, one)
                    ).flatten(1)
                    / scale**2,
                ],
                1,
            ),
            torch.cat(
                [
                    torch.einsum("k,ka,kc->ack", f2, y, y) / scale**2,
                    (
                        torch.einsum("k,ka,kc,b->ackb", f3, y, y, x) + shift + shift.transpose(0, 1)
                    ).flatten(2)
                    / scale**3,
                ],
                2,
            ),
        )
        return expansion, kernels

    def _kernel(self, u: Tensor, derivative: int) -> Tensor:
        """Return a derivative of the kernel by u = e . e' / L^2."""
        powers = range(max(self._order + 1, derivative), self._degree + 1)
        terms = (u ** (j - derivative) / math.factorial(j - derivative) for j in powers)
        return sum(terms, torch.zeros_like(u))


def _symmetric(products: Tensor) -> Tensor:
    return 0.5 * (products + products.mT)
