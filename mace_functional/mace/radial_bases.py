"""Bases of functions of one length: Bessel, Gaussian, Chebyshev; each with its derivatives."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mace_functional.autodiff.jets import Jet, multiply


class Bessel(nn.Module):
    """`sqrt(2 / r_max) sin(n pi r / r_max) / r` (arXiv:2003.03123, eq. 7)."""

    bessel_weights: Tensor
    prefactor: Tensor

    def forward(self, r: Tensor, order: int) -> Jet:
        """Basis functions (..., basis) of lengths (..., 1), and their derivatives."""
        w = self.bessel_weights
        sine = self.prefactor * torch.sin(w * r)
        waves, reciprocals = [sine], [1 / r]
        if order:
            waves.append(self.prefactor * w * torch.cos(w * r))
        for n in range(1, order + 1):
            reciprocals.append(-n * reciprocals[-1] / r)
            waves.append(-w * w * waves[n - 1])
        return multiply(waves[: order + 1], reciprocals)


class Gaussian(nn.Module):
    """Gaussians on an even grid, `exp(c (r - r_n)^2)`."""

    gaussian_weights: Tensor

    def __init__(self, coefficient: float) -> None:
        super().__init__()
        self.coefficient = coefficient

    def forward(self, r: Tensor, order: int) -> Jet:
        """Basis functions (..., basis) of lengths (..., 1), and their derivatives."""
        distance = r - self.gaussian_weights
        out = [torch.exp(self.coefficient * distance * distance)]
        for n in range(order):
            slope = distance * out[n]
            out.append(2 * self.coefficient * (slope + n * out[n - 1] if n else slope))
        return out


class Chebyshev(nn.Module):
    """Chebyshev polynomials of the first kind, `T_1(r) ... T_n(r)`, by their recursion."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, r: Tensor, order: int) -> Jet:
        """Basis functions (..., basis) of lengths (..., 1), and their derivatives."""
        one, zero = torch.ones_like(r), torch.zeros_like(r)
        x = [r, one, *[zero] * order][: order + 1]
        polynomials = [[one, *[zero] * order], x]
        while len(polynomials) <= self.size:
            pairs = zip(multiply(x, polynomials[-1]), polynomials[-2], strict=True)
            polynomials.append([2 * a - b for a, b in pairs])
        return [torch.cat(parts, -1) for parts in zip(*polynomials[1:], strict=True)]
