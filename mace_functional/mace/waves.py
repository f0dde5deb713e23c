"""Batches of Bloch waves: complex vectors as pairs of real ones, and their values along edges.

A linearised gradient acts on real vectors. n complex vectors pass through it as 2 n real ones:
first all real parts, then all imaginary parts. All that acts on the atoms one by one is right for
both parts. Where a value is sent along an edge, it is multiplied by the edge's factor.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from mace_functional.autodiff.primitive import Arguments, Dimensions, Outputs, Primitive
from mace_functional.structure.species import gather


def as_waves(vectors: Tensor, factors: Tensor) -> Tensor:
    """Return real vectors (2 n, ...) as complex ones (n, ...), if the factors are complex."""
    return torch.complex(*vectors.chunk(2)) if factors.is_complex() else vectors


def as_real(waves: Sequence[Tensor]) -> Outputs:
    """Return complex vectors (n, ...) as real ones (2 n, ...)."""
    return tuple(torch.cat([t.real, t.imag]) if t.is_complex() else t for t in waves)


def sent_as_waves(values: Tensor, senders: Tensor, factors: Tensor) -> Tensor:
    """Return the values (points, ...) of the senders, (nodes, K, ...).

    Batches of tangents are waves: they are multiplied by the factors, and batches of cotangents by
    their conjugates.
    """
    return _Sent(senders, factors, values.shape[0])(values)[0]


class _Sent(Primitive):
    """Values of the senders of all edges."""

    def __init__(self, senders: Tensor, factors: Tensor, points: int) -> None:
        self.senders, self.factors, self.points = senders, factors, points

    @override
    def value(self, *args: Tensor) -> Outputs:
        return (gather(args[0], self.senders),)

    @override
    def compute_batch(self, args: Arguments, dims: Dimensions) -> Outputs:
        waves = as_waves(args[0].movedim(dims[0], 0), self.factors)
        sent = waves.index_select(1, self.senders.reshape(-1)).unflatten(1, self.senders.shape)
        return as_real([sent * _over(self.factors, sent)])

    @override
    def vjp(self, args: Arguments, cotangents: Outputs, needed: Sequence[bool]) -> Arguments:
        return _Collected(self.senders, self.factors, self.points)(*cotangents)


class _Collected(Primitive):
    """Sums of the values of all edges over the edges of each sender."""

    def __init__(self, senders: Tensor, factors: Tensor, points: int) -> None:
        self.senders, self.factors, self.points = senders, factors, points

    @override
    def value(self, *args: Tensor) -> Outputs:
        edges = args[0].flatten(0, 1)
        total = edges.new_zeros(self.points, *edges.shape[1:])
        return (total.index_add(0, self.senders.reshape(-1), edges),)

    @override
    def compute_batch(self, args: Arguments, dims: Dimensions) -> Outputs:
        waves = as_waves(args[0].movedim(dims[0], 0), self.factors)
        edges = (waves * _over(self.factors.conj(), waves)).flatten(1, 2)
        total = edges.new_zeros(len(edges), self.points, *edges.shape[2:])
        return as_real([total.index_add(1, self.senders.reshape(-1), edges)])

    @override
    def vjp(self, args: Arguments, cotangents: Outputs, needed: Sequence[bool]) -> Arguments:
        return _Sent(self.senders, self.factors, self.points)(*cotangents)


def _over(factors: Tensor, edges: Tensor) -> Tensor:
    """Return the factors (nodes, K) with the dimensions of values (n, nodes, K, ...)."""
    return factors.view(*factors.shape, *[1] * (edges.ndim - 3))
