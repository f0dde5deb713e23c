"""Lengths and spherical harmonics of all edges, as functions of points and cell.

An edge vector is linear in the points and the cell, `v = p_i - p_j + S cell`, so that

    along dp, dcell    dv = dp_i - dp_j + S dcell,  d(r, Y) = J dv,
    transposed         g_v = J^T (g_r, g_Y),  g_i += g_v,  g_j -= g_v,  g_cell += S^T g_v,

with the Jacobian J of `edge_geometry`. Edges that are padding, or longer than the cutoff, have
Y = 0 and J = 0. All layers of a model share the coordinates of one structure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mace_functional.autodiff.forward_mode import jvp
from mace_functional.autodiff.primitive import Memo
from mace_functional.autodiff.second_order import Strategy
from mace_functional.mace.edge_geometry import EdgeGeometry
from mace_functional.structure.species import gather
from mace_functional.structure.topology import EdgeList


@dataclass(frozen=True, eq=False)
class EdgePoint:
    """Coordinates of the edges of one structure or of several, and their derivatives.

    Attributes:
        geometry: Lengths and harmonics as a function of the edge vectors.
        edges: The edges.
        points: Number of points.
        structures: Number of structures.
        vectors: Edge vectors v, Å, (nodes, K, 3).
        within: 1 for edges within the cutoff, 0 for longer edges and padding, (nodes, K, 1).
        lengths: r, Å, (nodes, K, 1).
        harmonics: Y, 0 for masked edges, (nodes, K, M).
        jacobian: J, 0 for masked edges, (nodes, K, 1 + M, 3).
    """

    geometry: EdgeGeometry
    edges: EdgeList
    points: int
    structures: int
    vectors: Tensor
    within: Tensor
    lengths: Tensor
    harmonics: Tensor
    jacobian: Tensor

    def vectors_along(self, points: Tensor, cell: Tensor) -> Tensor:
        """Compute dv, (nodes, K, n, 3), along n vectors.

        Args:
            points: dp, (points, n, 3).
            cell: dcell, (n, 3 structures, 3).
        """
        edges = self.edges
        shifts = edges.shifts(cell.transpose(0, 1).flatten(1)).unflatten(-1, (-1, 3))
        nodes = points.index_select(0, edges.receivers)[:, None]
        return nodes - gather(points, edges.senders) + shifts

    def along(self, vectors: Tensor) -> Tensor:
        """Compute d(r, Y), (nodes, K, n, 1 + M), from dv, (nodes, K, n, 3)."""
        return vectors @ self.jacobian.mT

    def pulled_back(self, lengths: Tensor, harmonics: Tensor) -> Tensor:
        """Compute `J^T (g_r, g_Y)`, (nodes, K, n, 3), for n cotangents.

        Args:
            lengths: g_r, (nodes, K, n, 1).
            harmonics: g_Y, (nodes, K, n, M).
        """
        return torch.cat([lengths, harmonics], -1) @ self.jacobian

    def jacobian_along(self, vectors: Tensor) -> Tensor:
        """Compute the derivative of J, (nodes, K, 1 + M, 3), along one dv, (nodes, K, 3)."""
        jacobian = self.geometry.jacobian
        return jvp(jacobian, (self.vectors,), (vectors,))[1] * self.within[..., None]

    def to_points(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Add cotangents of the edge vectors (nodes, K, n, 3) up to those of points and cell.

        Returns:
            Cotangents (n, points, 3) and (n, 3 structures, 3).
        """
        edges, n = self.edges, vectors.shape[2]
        nodes = vectors.sum(1)
        total = vectors.new_zeros(self.points, n, 3).index_add(0, edges.receivers, nodes)
        total = total.index_add(0, edges.senders.reshape(-1), vectors.flatten(0, 1), alpha=-1)
        cell = edges.summed_shifts(vectors.flatten(2), self.structures)
        return total.transpose(0, 1), cell.unflatten(-1, (n, 3)).transpose(0, 1)

    def weighted_hessian(self, lengths: Tensor, harmonics: Tensor) -> Tensor:
        """Compute `g_r d2r/dv2 + g_Y d2Y/dv2`, (nodes, K, 3, 3), of one cotangent.

        Args:
            lengths: g_r, (nodes, K, 1).
            harmonics: g_Y, (nodes, K, M).
        """
        cotangent = torch.cat([lengths, harmonics], -1) * self.within
        return self.geometry.weighted_hessian(cotangent, self.vectors)

    def weighted_hessian_along(self, lengths: Tensor, harmonics: Tensor, vectors: Tensor) -> Tensor:
        """Compute the derivative of the weighted Hessian along one dv, (nodes, K, 3)."""
        cotangent = torch.cat([lengths, harmonics], -1) * self.within
        hessian = partial(self.geometry.weighted_hessian, cotangent)
        return jvp(hessian, (self.vectors,), (vectors,))[1]


class EdgeCoordinates:
    """Coordinates of the edges at any points and cell; those of the last ones are kept.

    Args:
        geometry: Lengths and harmonics as a function of the edge vectors.
    """

    def __init__(self, geometry: EdgeGeometry) -> None:
        self.geometry = geometry
        self.kept = Memo()
        self.several: defaultdict[tuple[Any, ...], Memo] = defaultdict(Memo)

    def joined(
        self, count: int, points: int, edges: EdgeList, mapped: Sequence[bool]
    ) -> tuple[EdgeCoordinates, EdgeList]:
        """Return coordinates, the same for all layers, and edges of several structures.

        Args:
            count: Number of structures.
            points: Number of points of each.
            edges: The edges; see `EdgeList.joined`.
            mapped: For each of their tensors, True if it differs between the structures.
        """
        memo = self.several[count, points, *mapped]
        joint: tuple[EdgeCoordinates, EdgeList] = memo.get_or_build(
            edges,
            lambda: (EdgeCoordinates(self.geometry), edges.joined(count, points, mapped)),
        )
        return joint

    def at(
        self, points: Tensor, cell: Tensor, edges: EdgeList, r_max: Tensor, strategy: Strategy
    ) -> EdgePoint:
        """Compute the coordinates and their derivatives.

        Args:
            points: Positions of the points, Å, (points, 3).
            cell: Lattice vectors, Å, (3, 3); of several structures, (3 structures, 3).
            edges: The edges.
            r_max: Cutoff radius, Å, ().
            strategy: Nothing is kept if it is "differentiable".
        """

        def compute() -> EdgePoint:
            vectors = edges.vectors(points, cell)
            values, jacobian = self.geometry.value_and_jacobian(vectors)
            lengths, harmonics = values[..., :1], values[..., 1:]
            within = ((lengths < r_max) & edges.mask[..., None]).to(lengths.dtype)
            harmonics, jacobian = harmonics * within, jacobian * within[..., None]
            return EdgePoint(
                self.geometry,
                edges,
                points.shape[0],
                cell.shape[0] // 3,
                vectors,
                within,
                lengths.contiguous(),
                harmonics,
                jacobian,
            )

        if strategy == "differentiable":
            return compute()
        return self.kept.get_or_build([points, cell, *edges, r_max], compute)
