"""Derivatives of the gradient and of the Hessian of `messages`, as the variables move.

Let the variables (r, T, h, g) of Phi move along a single vector w. The edge products and the
curvature then have the derivatives

    d(R h) = R' dr h + R dh,    d(R'h) = R'' dr h + R' dh,    d(R''h) = R''' dr h + R'' dh,
    d phi_rr = d(R''h) (T g) + R''h d(T g),                   d(T g) = dT g + T dg,
    d phi_rt = d(R'h) g^T + (R'h) dg^T,    d phi_rh = R'' dr (T g) + R' d(T g).

Messages, gradient and Hessian are linear in these, and in T and g, so the formulas of `messages`
give their derivatives too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mace_functional.autodiff.jets import Jet
from mace_functional.mace.messages import (
    EdgeProducts,
    MessageCurvature,
    Path,
    Variables,
    add_product,
    gradient,
    push_forward,
)
from mace_functional.structure.species import gather


def edge_products_along(
    paths: Sequence[Path],
    x: Variables,
    w: Variables,
    senders: Tensor,
    radial: Jet,
    features: bool,
) -> tuple[EdgeProducts, MessageCurvature]:
    """Compute the derivatives of `edge_products` along w.

    The jet has one derivative more than that of `edge_products`: R''' gives the derivatives of the
    curvature, which is empty without it.

    Args:
        paths: The paths.
        x: Variables of a slice of nodes; cotangents are needed with R''' only.
        w: A single vector in the shapes of x; without features or cotangents if these are constant.
        senders: Senders of the edges, (nodes, K).
        radial: Jet [R, R', R'', R'''] of the radial weights, (nodes, K, channels of all paths).
        features: True if derivatives by h are needed.
    """
    widths = [path.channels for path in paths]
    sent, d_sent = ([gather(h, senders) for h in part.features] for part in (x, w))
    weights = [[r[:, :, None] for r in jet.split(widths, -1)] for jet in radial]
    dr = w.lengths[:, :, None]
    d_weights = [[dr * r for r in jet] for jet in weights[1:]]
    products = [
        [
            _sent_along(r, d_r, sent[path.source], d_sent[path.source] if d_sent else None)
            for r, d_r, path in zip(*both, paths, strict=True)
        ]
        for both in zip(weights[:-1], d_weights, strict=True)
    ]
    edges = EdgeProducts(d_weights[0] if features else [], *products[:2])
    if len(radial) < 4:
        return edges, MessageCurvature([], [], [])
    phi_rr: Any = 0.0
    phi_rh: list[Any] = [None] * len(sent)
    phi_rt = []
    for p, path in enumerate(paths):
        t, dt, g, h = x.couplings[p], w.couplings[p], x.cotangents[p], sent[path.source]
        slopes, second = ((weights[k][p] * h).flatten(1, 2) for k in (1, 2))
        t_g, d_t_g = t.flatten(1, 2) @ g, dt.flatten(1, 2) @ g
        rt = edges.slopes[p] @ g.mT
        if w.cotangents:
            dg = w.cotangents[p]
            d_t_g = torch.baddbmm(d_t_g, t.flatten(1, 2), dg)
            rt = torch.baddbmm(rt, slopes, dg.mT)
        by_component = torch.addcmul(products[2][p] * t_g, second, d_t_g).sum(-1)
        phi_rr = phi_rr + by_component.view(t.shape[:3]).sum(-1, keepdim=True)
        phi_rt.append(rt.view(t.shape))
        if features:
            for r, product in (d_weights[1][p], t_g), (weights[1][p], d_t_g):
                by_edge = product.view(*t.shape[:3], -1)
                phi_rh[path.source] = add_product(phi_rh[path.source], r, by_edge)
    return edges, MessageCurvature([phi_rr], phi_rt, phi_rh if features else [])


def _sent_along(r: Tensor, d_r: Tensor, h: Tensor, dh: Tensor | None) -> Tensor:
    """Compute `d(R h)`, (nodes, K (2 l1+1), channels), from R and h of the edges."""
    product = d_r * h
    return (product if dh is None else torch.addcmul(product, r, dh)).flatten(1, 2)


def pull_back_along(
    paths: Sequence[Path],
    x: Variables,
    w: Variables,
    edges: EdgeProducts,
    d_edges: EdgeProducts,
    cotangents: Sequence[Tensor],
    features: bool,
) -> Variables:
    """Compute the derivative of `gradient` along w, for n cotangents.

    Args:
        paths: The paths.
        x: Variables of a slice of nodes; their cotangents are not used.
        w: A single vector in the shapes of x.
        edges: Edge products of the nodes.
        d_edges: Their derivatives along w.
        cotangents: n cotangents g of each path, (nodes, n, 2 l3+1, channels).
        features: True to include the gradient by h of the senders.
    """
    moved = x._replace(couplings=w.couplings)
    one = gradient(paths, x, d_edges, cotangents, features)
    other = gradient(paths, moved, replace(edges, values=[]), cotangents, features)
    phi_h = [a + b for a, b in zip(one.features, other.features, strict=True)]
    return Variables(one.lengths + other.lengths, one.couplings, phi_h)


def push_forward_along(
    x: Variables,
    w: Variables,
    edges: EdgeProducts,
    d_edges: EdgeProducts,
    v: Variables,
    r_dh: Sequence[Tensor],
    d_r_dh: Sequence[Tensor],
) -> list[Tensor]:
    """Compute the derivative of `push_forward` along w, for n vectors v.

    Args:
        x: Variables of a slice of nodes.
        w: A single vector in the shapes of x.
        edges: Edge products of the nodes.
        d_edges: Their derivatives along w.
        v: n vectors.
        r_dh: R times the part of v by h, from `weight_features`.
        d_r_dh: Its derivative along w.
    """
    moved = x._replace(couplings=w.couplings)
    one = push_forward(x, d_edges, v, d_r_dh)
    other = push_forward(moved, replace(edges, values=[]), v, r_dh)
    return [a + b for a, b in zip(one, other, strict=True)]
