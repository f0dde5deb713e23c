"""Sums over the periodic images of pairs of atoms.

All images of a pair of atoms move together, so that the sum over them is a function of the three
components of `x_i - x_j`. Its derivatives are computed once and cached. A column of the Hessian
then costs as much as if each pair had one image.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mace_functional.autodiff.jets import Jet, jet_of
from mace_functional.autodiff.local import LocalFunction
from mace_functional.dispersion.images import PairImages


class ImageSum(LocalFunction):
    """Sum `y = sum_S g(|x + S cell|^2)` over the images S of each pair within a cutoff.

    Its arguments are `x = x_i - x_j` (rows, 3) and the cell (3, 3); its value is (rows, 1).

    Args:
        images: The rows of images.
        radial: Function g of squared distances (rows, width).
        cutoff: Largest distance, Å; images farther apart are left out.
    """

    def __init__(
        self, images: PairImages, radial: Callable[[Tensor], Tensor], cutoff: float
    ) -> None:
        self.images, self.radial, self.cutoff = images, radial, cutoff

    def value(self, x: Tensor, *rest: Tensor) -> Tensor:
        """Return the sums, (rows, 1)."""
        return self.jet(x, *rest, order=0)[1][0].sum(-1, keepdim=True)

    def jacobian(self, x: Tensor, *rest: Tensor) -> Tensor:
        """Return the Jacobian `dy/dx = sum_S 2 g' r`, (rows, 1, 3)."""
        return self.value_and_jacobian(x, *rest)[1]

    def value_and_jacobian(self, x: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sums, (rows, 1), and their Jacobian, (rows, 1, 3)."""
        r, (g, dg) = self.jet(x, *rest, order=1)
        return g.sum(-1, keepdim=True), 2 * (dg * r).sum(-1).T[:, None]

    def weighted_hessian(self, cotangent: Tensor, x: Tensor, *rest: Tensor) -> Tensor:
        """Return the Hessian `sum_S 4 g'' r r^T + 2 g' 1` times the cotangent, (rows, 3, 3)."""
        r, (_, dg, d2g) = self.jet(x, *rest, order=2)
        outer = (d2g * r).transpose(0, 1) @ r.permute(1, 2, 0)
        diagonal = dg.sum(-1)[:, None, None] * torch.eye(3, dtype=x.dtype, device=x.device)
        return cotangent[..., None] * (4 * outer + 2 * diagonal)

    def jet(self, x: Tensor, cell: Tensor, *, order: int) -> tuple[Tensor, Jet]:
        """Return the vectors r of the images, (3, rows, width), and `[g, g', ...]` by `r^2`."""
        unit_shifts = self.images.unit_shifts
        shifts = (cell.T @ unit_shifts.flatten(1)).view(unit_shifts.shape)
        r = x.T[..., None] + shifts
        r2 = (r * r).sum(0)
        inside = self.images.mask & (r2 <= self.cutoff**2)
        # Outside, any positive value will do: g is set to zero there, and must be finite.
        safe_r2 = torch.where(inside, r2, torch.full_like(r2, self.cutoff**2))
        return r, [g * inside for g in jet_of(self.radial, safe_r2, order)]
