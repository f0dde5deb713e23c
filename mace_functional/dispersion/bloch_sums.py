r"""D3 in a Bloch wave: force constants at a wave vector, in closed form.

A wave moves atom k of cell R by `u_k exp(2 pi i q.R)`. With the sums over images

    G_ij(q) = sum_S g(r_ijS) exp(-2 pi i q.S),    r_ijS = x_i - x_j + S cell

of the damped attraction g and likewise H of the counting function h, and their derivatives G', G''
and H', H'' by r, the coordination numbers change by dn, the forces on them, p, by M and W,

    dn_i,kb = delta_ik sum_j H'_ij(0)_b - H'_ik(q)_b
    M_i,kb  = delta_ik sum_j C_ij G'_ij(0)_b - C_ik G'_ik(q)_b,             C_ij = dC6_ij / dn_i
    W_ij    = delta_ij sum_k C6_ik,ii G_ik(0) + C6_ij,ij G_ij(q)            (second derivatives)
    A_ij    = delta_ij sum_k X_ik(0) - X_ij(q),   X_ij = C6_ij G''_ij + (p_i + p_j) H''_ij

with `p_i = sum_j C_ij G_ij(0)`, so that

    sum_R Phi(0j, Rk) exp(2 pi i q.R) = -(A + M^H dn + dn^H M + dn^H W dn)_jk.

The sums run over all images at once: the long cutoff costs one pass over the pairs for each q, and
nothing that grows with the coupling of coordination numbers over twice the cutoff.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mace_functional.autodiff.jets import jet_of
from mace_functional.dispersion.d3 import (
    counting,
    damping,
    pair_coefficients,
    reference_weights,
)
from mace_functional.dispersion.image_sum import ImageSum
from mace_functional.dispersion.images import PairImages
from mace_functional.dispersion.pairs import D3Pairs


class Derivatives(NamedTuple):
    """A function of the distance and its derivatives by the vector between two atoms.

    Of each image (rows, k, width), with k = 1, 3, 9, or summed over images, (N, N, k).
    """

    value: Tensor
    gradient: Tensor
    curvature: Tensor


def d3_force_constants_at(graph: D3Pairs) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Force constants of D3 at any wave vector, as a pure function.

    Args:
        graph: Pairs and data of the crystal.

    Returns:
        `(q, positions, cell)`, with q (3,) in units of the reciprocal lattice vectors, to
        `sum_R Phi(0j, Rk) exp(2 pi i q.R)`, complex (3N, 3N) in eV/Å². Shapes are not checked.
    """
    reference = graph.reference
    size = len(reference.kinds)
    counts, attractions = counting(graph), damping(graph)

    def force_constants(q: Tensor, positions: Tensor, cell: Tensor) -> Tensor:
        h0, h = _at_rest_and_in_wave(counts, q, positions, cell)
        g0, g = _at_rest_and_in_wave(attractions, q, positions, cell)
        coordination = h0.value.real.sum(1)
        w, slope, bend = jet_of(lambda n: reference_weights(reference, n), coordination, 2)
        c6, by_one, by_both, by_one_twice = (
            pair_coefficients(reference, *weights)[..., None].to(g.value)
            for weights in ((w, w), (slope, w), (slope, slope), (bend, w))
        )
        p = (by_one * g0.value).sum(1)
        dn = _relative(h0.gradient, h.gradient).flatten(1)
        m = _relative(by_one * g0.gradient, by_one * g.gradient).flatten(1)
        direct = _relative(
            c6 * g0.curvature + (p[:, None] + p) * h0.curvature,
            c6 * g.curvature + (p[:, None] + p) * h.curvature,
        )
        bent = torch.diag((by_one_twice * g0.value).sum((1, 2))) + (by_both * g.value)[..., 0]
        a = direct.view(size, size, 3, 3).transpose(1, 2).reshape(3 * size, 3 * size)
        return -(a + m.mH @ dn + dn.mH @ (m + bent @ dn))

    return force_constants


def _relative(at_rest: Tensor, in_wave: Tensor) -> Tensor:
    """`delta_ij sum_k x_ik - y_ij`, (N, N, k)."""
    identity = torch.eye(len(at_rest), dtype=at_rest.dtype, device=at_rest.device)
    return identity[..., None] * at_rest.sum(1, keepdim=True) - in_wave


def _at_rest_and_in_wave(
    image_sum: ImageSum, q: Tensor, positions: Tensor, cell: Tensor
) -> tuple[Derivatives, Derivatives]:
    """Sums over images, without a phase and with `exp(-2 pi i q.S)`."""
    images = image_sum.images
    derivatives = _of_images(image_sum, positions, cell)
    angles = -2 * math.pi * torch.tensordot(q, images.unit_shifts, 1)
    phases = torch.stack([torch.ones_like(angles), torch.cos(angles), torch.sin(angles)], -1)
    found = []
    for order, terms in enumerate(derivatives):
        one, cosine, sine = (terms @ phases).unbind(-1)
        parts = torch.complex(one, torch.zeros_like(one)), torch.complex(cosine, sine)
        found.append([_both_ways(images, x, (-1) ** order, len(positions)) for x in parts])
    at_rest, in_wave = zip(*found, strict=True)
    return Derivatives(*at_rest), Derivatives(*in_wave)


def _of_images(image_sum: ImageSum, positions: Tensor, cell: Tensor) -> Derivatives:
    """Of each image by itself."""
    images = image_sum.images
    vectors, (g, slope, bend) = image_sum.jet(images.between(positions), cell, order=2)
    r = vectors.transpose(0, 1)
    along = 4 * bend[:, None, None] * r[:, :, None] * r[:, None]
    identity = torch.eye(3, dtype=r.dtype, device=r.device)[..., None]
    across = 2 * slope[:, None, None] * identity
    return Derivatives(g[:, None], 2 * slope[:, None] * r, (along + across).flatten(1, 2))


def _both_ways(images: PairImages, sums: Tensor, parity: int, atoms: int) -> Tensor:
    """From rows, (rows, k), to all ordered pairs (N, N, k): seen from the other end, r turns."""
    there, back = images.first * atoms + images.second, images.second * atoms + images.first
    nothing = sums.new_zeros(atoms * atoms, sums.shape[1])
    turned = parity * sums.conj().resolve_conj()
    return nothing.index_add(0, there, sums).index_add(0, back, turned).view(atoms, atoms, -1)
