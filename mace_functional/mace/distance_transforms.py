"""Transforms of a length by the covalent radii of both atoms, applied before the radial basis."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Agnesi(nn.Module):
    """Agnesi transform, `1 / (1 + a x^q / (1 + x^(q-p)))`, `x = 2 r / (R_i + R_j)`.

    Source: Witt et al., J. Chem. Phys. 159, 164101 (2023).
    """

    q: Tensor
    p: Tensor
    a: Tensor
    covalent_radii: Tensor

    def forward(self, r: Tensor, radii_i: Tensor, radii_j: Tensor) -> Tensor:
        """Compute the transformed lengths, (..., 1)."""
        x = r / (0.5 * (radii_i + radii_j))
        return 1 / (1 + self.a * x**self.q / (1 + x ** (self.q - self.p)))


class Soft(nn.Module):
    """Soft transform: r at long range, and 3/4 of the sum of covalent radii at short range."""

    alpha: Tensor
    covalent_radii: Tensor

    def forward(self, r: Tensor, radii_i: Tensor, radii_j: Tensor) -> Tensor:
        """Compute the transformed lengths, (..., 1)."""
        bond = radii_i + radii_j
        inner, outer = 3 / 4 * bond, 4 / 3 * bond
        step = 0.5 * (1 + torch.tanh(self.alpha / (outer - inner) * (r - 0.5 * (inner + outer))))
        return inner + (r - inner) * step
