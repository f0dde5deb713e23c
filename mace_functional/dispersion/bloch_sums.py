r"""Force constants of D3 at a wave vector, in closed form.

A wave displaces atom k of cell R by `u_k exp(2 pi i q.R)`. Define the sums over images

    G_ij(q) = sum_S g(r_ijS) exp(-2 pi i q.S),    r_ijS = x_i - x_j + S cell

of the damped attraction g, likewise H of the counting function h, and their derivatives G', G''
and H', H'' by r. With `p_i = sum_j C_ij G_ij(0)`, minus the derivative of the energy by the
coordination number n_i, and with commas for derivatives by coordination numbers,

    dn_i,kb = delta_ik sum_j H'_ij(0)_b - H'_ik(q)_b                        (dn_i / du_kb)
    M_i,kb  = delta_ik sum_j C_ij G'_ij(0)_b - C_ik G'_ik(q)_b,             C_ij = dC6_ij / dn_i
    W_ij    = delta_ij sum_k C6_ik,ii G_ik(0) + C6_ij,ij G_ij(q)            (second derivatives)
    A_ij    = delta_ij sum_k X_ik(0) - X_ij(q),   X_ij = C6_ij G''_ij + (p_i + p_j) H''_ij

    sum_R Phi(0j, Rk) exp(2 pi i q.R) = -(A + M^H dn + dn^H M + dn^H W dn)_jk.

Each q costs one pass over the pairs within the cutoff. Atoms interact through coordination numbers
over twice the cutoff, but no sum over these pairs is needed.
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
    """A pair function, and its first and second derivatives by the vector between the atoms.

    The shapes are (rows, k, width) for each image, or (N, N, k) for sums over images, with k = 1,
    3 and 9.
    """

    value: Tensor
    gradient: Tensor
    hessian: Tensor


def d3_force_constants_at(topology: D3Pairs) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return the force constants of D3 at a wave vector, as a pure function.

    Args:
        topology: Pairs and data of the crystal.

    Returns:
        A function of `(q, positions, cell)`, with q (3,) in units of the reciprocal lattice
        vectors. It returns `sum_R Phi(0j, Rk) exp(2 pi i q.R)`, complex (3N, 3N) in eV/Å², and does
        not check shapes.
    """
    reference = topology.reference
    n_atoms = len(reference.kinds)
    count, attraction = counting(topology), damping(topology)

    def force_constants(q: Tensor, positions: Tensor, cell: Tensor) -> Tensor:
        h0, h = _sums_at_zero_and_q(count, q, positions, cell)
        g0, g = _sums_at_zero_and_q(attraction, q, positions, cell)
        cn = h0.value.real.sum(1)
        w, dw, d2w = jet_of(lambda n: reference_weights(reference, n), cn, 2)
        c6, c6_i, c6_ij, c6_ii = (
            pair_coefficients(reference, *weights)[..., None].to(g.value)
            for weights in ((w, w), (dw, w), (dw, dw), (d2w, w))
        )
        p = (c6_i * g0.value).sum(1)
        dn = _translation_invariant(h0.gradient, h.gradient).flatten(1)
        m = _translation_invariant(c6_i * g0.gradient, c6_i * g.gradient).flatten(1)
        blocks = _translation_invariant(
            c6 * g0.hessian + (p[:, None] + p) * h0.hessian,
            c6 * g.hessian + (p[:, None] + p) * h.hessian,
        )
        a = blocks.view(n_atoms, n_atoms, 3, 3).transpose(1, 2).reshape(3 * n_atoms, 3 * n_atoms)
        W = torch.diag((c6_ii * g0.value).sum((1, 2))) + (c6_ij * g.value)[..., 0]
        return -(a + m.mH @ dn + dn.mH @ (m + W @ dn))

    return force_constants


def _translation_invariant(x0: Tensor, xq: Tensor) -> Tensor:
    """Return `delta_ij sum_k x_ik(0) - x_ij(q)`, (N, N, k)."""
    identity = torch.eye(len(x0), dtype=x0.dtype, device=x0.device)
    return identity[..., None] * x0.sum(1, keepdim=True) - xq


def _sums_at_zero_and_q(
    image_sum: ImageSum, q: Tensor, positions: Tensor, cell: Tensor
) -> tuple[Derivatives, Derivatives]:
    """Return the sums over images without a phase, and with the phase `exp(-2 pi i q.S)`."""
    images = image_sum.images
    derivatives = _image_derivatives(image_sum, positions, cell)
    angles = -2 * math.pi * torch.tensordot(q, images.unit_shifts, 1)
    phases = torch.stack([torch.ones_like(angles), torch.cos(angles), torch.sin(angles)], -1)
    sums = []
    for order, terms in enumerate(derivatives):
        one, cosine, sine = (terms @ phases).unbind(-1)
        at_zero_and_q = torch.complex(one, torch.zeros_like(one)), torch.complex(cosine, sine)
        sums.append(
            [_ordered_pairs(images, x, (-1) ** order, len(positions)) for x in at_zero_and_q]
        )
    at_zero, at_q = zip(*sums, strict=True)
    return Derivatives(*at_zero), Derivatives(*at_q)


def _image_derivatives(image_sum: ImageSum, positions: Tensor, cell: Tensor) -> Derivatives:
    """Return the pair function and its derivatives for each image, (rows, k, width)."""
    images = image_sum.images
    vectors, (g, dg, d2g) = image_sum.jet(images.between(positions), cell, order=2)
    r = vectors.transpose(0, 1)
    outer = 4 * d2g[:, None, None] * r[:, :, None] * r[:, None]
    identity = torch.eye(3, dtype=r.dtype, device=r.device)[..., None]
    diagonal = 2 * dg[:, None, None] * identity
    return Derivatives(g[:, None], 2 * dg[:, None] * r, (outer + diagonal).flatten(1, 2))


def _ordered_pairs(images: PairImages, sums: Tensor, parity: int, atoms: int) -> Tensor:
    """Return sums for all ordered pairs, (N, N, k), given those of the rows, (rows, k).

    For the pair (j, i), r and S change sign: `parity` is the sign of the term under r -> -r, and
    the phase becomes its complex conjugate.
    """
    ij, ji = images.first * atoms + images.second, images.second * atoms + images.first
    zeros = sums.new_zeros(atoms * atoms, sums.shape[1])
    transposed = parity * sums.conj().resolve_conj()
    return zeros.index_add(0, ij, sums).index_add(0, ji, transposed).view(atoms, atoms, -1)
