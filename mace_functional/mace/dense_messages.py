"""Derivatives of the messages of a small structure, as matrices between all of its points.

In a small cell, several edges connect the same two points, and every node has nearly all points as
neighbours. Then it is cheaper to add the derivatives of all edges between two points once than to
pass every vector along every edge. With the rows x of points and cell, and features h,

    J = dA/dx,   M = dA/dh,   B = d2Phi/dx2,   Q = d2Phi/dx dh,

a vector (dx, dh) costs the matrix products

    push-forward        dA = J dx + M dh
    gradient            (J^T g, M^T g)
    Hessian             (B dx + Q dh, Q^T dx).

M is diagonal in the channels: one matrix for each. An edge of vector v contributes, with its
couplings T and radial weights R,

    dA/dv = dT/dv (R h) + dr/dv T (R'h),   dA/dh = T R,
    d2Phi/dv dh = dr/dv phi_rh + R (dT/dv g),
    d2Phi/dv2 = bending + phi_rr u u + u phi_rv + phi_rv u,    u = dr/dv, phi_rv = phi_rT dT/dv,

to the rows of its two points, with opposite signs, and to those of the cell.

For a Bloch wave (`EdgeList.factors`), every contribution of a sender is multiplied by the factor of
the edge. The matrices are then complex, or real if all factors are, and their transposes become
adjoints. `waves` has the layout of complex vectors. The cell does not take part in a wave: its rows
are zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mace_functional.autodiff.primitive import Outputs
from mace_functional.autodiff.second_order import Vectors
from mace_functional.mace.edge_arguments import EdgeArguments, split_by_path
from mace_functional.mace.edge_coordinates import EdgePoint
from mace_functional.mace.message_passing import MessagePassing, NodeBlock
from mace_functional.mace.messages import Path, Variables, gradient
from mace_functional.mace.waves import as_real, as_waves

MAX_BYTES = 2**28
"""Largest memory of the matrices of one layer."""
MAX_ROWS_PER_EDGE = 4
"""Largest number of rows of J per edge of a node. With 2, J has as many operations as the edges."""


def dense_pays(
    paths: Sequence[Path], points: int, senders: Tensor, features: bool, dtype: torch.dtype
) -> bool:
    """Return True if the matrices are small, and cheaper than passing vectors along the edges.

    Args:
        paths: The paths.
        points: Number of points.
        senders: Sender of each edge, (nodes, K).
        features: True if the features are differentiated.
        dtype: Type of the matrices.
    """
    rows, (nodes, neighbours) = 3 * points + 9, senders.shape
    outputs = sum((2 * path.l3 + 1) * path.channels for path in paths)
    inputs = sum((2 * path.l1 + 1) * (2 * path.l3 + 1) * path.channels for path in paths)
    numbers = nodes * (rows * outputs + points * inputs * features)
    few = rows <= MAX_ROWS_PER_EDGE * neighbours
    return few and numbers * dtype.itemsize <= MAX_BYTES


@dataclass(frozen=True, eq=False)
class LinearMatrices:
    """First derivatives of the messages.

    Attributes:
        paths: The paths.
        points: Number of points.
        by_rows: J of each path, (rows, nodes (2 l3+1) channels).
        by_features: M of each irrep of the senders, (channels, senders (2 l1+1), nodes,
            sum of 2 l3+1 over its paths); [] if features are not differentiated.
    """

    paths: Sequence[Path]
    points: int
    by_rows: list[Tensor]
    by_features: list[Tensor]

    def push_forward(self, v: Vectors) -> Outputs:
        """Compute the tangents of the messages, (n, nodes, 2 l3+1, channels) for each path."""
        rows, features = _rows(v, self.by_rows[0])
        out = [
            (rows @ j).view(len(rows), -1, 2 * path.l3 + 1, path.channels)
            for j, path in zip(self.by_rows, self.paths, strict=True)
        ]
        by_features = self.by_features if features else []
        for source, (dh, m) in enumerate(zip(features, by_features, strict=True)):
            mine = [p for p, path in enumerate(self.paths) if path.source == source]
            by_channel = dh.permute(3, 0, 1, 2).flatten(2) @ m.flatten(2)
            tangents = by_channel.unflatten(2, m.shape[2:]).permute(1, 2, 3, 0)
            widths = [2 * self.paths[p].l3 + 1 for p in mine]
            for p, tangent in zip(mine, tangents.split(widths, 2), strict=True):
                out[p] += tangent
        return as_real(out)

    def gradient(self, g: Vectors) -> Outputs:
        """Compute the gradients of Phi by points, cell and features, a batch in front."""
        n = next(t.shape[d] for t, d in zip(*g, strict=True) if d is not None)
        gs = [as_waves(_in_front(t, d, n), self.by_rows[0]) for t, d in zip(*g, strict=True)]
        first, *others = (w.flatten(1) @ j.mH for w, j in zip(gs, self.by_rows, strict=True))
        out = _by_points(sum(others, first), self.points)
        for source, m in enumerate(self.by_features):
            mine = [w for w, path in zip(gs, self.paths, strict=True) if path.source == source]
            by_channel = torch.cat(mine, 2).permute(3, 0, 1, 2).flatten(2) @ m.flatten(2).mH
            degree = next(path.l1 for path in self.paths if path.source == source)
            out = (*out, by_channel.unflatten(2, (-1, 2 * degree + 1)).permute(1, 2, 3, 0))
        return as_real(out)


@dataclass(frozen=True, eq=False)
class CurvatureMatrices:
    """Second derivatives of Phi.

    Attributes:
        points: Number of points.
        by_rows: B, (rows, rows).
        mixed: Q of each irrep of the senders, (rows, senders, 2 l1+1, channels); [] if features
            are not differentiated.
    """

    points: int
    by_rows: Tensor
    mixed: list[Tensor]

    def product(self, v: Vectors, optional: bool) -> Outputs:
        """Compute the Hessian of Phi times vectors, by points, cell and features if `optional`."""
        rows, features = _rows(v, self.by_rows)
        hv = rows @ self.by_rows.mT
        for dh, q in zip(features, self.mixed if features else [], strict=True):
            hv = hv + dh.flatten(1) @ q.flatten(1).mT
        out = _by_points(hv, self.points)
        if optional:
            by_features = (rows @ q.flatten(1).conj() for q in self.mixed)
            pairs = zip(by_features, self.mixed, strict=True)
            out = (*out, *(hv_h.unflatten(1, q.shape[1:]) for hv_h, q in pairs))
        return as_real(out)


def linear_matrices(passing: MessagePassing, at: EdgeArguments, features: bool) -> LinearMatrices:
    """Compute the first derivatives of a structure.

    Args:
        passing: The message passing.
        at: Coordinates of the edges and arguments of the message passing.
        features: True if the features are differentiated.
    """
    return _all_edges(passing, at, features, curvature=False).linear()


def all_matrices(
    passing: MessagePassing, at: EdgeArguments, features: bool
) -> tuple[LinearMatrices, CurvatureMatrices]:
    """Compute first and second derivatives; see `linear_matrices`. `at` must have cotangents."""
    matrices = _all_edges(passing, at, features, curvature=True)
    return matrices.linear(), matrices.curvature()


def _all_edges(
    passing: MessagePassing, at: EdgeArguments, features: bool, *, curvature: bool
) -> _EdgeSums:
    matrices = _EdgeSums(passing.paths, at, features, curvature)
    for block in passing.blocks(at.primals, 2 if curvature else 1, features):
        matrices.add(block)
    return matrices


class _EdgeSums:
    """The matrices as sums over edges, of one block of nodes after another."""

    def __init__(
        self, paths: Sequence[Path], at: EdgeArguments, features: bool, curvature: bool
    ) -> None:
        self.paths, self.at = paths, at
        sources, point = at.primals.x[1 + len(paths) :], at.point
        nodes, neighbours = point.edges.senders.shape
        self.rows, self.senders = 3 * point.points + 9, sources[0].shape[0]
        self.incidence, self.sent = _incidence(point, self.senders)
        new = partial(self.incidence.new_zeros, dtype=self.incidence.dtype)
        empty = partial(self.incidence.new_empty, dtype=self.incidence.dtype)
        self.j = [empty(self.rows, nodes, 2 * p.l3 + 1, p.channels) for p in paths]
        self.m, self.q, self.q_of_senders = [], [], []
        shape = nodes, neighbours, 3, 3
        self.second = point.vectors.new_zeros(shape) if curvature else None
        self.phi: list[Variables] = []
        for source, h in enumerate(sources if features else ()):
            width = sum(2 * path.l3 + 1 for path in paths if path.source == source)
            degrees, channels = h.shape[1:]
            self.m.append(empty(self.senders, degrees, nodes, width, channels))
            if curvature:
                self.q.append(new(self.rows, self.senders, degrees, channels))
                self.q_of_senders.append(new(self.senders, 3, degrees, channels))

    def add(self, block: NodeBlock) -> None:
        """Add the edges of a block of nodes."""
        jacobian = self.at.point.jacobian[block.rows]
        u = jacobian[..., 0, :]
        dts = split_by_path(self.paths, jacobian[..., 1:, :].mT @ self.at.coupling)
        if self.second is not None:
            self._add_curvature(block, u, dts)
        self._add_by_rows(block, u, dts)
        if self.m:
            self._add_by_features(block)
        if self.q:
            self._add_mixed(block, u, dts)

    def _add_by_rows(self, block: NodeBlock, u: Tensor, dts: Sequence[Tensor]) -> None:
        for p, dt in enumerate(dts):
            t = block.variables.couplings[p]
            u_t = u[..., None, None] * t[:, :, None]
            by_v = dt.new_zeros(())  # (nodes, K, 3, 2 l3+1, channels)
            for left, product in ((dt, block.edges.values[p]), (u_t, block.edges.slopes[p])):
                h = product.view(*t.shape[:3], 1, 1, -1)
                for a, one in enumerate(left[..., None].unbind(3)):
                    by_v = by_v.addcmul_(one, h[:, :, a]) if by_v.ndim else one * h[:, :, a]
            by_rows = _times(self.incidence[block.rows], by_v).permute(1, 2, 0, 3, 4)
            self.j[p].unflatten(0, (-1, 3))[:, :, block.rows] = by_rows

    def _add_by_features(self, block: NodeBlock) -> None:
        first = [0] * len(self.m)
        for p, path in enumerate(self.paths):
            t, weights = block.variables.couplings[p], block.edges.weights[p]
            place = slice(first[path.source], first[path.source] + t.shape[-1])
            first[path.source] = place.stop
            by_h = t[..., None] * weights[:, :, :, None]
            by_senders = _times(self.sent[block.rows], by_h).permute(1, 2, 0, 3, 4)
            self.m[path.source][:, :, block.rows, place] = by_senders

    def _add_curvature(self, block: NodeBlock, u: Tensor, dts: Sequence[Tensor]) -> None:
        assert self.second is not None
        x, curvature = block.variables, block.curvature
        pairs = zip(dts, curvature.couplings, strict=True)
        first, *others = ((dt * phi_rt[:, :, None]).sum((-2, -1)) for dt, phi_rt in pairs)
        phi_rv = sum(others, first)
        mixed = u[..., :, None] * phi_rv[..., None, :]
        phi_rr = curvature.lengths[0][..., None]
        self.second[block.rows] = phi_rr * u[..., :, None] * u[..., None, :] + mixed + mixed.mT
        g = [t[:, None] for t in x.cotangents]
        self.phi.append(gradient(self.paths, x, block.edges, g, features=False))

    def _add_mixed(self, block: NodeBlock, u: Tensor, dts: Sequence[Tensor]) -> None:
        sent, cell = self.sent[block.rows], self.incidence[block.rows, -3:]
        receivers = self.at.point.edges.receivers[block.rows]
        for source, q in enumerate(self.q):
            phi_rh = block.curvature.features[source]
            by_vh = u[..., None, None] * phi_rh[:, :, None]  # (nodes, K, 3, 2 l1+1, channels)
            for p, path in enumerate(self.paths):
                if path.source == source:
                    dt_g = (dts[p].flatten(1, 3) @ block.variables.cotangents[p]).view(by_vh.shape)
                    by_vh = torch.addcmul(by_vh, block.edges.weights[p][:, :, None], dt_g)
            by_points = q[:-9].unflatten(0, (-1, 3))
            by_points.index_add_(0, receivers, _times(sent, by_vh).transpose(1, 2))
            self.q_of_senders[source] -= _times(sent.conj() * sent, by_vh).sum(0)
            for a in range(3):
                by_cell = _times(cell[:, a, None] * sent, by_vh).sum(0)
                q[-9:][3 * a : 3 * a + 3] += by_cell.transpose(0, 1)

    def linear(self) -> LinearMatrices:
        """Return the first derivatives."""
        by_rows = [j.flatten(1) for j in self.j]
        by_features = [  # channels in front: one transposition of a large matrix is fast
            m.flatten(0, 3).mT.contiguous().view(-1, m.shape[:2].numel(), *m.shape[2:4])
            for m in self.m
        ]
        return LinearMatrices(self.paths, self.at.point.points, by_rows, by_features)

    def curvature(self) -> CurvatureMatrices:
        """Return the second derivatives."""
        point = self.at.point
        phi = [(phi.lengths, *phi.couplings) for phi in self.phi]
        bending = self.at.weighted_hessian(
            [torch.cat(t).squeeze(-2) for t in zip(*phi, strict=True)]
        )
        for q, by_senders in zip(self.q, self.q_of_senders, strict=True):
            by_points = q[:-9].unflatten(0, (-1, 3))[: self.senders]
            by_points.diagonal(dim1=0, dim2=2).add_(by_senders.permute(1, 2, 3, 0))
        assert self.second is not None
        second = (self.second + bending).flatten(2)  # (nodes, K, 9)
        by_edge = self.incidence.mT[..., None] * second[:, :, None]
        every = self.incidence.transpose(0, 1).flatten(1)  # (points + 3, all edges)
        by_rows = every.conj() @ by_edge.flatten(0, 1).flatten(1)
        by_rows = by_rows.unflatten(1, (-1, 3, 3)).permute(0, 2, 1, 3)
        return CurvatureMatrices(point.points, by_rows.reshape(self.rows, self.rows), self.q)


def _incidence(point: EdgePoint, senders: int) -> tuple[Tensor, Tensor]:
    """Return how edge vectors depend on points and cell, and the senders of edges.

    Returns:
        Derivative of `v = p_i - f p_j + S cell` by points and by the rows of the cell, with the
        factor f of a wave, (nodes, points + 3, K); f at the sender of each edge, (nodes, senders,
        K).
    """
    edges, place = point.edges, torch.arange(point.points, device=point.vectors.device)
    cell, dtype = edges.unit_shifts, point.vectors.dtype
    receiver = (edges.receivers[:, None] == place).to(dtype)[:, None]
    sender = (edges.senders[..., None] == place).to(dtype)
    if edges.factors is not None:
        sender, cell = sender * edges.factors[..., None], torch.zeros_like(cell)
    incidence = torch.cat([receiver - sender, cell.to(sender.dtype)], -1)
    return incidence.mT, sender[..., :senders].mT


def _times(matrices: Tensor, by_edge: Tensor) -> Tensor:
    """Multiply matrices (nodes, any, K), which may be complex, by real values (nodes, K, ...)."""
    flat = by_edge.flatten(2)
    if matrices.is_complex():
        product = torch.complex(matrices.real @ flat, matrices.imag @ flat)
    else:
        product = matrices @ flat
    return product.unflatten(2, by_edge.shape[2:])


def _rows(v: Vectors, matrix: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return n vectors as rows (n, 3 points + 9) and features (n, senders, 2 l1+1, channels)."""
    n = next(t.shape[d] for t, d in zip(*v, strict=True) if d is not None)
    parts = (as_waves(_in_front(t, d, n), matrix) for t, d in zip(*v, strict=True))
    points, cell, *features = parts
    return torch.cat([points.flatten(1), cell.flatten(1)], 1), features


def _in_front(t: Tensor, dim: int | None, n: int) -> Tensor:
    return t.expand(n, *t.shape) if dim is None else t.movedim(dim, 0)


def _by_points(rows: Tensor, points: int) -> Outputs:
    """Split rows (n, 3 points + 9) into those of points (n, points, 3) and cell (n, 3, 3)."""
    return rows[:, :-9].unflatten(1, (points, 3)), rows[:, -9:].unflatten(1, (3, 3))
