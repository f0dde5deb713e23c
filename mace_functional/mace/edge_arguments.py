"""The chain rule from points, cell and features to lengths, couplings and features of the edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mace_functional.autodiff.primitive import Outputs
from mace_functional.autodiff.second_order import Primals, Tensors, Vectors
from mace_functional.mace.edge_coordinates import EdgePoint
from mace_functional.mace.messages import Path


def split_by_path(paths: Sequence[Path], flat: Tensor) -> list[Tensor]:
    """Split couplings (..., sum of all) into those of each path, (..., 2 l1+1, 2 l3+1)."""
    shapes = [(2 * path.l1 + 1, 2 * path.l3 + 1) for path in paths]
    parts = flat.split([m1 * m3 for m1, m3 in shapes], -1)
    return [t.unflatten(-1, shape) for t, shape in zip(parts, shapes, strict=True)]


@dataclass(frozen=True, eq=False)
class EdgeArguments:
    """Coordinates of the edges of a structure, and the arguments of its message passing.

    Attributes:
        paths: The paths.
        point: Coordinates of the edges.
        coupling: The map W from harmonics to couplings.
        primals: Arguments of the message passing: x are lengths, couplings and features.
    """

    paths: Sequence[Path]
    point: EdgePoint
    coupling: Tensor
    primals: Primals

    def along(self, v: Vectors) -> tuple[Tensor, Vectors]:
        """Compute n tangents of the edge vectors, (nodes, K, n, 3), and of r, T and h."""
        tensors = [t[None] if d is None else t.movedim(d, 0) for t, d in zip(*v, strict=True)]
        n = max(t.shape[0] for t in tensors)
        points, cell, *features = (t.expand(n, *t.shape[1:]) for t in tensors)
        dv = self.point.vectors_along(points.transpose(0, 1), cell)
        d_r_y = self.point.along(dv)
        couplings = split_by_path(self.paths, d_r_y[..., 1:] @ self.coupling)
        vectors = [d_r_y[..., :1], *couplings, *features]
        dims = [2] * (1 + len(couplings)) + [0] * len(features)
        return dv, Vectors(vectors, dims)

    def along_one(self, v: Tensors) -> tuple[Tensor, list[Tensor]]:
        """Compute the tangents of the edge vectors, (nodes, K, 1, 3), and of r, T and h."""
        dv, vectors = self.along(Vectors.single(v))
        pairs = zip(*vectors, strict=True)
        return dv, [t if dim is None else t.select(dim, 0) for t, dim in pairs]

    def pulled_back(self, phi: Tensors, bent: Tensor | None = None) -> Outputs:
        """Compute cotangents of points, cell and features from those of r, T and h.

        Args:
            phi: n cotangents of r, T and h; n is the first dimension.
            bent: Further cotangents of the edge vectors, (nodes, K, n, 3).
        """
        lengths, harmonics = self._r_y([t.movedim(0, 2) for t in phi])
        vectors = self.point.pulled_back(lengths, harmonics)
        points, cell = self.point.to_points(vectors if bent is None else vectors + bent)
        return (points, cell, *phi[1 + len(self.paths) :])

    def weighted_hessian(self, phi: Tensors) -> Tensor:
        """Compute `phi_r d2r/dv2 + phi_T d2T/dv2`, (nodes, K, 3, 3)."""
        return self.point.weighted_hessian(*self._r_y(phi))

    def moved_along(self, vectors: Tensor) -> EdgeArguments:
        """Return the arguments with the derivative of J along one dv, (nodes, K, 3), in place of J.

        Their `along` and `pulled_back` are the derivatives of these functions along dv.
        """
        return replace(self, point=replace(self.point, jacobian=self.point.jacobian_along(vectors)))

    def weighted_hessian_along(self, phi: Tensors, d_phi: Tensors, vectors: Tensor) -> Tensor:
        """Compute the derivative of the weighted Hessian along one dv, and of phi along d_phi."""
        moved = self.point.weighted_hessian_along(*self._r_y(phi), vectors)
        return self.weighted_hessian(d_phi) + moved

    def _r_y(self, phi: Tensors) -> tuple[Tensor, Tensor]:
        """Return the cotangents of lengths and harmonics, (nodes, K, ..., 1 or M)."""
        lengths, *couplings = phi[: 1 + len(self.paths)]
        return lengths, torch.cat([t.flatten(-2) for t in couplings], -1) @ self.coupling.mT
