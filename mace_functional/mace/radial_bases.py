"""Radial bases of functions of a length, with derivatives: Bessel, Gaussian, Chebyshev."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mace_functional.autodiff.jets import Jet, multiply


class Bessel(nn.Module):
    """Bessel basis functions, `sqrt(2 / r_max) sin(n pi r / r_max) / r`.

    Source: Gasteiger, Gross, Guennemann, ICLR 2020 (arXiv:2003.03123), eq. 7.
    """

    bessel_weights: Tensor
    prefactor: Tensor

    def forward(self, r: Tensor, order: int) -> Jet:
        """Compute the jet of the basis functions (..., basis) at lengths (..., 1)."""
        w = self.bessel_weights
        sine = self.prefactor * torch.sin(w * r)
        sines, reciprocals = [sine], [1 / r]
        if order:
            sines.append(self.prefactor * w * torch.cos(w * r))
        for n in range(1, order + 1):
            reciprocals.append(-n * reciprocals[-1] / r)
            sines.append(-w * w * sines[n - 1])
        return multiply(sines[: order + 1], reciprocals)


class Gaussian(nn.Module):
    """Gaussian basis functions `exp(c (r - r_n)^2)` at evenly spaced r_n."""

    gaussian_weights: Tensor

    def __init__(self, coefficient: float) -> None:
        super().__init__()
        self.coefficient = coefficient

    def forward(self, r: Tensor, order: int) -> Jet:
        """Compute the jet of the basis functions (..., basis) at lengths (..., 1)."""
        distance = r - self.gaussian_weights
        out = [torch.exp(self.coefficient * distance * distance)]
        for n in range(order):
            term = distance * out[n]
            out.append(2 * self.coefficient * (term + n * out[n - 1] if n else term))
        return out


class Chebyshev(nn.Module):
    """Chebyshev polynomials of the first kind, `T_1(r) ... T_n(r)`, by their recursion."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, r: Tensor, order: int) -> Jet:
        """Compute the jet of the basis functions (..., basis) at lengths (..., 1)."""
        one, zero = torch.ones_like(r), torch.zeros_like(r)
        x = [r, one, *[zero] * order][: order + 1]
        polynomials = [[one, *[zero] * order], x]
        while len(polynomials) <= self.size:
            pairs = zip(multiply(x, polynomials[-1]), polynomials[-2], strict=True)
            polynomials.append([2 * a - b for a, b in pairs])
        return [torch.cat(parts, -1) for parts in zip(*polynomials[1:], strict=True)]
