"""Messages: neighbour features times radial weights, coupled with spherical harmonics, summed.

For a path p from sender features h of degree l1 to messages of degree l3, with a coupling T that
holds the harmonics of the edge and no channels, and radial weights R of the edge length r,

    A_p[i, c, u] = sum_{j, a} T_p[ij, a, c] R_p(r_ij)[u] h[j, a, u]:

one batched matrix product `[2 l3+1, K (2 l1+1)] @ [K (2 l1+1), channels]`. With cotangents g, the
potential `Phi(r, T, h, g) = sum_p g_p . A_p` has the gradient

    dPhi/dr = sum T * (R'h) g^T,    dPhi/dT = (R h) g^T,    dPhi/dh = R (T g),

and a Hessian that consists of such products with R, R' and R''. No tensor of size edges x harmonics
x channels is formed. The formulas take a slice of the nodes and any number of vectors;
`message_passing` chooses both.

Letters in the code:

    t, g, h                     T, g and h of one path
    weights                     R
    values, slopes, second      R h, R'h and R''h
    dr, dt, dh, r_dh            the parts of a vector v by r, T and h, and R dh
    phi_r, phi_t, phi_h         gradient of Phi
    phi_rr, phi_rt, phi_rh      second derivatives of Phi
    hv_r, hv_t, hv_h            the Hessian of Phi times v
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from mace_functional.autodiff.jets import Jet
from mace_functional.structure.species import gather


class Path(NamedTuple):
    """One coupling: features of degree l1 and harmonics of degree l2 give messages of degree l3.

    Attributes:
        source: Index of the features of the senders.
        l1: Degree of the features.
        l2: Degree of the spherical harmonics.
        l3: Degree of the messages.
        channels: Number of channels.
    """

    source: int
    l1: int
    l2: int
    l3: int
    channels: int


class Variables(NamedTuple):
    """The variables (r, T, h, g) of Phi, or vectors in their space.

    n vectors have one more dimension, of size n: the second of cotangents, else the last but one.

    Attributes:
        lengths: r, (nodes, K, 1).
        couplings: T of each path, (nodes, K, 2 l1+1, 2 l3+1).
        features: h of each irrep, (all senders, 2 l1+1, channels); of vectors also gathered for
            the edges, (nodes, K, 2 l1+1, n, channels).
        cotangents: g of each path, (nodes, 2 l3+1, channels); of vectors
            (nodes, n, 2 l3+1, channels).
    """

    lengths: Tensor
    couplings: Sequence[Tensor]
    features: Sequence[Tensor] = ()
    cotangents: Sequence[Tensor] = ()

    def of(self, rows: slice) -> Variables:
        """Return the variables of a slice of nodes, with the features of all senders."""
        couplings, cotangents = ([t[rows] for t in part] for part in (self[1], self[3]))
        return Variables(self.lengths[rows], couplings, self.features, cotangents)

    def unsqueezed(self) -> Variables:
        """Return a vector, with features gathered for the edges, as the only one of a batch."""
        couplings, features = ([t.unsqueeze(-2) for t in part] for part in self[1:3])
        cotangents = [g[:, None] for g in self.cotangents]
        return Variables(self.lengths.unsqueeze(-2), couplings, features, cotangents)


@dataclass(frozen=True, eq=False)
class _NodeTensors:
    """Lists of tensors whose first dimension is the nodes."""

    def of(self, rows: slice) -> Self:
        """Return the rows of a slice of nodes."""
        return self._map(lambda t: t[rows])

    def room_for(self, nodes: int) -> Self:
        """Allocate tensors of the same shapes for another number of nodes."""
        return self._map(lambda t: t.new_empty(nodes, *t.shape[1:]))

    def fill(self, rows: slice, block: Self) -> None:
        """Copy the rows of a slice of nodes into these tensors."""
        for f in fields(self):
            for whole, part in zip(getattr(self, f.name), getattr(block, f.name), strict=True):
                whole[rows] = part

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        return type(self)(*([function(t) for t in getattr(self, f.name)] for f in fields(self)))


@dataclass(frozen=True, eq=False)
class EdgeProducts(_NodeTensors):
    """Products on the edges that all cotangents and vectors share, one tensor for each path.

    A list is empty if the derivatives in question do not need it.

    Attributes:
        weights: R, (nodes, K, 1, channels).
        values: `R h`, (nodes, K (2 l1+1), channels).
        slopes: `R'h`, (nodes, K (2 l1+1), channels).
    """

    weights: list[Tensor]
    values: list[Tensor]
    slopes: list[Tensor]


class RadialJet(NamedTuple):
    """The radial weights R of a slice of nodes, with their derivatives by the length.

    Attributes:
        weights: R, (nodes, K, channels of all paths).
        slopes: R', of the same shape.
        second: X'' of `R'' = X'' W`, (nodes, K, inputs).
        matrix: W, (inputs, channels of all paths).
    """

    weights: Tensor
    slopes: Tensor
    second: Tensor
    matrix: Tensor


@dataclass(frozen=True, eq=False)
class MessageCurvature(_NodeTensors):
    """Second derivatives of Phi by r and another variable.

    A list is empty if the derivatives in question do not need it.

    Attributes:
        lengths: phi_rr, (nodes, K, 1); a list of one tensor.
        couplings: phi_rt of each path, (nodes, K, 2 l1+1, 2 l3+1).
        features: phi_rh of each irrep of the senders, (nodes, K, 2 l1+1, channels).
    """

    lengths: list[Tensor]
    couplings: list[Tensor]
    features: list[Tensor]


def edge_products(
    paths: Sequence[Path], x: Variables, senders: Tensor, radial: Jet, features: bool
) -> tuple[EdgeProducts, MessageCurvature]:
    """Compute the edge products and the curvature of a slice of nodes.

    The length of the jet decides: R gives the messages, R' the gradient, R'' the Hessian. Only with
    R'' is the curvature not empty.

    Args:
        paths: The paths.
        x: Variables of the nodes; cotangents are needed with R'' only.
        senders: Senders of the edges, (nodes, K).
        radial: Jet [R, R', R''] of the radial weights, (nodes, K, channels of all paths) each.
        features: True if derivatives by h are needed.
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
        return edges, MessageCurvature([], [], [])
    _, slopes, second = products
    phi_rr: Any = 0.0
    phi_rh: list[Any] = [None] * len(sent)
    phi_rt = []
    for p, path in enumerate(paths):
        t, g = x.couplings[p], x.cotangents[p]
        t_g = t.flatten(1, 2) @ g
        by_component = (second[p] * t_g).sum(-1).view(t.shape[:3])
        phi_rr = phi_rr + by_component.sum(-1, keepdim=True)
        phi_rt.append((slopes[p] @ g.mT).view(t.shape))
        if features:
            t_g = t_g.view(*t.shape[:3], -1)
            phi_rh[path.source] = add_product(phi_rh[path.source], weights[1][p], t_g)
    return edges, MessageCurvature([phi_rr], phi_rt, phi_rh if features else [])


def messages(x: Variables, edges: EdgeProducts) -> list[Tensor]:
    """Compute the messages of a slice of nodes, (nodes, 2 l3+1, channels) for each path."""
    return [t.flatten(1, 2).mT @ value for t, value in zip(x.couplings, edges.values, strict=True)]


def gradient(
    paths: Sequence[Path],
    x: Variables,
    edges: EdgeProducts,
    cotangents: Sequence[Tensor],
    features: bool,
) -> Variables:
    """Compute the gradient of Phi by r, T and optionally h, for a slice of nodes.

    Args:
        paths: The paths.
        x: Variables of the nodes; their cotangents are not used.
        edges: Edge products of the nodes; without `R h`, the gradient by T is left out.
        cotangents: n cotangents g of each path, (nodes, n, 2 l3+1, channels).
        features: True to include the gradient by h of the senders.
    """
    phi_r: Any = 0.0
    phi_t: list[Tensor] = []
    phi_h: list[Any] = [None] * len(x.features) if features else []
    for p, path in enumerate(paths):
        t, g = x.couplings[p], cotangents[p]
        shape = (*t.shape[:3], g.shape[1], t.shape[3])
        g_columns = g.flatten(1, 2).mT
        if edges.values:
            phi_t.append((edges.values[p] @ g_columns).view(shape))
        slopes_g = (edges.slopes[p] @ g_columns).view(shape)
        phi_r = phi_r + (t[..., None, :] * slopes_g).sum((2, 4))
        if features:
            t_g = (t.flatten(1, 2) @ g.transpose(1, 2).flatten(2)).view(*shape[:4], -1)
            total, weights = phi_h[path.source], edges.weights[p][..., None, :]
            phi_h[path.source] = add_product(total, weights, t_g)
    return Variables(phi_r[..., None], phi_t, phi_h)


def weight_features(paths: Sequence[Path], edges: EdgeProducts, v: Variables) -> list[Tensor]:
    """Compute `R dh` of each path, (nodes, K, 2 l1+1, n, channels); [] for vectors without dh.

    Args:
        paths: The paths.
        edges: Edge products of a slice of nodes.
        v: n vectors, with dh gathered for the edges.
    """
    if not v.features:
        return []
    pairs = zip(edges.weights, paths, strict=True)
    return [w[..., None, :] * v.features[path.source] for w, path in pairs]


def push_forward(
    x: Variables, edges: EdgeProducts, v: Variables, r_dh: Sequence[Tensor]
) -> list[Tensor]:
    """Compute the tangents of the messages, (nodes, n, 2 l3+1, channels) for each path.

    Args:
        x: Variables of a slice of nodes.
        edges: Edge products of the nodes; without `R h`, tangents along dt are left out.
        v: n vectors.
        r_dh: `R dh`, from `weight_features`.
    """
    dr = v.lengths[..., 0][:, :, None, :, None]
    out = []
    for p, (t, dt) in enumerate(zip(x.couplings, v.couplings, strict=True)):
        n, components = dt.shape[3:]
        dr_t = dr * t[..., None, :]
        tangent = dr_t.flatten(1, 2).flatten(2).mT @ edges.slopes[p]
        if edges.values:
            tangent = tangent + dt.flatten(1, 2).flatten(2).mT @ edges.values[p]
        tangent = tangent.view(-1, n, components, tangent.shape[-1])
        if r_dh:
            from_dh = t.flatten(1, 2).mT @ r_dh[p].flatten(1, 2).flatten(2)
            tangent = tangent + from_dh.view(-1, components, *tangent.shape[1::2]).transpose(1, 2)
        out.append(tangent)
    return out


class Weighted(NamedTuple):
    """Cotangents and radial weights, for the part of the Hessian that mixes T and h.

    Attributes:
        cotangents: g of each path, (nodes, 2 l3+1, channels).
        edges: Edge products with R.
        r_dh: `R dh`, from `weight_features`.
    """

    cotangents: Sequence[Tensor]
    edges: EdgeProducts
    r_dh: Sequence[Tensor]


def hessian(
    paths: Sequence[Path],
    curvature: MessageCurvature,
    v: Variables,
    terms: Sequence[Weighted],
    features: bool,
) -> Variables:
    """Compute the Hessian of Phi by r, T and h times vectors v, for a slice of nodes.

    Args:
        paths: The paths.
        curvature: Curvature of the nodes.
        v: n vectors without cotangents, with dh gathered for the edges.
        terms: Cotangents g and weights R, whose products are added up: one pair (g, R). The pairs
            (g, dR) and (dg, R), with the derivative of the curvature, give that of the Hessian.
        features: True to include the Hessian's rows of h of the senders.
    """
    dr = v.lengths[..., 0]
    hv_r = dr * curvature.lengths[0]
    dr = dr[:, :, None, :, None]
    hv_t = []
    hv_h = [dr * phi_rh[..., None, :] for phi_rh in curvature.features] if features else []
    for dh, phi_rh in zip(v.features, curvature.features, strict=bool(v.features)):
        hv_r = hv_r + (dh * phi_rh[..., None, :]).sum((2, 4))
    for dt, by_path in zip(v.couplings, curvature.couplings, strict=True):
        phi_rt = by_path[..., None, :]
        hv_r = hv_r + (dt * phi_rt).sum((2, 4))
        hv_t.append(dr * phi_rt)
    for cotangents, edges, r_dh in terms:
        for p, (path, g, dt) in enumerate(zip(paths, cotangents, v.couplings, strict=True)):
            if r_dh:
                hv_t[p] = hv_t[p] + (r_dh[p].flatten(1, 3) @ g.mT).view(dt.shape)
            if features:
                dt_g = (dt.flatten(1, 3) @ g).view(*dt.shape[:4], -1)
                total, weights = hv_h[path.source], edges.weights[p][..., None, :]
                hv_h[path.source] = add_product(total, weights, dt_g)
    return Variables(hv_r[..., None], hv_t, hv_h)


class _Along(NamedTuple):
    """Edge products of one path, and their derivatives along a vector.

    Attributes:
        weights: R, (nodes, K, 1, channels).
        d_weights: R' dr.
        slopes: R', (nodes, K, channels).
        values: `R h`, (nodes, K (2 l1+1), channels).
        d_values: `R' dr h + R dh`.
        matrix: W of the path, (inputs, channels).
    """

    weights: Tensor
    d_weights: Tensor
    slopes: Tensor
    values: Tensor
    d_values: Tensor
    matrix: Tensor


def _products_along(
    paths: Sequence[Path],
    sent: Sequence[Tensor],
    d_sent: Sequence[Tensor],
    radial: RadialJet,
    dr: Tensor,
) -> Iterator[_Along]:
    """Yield the edge products of each path, made when they are asked for."""
    widths = [path.channels for path in paths]
    parts = (t.split(widths, -1) for t in (radial.weights, radial.slopes, radial.matrix))
    for path, weights, slopes, matrix in zip(paths, *parts, strict=True):
        w, dw, h = weights[:, :, None], (dr * slopes)[:, :, None], sent[path.source]
        d_values = dw * h
        if d_sent:
            d_values = torch.addcmul(d_values, w, d_sent[path.source])
        values = (w * h).flatten(1, 2)
        yield _Along(w, dw, slopes, values, d_values.flatten(1, 2), matrix)


def messages_along(
    paths: Sequence[Path], x: Variables, senders: Tensor, radial: RadialJet, v: Variables
) -> tuple[list[Tensor], list[Tensor]]:
    """Compute the messages of a slice of nodes and their tangents along one vector.

    Args:
        paths: The paths.
        x: Variables of the nodes.
        senders: Senders of the edges, (nodes, K).
        radial: Radial weights of the nodes.
        v: The vector, in the shapes of x, without cotangents; without features if these are
            constant.
    """
    sent, d_sent = ([gather(h, senders) for h in part.features] for part in (x, v))
    values, tangents = [], []
    for p, e in enumerate(_products_along(paths, sent, d_sent, radial, v.lengths)):
        t, dt = x.couplings[p].flatten(1, 2).mT, v.couplings[p].flatten(1, 2).mT
        values.append(t @ e.values)
        tangents.append(torch.baddbmm(t @ e.d_values, dt, e.values))
    return values, tangents


def gradient_along(
    paths: Sequence[Path],
    x: Variables,
    senders: Tensor,
    radial: RadialJet,
    v: Variables,
    features: bool,
) -> tuple[Variables, Variables]:
    """Compute the gradient of Phi by r, T and optionally h, and its derivative along one vector.

    With q = sum_a h (T g), the gradient by r is R' q, and its derivative is
    `R' dq + dr X'' (W q)`: the product R'' q without R''.

    Args:
        paths: The paths.
        x: Variables of a slice of nodes, with cotangents g.
        senders: Senders of the edges, (nodes, K).
        radial: Radial weights of the nodes.
        v: The vector, in the shapes of x, with tangents of the cotangents; without features if
            these are constant.
        features: True to include the gradient by h of the senders.
    """
    sent, d_sent = ([gather(h, senders) for h in part.features] for part in (x, v))
    phi_r: Any = 0.0
    d_phi_r: Any = 0.0
    w_q: Any = 0.0
    phi_t, d_phi_t = [], []
    phi_h: list[Any] = [None] * len(sent) if features else []
    d_phi_h: list[Any] = list(phi_h)
    for p, e in enumerate(_products_along(paths, sent, d_sent, radial, v.lengths)):
        source = paths[p].source
        g, dg, t, dt = x.cotangents[p], v.cotangents[p], x.couplings[p], v.couplings[p]
        shape = (*t.shape[:3], -1)
        phi_t.append((e.values @ g.mT).view(t.shape))
        d_phi_t.append(torch.baddbmm(e.values @ dg.mT, e.d_values, g.mT).view(t.shape))
        t, dt = t.flatten(1, 2), dt.flatten(1, 2)
        t_g, d_t_g = (t @ g).view(shape), torch.baddbmm(t @ dg, dt, g).view(shape)
        q, dq = sent[source] * t_g, sent[source] * d_t_g
        if d_sent:
            dq = torch.addcmul(dq, d_sent[source], t_g)
        q, dq = (c[:, :, 0] if c.shape[2] == 1 else c.sum(2) for c in (q, dq))
        phi_r = phi_r + (e.slopes * q).sum(-1, keepdim=True)
        d_phi_r = d_phi_r + (e.slopes * dq).sum(-1, keepdim=True)
        w_q = w_q + q @ e.matrix.mT
        if features:
            phi_h[source] = add_product(phi_h[source], e.weights, t_g)
            d_phi_h[source] = add_product(d_phi_h[source], e.weights, d_t_g)
            d_phi_h[source] = torch.addcmul(d_phi_h[source], e.d_weights, t_g)
    d_phi_r = d_phi_r + v.lengths * (radial.second * w_q).sum(-1, keepdim=True)
    return Variables(phi_r, phi_t, phi_h), Variables(d_phi_r, d_phi_t, d_phi_h)


def add_product(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """Return `total + a b`; `a b` if total is None."""
    return a * b if total is None else torch.addcmul(total, a, b)
