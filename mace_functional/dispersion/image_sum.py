"""Sums over the periodic images of pairs of atoms.

A pair of atoms has many images, but in one cell they move as one: the sum over them is a function
of three numbers, `x_i - x_j`. Its derivatives by these are computed once and kept, so that a column
of the Hessian costs as much as if each pair had one image.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mace_functional.autodiff.jets import Jet, jet_of
from mace_functional.autodiff.local import LocalFunction
from mace_functional.dispersion.images import PairImages


class ImageSum(LocalFunction):
    """`y = sum_S g(|x + S cell|^2)` over the images S within a cutoff.

    Called with `x = x_i - x_j` (rows, 3) and the cell (3, 3), it gives (rows, 1).

    Args:
        images: The rows.
        radial: g, a function of squared distances (rows, width).
        cutoff: Å; images at larger distances are left out.
    """

    def __init__(
        self, images: PairImages, radial: Callable[[Tensor], Tensor], cutoff: float
    ) -> None:
        self.images, self.radial, self.cutoff = images, radial, cutoff

    def value(self, x: Tensor, *rest: Tensor) -> Tensor:
        """The sums, (rows, 1)."""
        return self.jet(x, *rest, order=0)[1][0].sum(-1, keepdim=True)

    def jacobian(self, x: Tensor, *rest: Tensor) -> Tensor:
        """`sum_S 2 g' r`, (rows, 1, 3)."""
        return self.value_and_jacobian(x, *rest)[1]

    def value_and_jacobian(self, x: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        """Value and Jacobian."""
        vectors, (g, slope) = self.jet(x, *rest, order=1)
        return g.sum(-1, keepdim=True), 2 * (slope * vectors).sum(-1).T[:, None]

    def weighted_hessian(self, cotangent: Tensor, x: Tensor, *rest: Tensor) -> Tensor:
        """`sum_S 4 g'' r r^T + 2 g' 1`, times the cotangent, (rows, 3, 3)."""
        vectors, (_, slope, bend) = self.jet(x, *rest, order=2)
        along = (bend * vectors).transpose(0, 1) @ vectors.permute(1, 2, 0)
        across = slope.sum(-1)[:, None, None] * torch.eye(3, dtype=x.dtype, device=x.device)
        return cotangent[..., None] * (4 * along + 2 * across)

    def jet(self, x: Tensor, cell: Tensor, *, order: int) -> tuple[Tensor, Jet]:
        """Vectors of the images (3, rows, width), and `[g, g', ...]` by `r^2` of each."""
        unit_shifts = self.images.unit_shifts
        shifts = (cell.T @ unit_shifts.flatten(1)).view(unit_shifts.shape)
        vectors = x.T[..., None] + shifts
        squared = (vectors * vectors).sum(0)
        inside = self.images.mask & (squared <= self.cutoff**2)
        harmless = torch.where(inside, squared, torch.full_like(squared, self.cutoff**2))
        return vectors, [g * inside for g in jet_of(self.radial, harmless, order)]
