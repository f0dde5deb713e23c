"""Messages: neighbour features times radial weights, coupled with spherical harmonics, summed.

For a path p from sender features h of degree l1 to messages of degree l3, with a coupling T that
holds the harmonics of the edge and no channels, and radial weights R of the edge length r,

    A_p[i, c, u] = sum_{j, a} T_p[ij, a, c] R_p(r_ij)[u] h[j, a, u]:

one batched matrix product `[2 l3+1, K (2 l1+1)] @ [K (2 l1+1), channels]`. With cotangents g, the
potential `Phi(r, T, h, g) = sum_p g_p . A_p` has the gradient

    dPhi/dr = sum T * (R'h) g^T,    dPhi/dT = (R h) g^T,    dPhi/dh = R (T g),

and its second derivatives are a symmetric map, made of products with the same `R h` and `R'h`.
Nothing of size edges x harmonics x channels is formed. The formulas here are for some of the nodes
at a time and for many vectors at once; `message_passing` says for which, and when.

In the code t, g, h are T, g, h of a path; dr, dt, dh are those of a vector; and phi_rr, phi_rt,
phi_rh second derivatives of Phi.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from mace_functional.autodiff.jets import Jet
from mace_functional.structure.species import gather


class Path(NamedTuple):
    """One coupling: features `source` (degree l1) with harmonics l2 into messages of degree l3."""

    source: int
    l1: int
    l2: int
    l3: int
    channels: int


class Variables(NamedTuple):
    """The variables of Phi, or vectors in their space.

    Vectors have one more dimension, for their number, before the last.

    Attributes:
        lengths: (nodes, K, 1).
        couplings: For each path, (nodes, K, 2 l1+1, 2 l3+1).
        features: For each irrep of the senders, (all senders, 2 l1+1, channels); those of vectors
            may be gathered, (nodes, K, 2 l1+1, number, channels).
        cotangents: For each path, (nodes, 2 l3+1, channels); vectors have their number first,
            (nodes, number, 2 l3+1, channels).
    """

    lengths: Tensor
    couplings: Sequence[Tensor]
    features: Sequence[Tensor] = ()
    cotangents: Sequence[Tensor] = ()

    def of(self, rows: slice) -> Variables:
        """Variables of some nodes, with the features of all, which may be their senders."""
        couplings, cotangents = ([t[rows] for t in part] for part in (self[1], self[3]))
        return Variables(self.lengths[rows], couplings, self.features, cotangents)


@dataclass(frozen=True, eq=False)
class _OfNodes:
    """Lists of tensors with the nodes in front."""

    def of(self, rows: slice) -> Self:
        """Rows of some nodes."""
        return self._map(lambda t: t[rows])

    def room_for(self, nodes: int) -> Self:
        """Tensors of the same kind for a number of nodes, not filled."""
        return self._map(lambda t: t.new_empty(nodes, *t.shape[1:]))

    def fill(self, rows: slice, block: Self) -> None:
        """Copy a block of nodes to its place."""
        for f in fields(self):
            for whole, part in zip(getattr(self, f.name), getattr(block, f.name), strict=True):
                whole[rows] = part

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        return type(self)(*([function(t) for t in getattr(self, f.name)] for f in fields(self)))


@dataclass(frozen=True, eq=False)
class EdgeProducts(_OfNodes):
    """Products that all cotangents and vectors share, for each path; empty where not asked for.

    Attributes:
        weights: R, (nodes, K, 1, channels).
        values: `R h`, (nodes, K (2 l1+1), channels).
        slopes: `R'h`.
    """

    weights: list[Tensor]
    values: list[Tensor]
    slopes: list[Tensor]


@dataclass(frozen=True, eq=False)
class Curvature(_OfNodes):
    """Second derivatives of Phi by r and something else; empty where not asked for.

    Attributes:
        lengths: By r twice, (nodes, K, 1); one.
        couplings: By r and T, for each path (nodes, K, 2 l1+1, 2 l3+1).
        features: By r and h of the sender, for each irrep (nodes, K, 2 l1+1, channels).
    """

    lengths: list[Tensor]
    couplings: list[Tensor]
    features: list[Tensor]


def edge_products(
    paths: Sequence[Path], x: Variables, senders: Tensor, radial: Jet, features: bool
) -> tuple[EdgeProducts, Curvature]:
    """Products of radial weights and features at some nodes, and second derivatives by r.

    As far as the jet goes: with R' all that the gradient needs, with R'' the Hessian too.

    Args:
        paths: The paths.
        x: Variables of these nodes; cotangents only where the curvature is asked for.
        senders: Their senders, (nodes, K).
        radial: Jet of the radial weights, (nodes, K, all channels).
        features: Whether derivatives by the features will be taken.
    """
    widths = [path.channels for path in paths]
    sent = [gather(h, senders) for h in x.features]
    weights = [[w[:, :, None] for w in jet.split(widths, -1)] for jet in radial]
    products = [
        [(w * sent[path.source]).flatten(1, 2) for w, path in zip(ws, paths, strict=True)]
        for ws in weights
    ]
    edges = EdgeProducts(weights[0] if features else [], *[*products, []][:2])
    if len(radial) < 3:
        return edges, Curvature([], [], [])
    _, slopes, curves = products
    phi_rr: Any = 0.0
    phi_rh: list[Any] = [None] * len(sent)
    phi_rt = []
    for p, path in enumerate(paths):
        t, g = x.couplings[p], x.cotangents[p]
        t_g = t.flatten(1, 2) @ g
        by_component = (curves[p] * t_g).sum(-1).view(t.shape[:3])
        phi_rr = phi_rr + by_component.sum(-1, keepdim=True)
        phi_rt.append((slopes[p] @ g.mT).view(t.shape))
        if features:
            t_g = t_g.view(*t.shape[:3], -1)
            phi_rh[path.source] = _add_product(phi_rh[path.source], weights[1][p], t_g)
    return edges, Curvature([phi_rr], phi_rt, phi_rh if features else [])


def messages(x: Variables, edges: EdgeProducts) -> list[Tensor]:
    """Messages of some nodes, (nodes, 2 l3+1, channels) for each path."""
    return [t.flatten(1, 2).mT @ value for t, value in zip(x.couplings, edges.values, strict=True)]


def gradient(
    paths: Sequence[Path],
    x: Variables,
    edges: EdgeProducts,
    cotangents: Sequence[Tensor],
    features: bool,
) -> Variables:
    """Gradients of Phi at some nodes by r, T and, if asked, h of the senders.

    Args:
        paths: The paths.
        x: Variables of these nodes, of which the cotangents are not looked at.
        edges: Their edge products.
        cotangents: Any number of them for each path, (nodes, number, 2 l3+1, channels).
        features: Whether the gradient by h is wanted.
    """
    to_lengths: Any = 0.0
    to_couplings: list[Tensor] = []
    to_features: list[Any] = [None] * len(x.features) if features else []
    for p, path in enumerate(paths):
        t, g = x.couplings[p], cotangents[p]
        shape = (*t.shape[:3], g.shape[1], t.shape[3])
        columns = g.flatten(1, 2).mT
        to_couplings.append((edges.values[p] @ columns).view(shape))
        slopes_g = (edges.slopes[p] @ columns).view(shape)
        to_lengths = to_lengths + (t[..., None, :] * slopes_g).sum((2, 4))
        if features:
            t_g = (t.flatten(1, 2) @ g.transpose(1, 2).flatten(2)).view(*shape[:4], -1)
            total, weights = to_features[path.source], edges.weights[p][..., None, :]
            to_features[path.source] = _add_product(total, weights, t_g)
    return Variables(to_lengths[..., None], to_couplings, to_features)


def weighted(paths: Sequence[Path], edges: EdgeProducts, v: Variables) -> list[Tensor]:
    """Radial weights times the features of vectors, for each path; empty where there are none.

    Args:
        paths: The paths.
        edges: Edge products of some nodes.
        v: Vectors, with the features of the senders of each edge.
    """
    if not v.features:
        return []
    pairs = zip(edges.weights, paths, strict=True)
    return [w[..., None, :] * v.features[path.source] for w, path in pairs]


def push_forward(
    x: Variables, edges: EdgeProducts, v: Variables, moved: Sequence[Tensor]
) -> list[Tensor]:
    """Change of the messages along vectors, (nodes, number, 2 l3+1, channels) for each path.

    Args:
        x: Variables of some nodes.
        edges: Their edge products.
        v: Vectors.
        moved: Their features times the radial weights, from `weighted`.
    """
    dr = v.lengths[..., 0][:, :, None, :, None]
    out = []
    for p, (t, dt) in enumerate(zip(x.couplings, v.couplings, strict=True)):
        number, components = dt.shape[3:]
        dr_t = dr * t[..., None, :]
        change = dt.flatten(1, 2).flatten(2).mT @ edges.values[p]
        change = change + dr_t.flatten(1, 2).flatten(2).mT @ edges.slopes[p]
        change = change.view(-1, number, components, change.shape[-1])
        if moved:
            by_dh = t.flatten(1, 2).mT @ moved[p].flatten(1, 2).flatten(2)
            change = change + by_dh.view(-1, components, *change.shape[1::2]).transpose(1, 2)
        out.append(change)
    return out


def hessian(
    paths: Sequence[Path],
    x: Variables,
    edges: EdgeProducts,
    curvature: Curvature,
    v: Variables,
    moved: Sequence[Tensor],
    features: bool,
) -> Variables:
    """Second derivatives of Phi by r, T and, if asked, h of the senders, times vectors v.

    Args:
        paths: The paths.
        x: Variables of some nodes.
        edges: Their edge products.
        curvature: Their curvature.
        v: Vectors without cotangents, with the features of the senders of each edge.
        moved: Their features times the radial weights, from `weighted`.
        features: Whether the result by h of the senders is wanted.
    """
    dr = v.lengths[..., 0]
    to_lengths = dr * curvature.lengths[0]
    dr = dr[:, :, None, :, None]
    to_couplings = []
    to_features = [dr * phi_rh[..., None, :] for phi_rh in curvature.features] if features else []
    for dh, phi_rh in zip(v.features, curvature.features, strict=bool(moved)):
        to_lengths = to_lengths + (dh * phi_rh[..., None, :]).sum((2, 4))
    for p, path in enumerate(paths):
        g, dt = x.cotangents[p], v.couplings[p]
        phi_rt = curvature.couplings[p][..., None, :]
        to_lengths = to_lengths + (dt * phi_rt).sum((2, 4))
        to_coupling = dr * phi_rt
        if moved:
            to_coupling = to_coupling + (moved[p].flatten(1, 3) @ g.mT).view(dt.shape)
        to_couplings.append(to_coupling)
        if features:
            dt_g = (dt.flatten(1, 3) @ g).view(*dt.shape[:4], -1)
            total, weights = to_features[path.source], edges.weights[p][..., None, :]
            to_features[path.source] = _add_product(total, weights, dt_g)
    return Variables(to_lengths[..., None], to_couplings, to_features)


def _add_product(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """`total + a b`."""
    return a * b if total is None else torch.addcmul(total, a, b)
