"""Transforms of a length by the covalent radii of both atoms, applied before the radial basis."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mace_functional.autodiff.jets import Jet, compose, multiply
from mace_functional.mace.activation import activation_derivatives
from mace_functional.mace.settings import Activation


class Agnesi(nn.Module):
    """Agnesi transform, `1 / (1 + a x^q / (1 + x^(q-p)))`, `x = 2 r / (R_i + R_j)`.

    Source: Witt et al., J. Chem. Phys. 159, 164101 (2023).
    """

    q: Tensor
    p: Tensor
    a: Tensor
    covalent_radii: Tensor

    def forward(self, r: Tensor, radii_i: Tensor, radii_j: Tensor, order: int) -> Jet:
        """Compute the transformed lengths (..., 1) and their derivatives by r up to an order.

        With `d = 1 + x^(q-p)`, the transform is `d / (d + a x^q)`.
        """
        x = r / (0.5 * (radii_i + radii_j))
        numerator = _power(x, self.q, r, order)
        d = _power(x, self.q - self.p, r, order)
        d[0] = 1 + d[0]
        total = [one + self.a * other for one, other in zip(d, numerator, strict=True)]
        reciprocal = [1 / total[0]]
        for n in range(1, order + 1):
            reciprocal.append(-n * reciprocal[-1] * reciprocal[0])
        return multiply(d, compose(reciprocal, total))


def _power(x: Tensor, exponent: Tensor, r: Tensor, order: int) -> Jet:
    """Compute `x^e` and its derivatives by r, where x is a multiple of r."""
    out = [x**exponent]
    for n in range(order):
        out.append((exponent - n) * out[-1] / r)
    return out


class Soft(nn.Module):
    """Soft transform: r at long range, and 3/4 of the sum of covalent radii at short range."""

    alpha: Tensor
    covalent_radii: Tensor

    def forward(self, r: Tensor, radii_i: Tensor, radii_j: Tensor, order: int) -> Jet:
        """Compute the transformed lengths (..., 1) and their derivatives by r up to an order."""
        bond = radii_i + radii_j
        inner, outer = 3 / 4 * bond, 4 / 3 * bond
        slope = self.alpha / (outer - inner)
        tanh = activation_derivatives(
            slope * (r - 0.5 * (inner + outer)), Activation("tanh"), order
        )
        step = [0.5 * t * slope**n for n, t in enumerate(tanh)]
        step[0] = 0.5 + step[0]
        one, zero = torch.ones_like(r), torch.zeros_like(r)
        out = multiply([r - inner, one, *[zero] * order][: order + 1], step)
        out[0] = inner + out[0]
        return out
