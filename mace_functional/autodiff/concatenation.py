"""Joining and splitting tensors, each the derivative of the other.

torch differentiates `cat` as one slice per part, and a slice as an addition to zeros of full size.
In second derivatives this would cost more than the computation with the parts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mace_functional.autodiff.primitive import Arguments, Outputs, Primitive


def join(parts: Sequence[Tensor], dim: int) -> Tensor:
    """Concatenate tensors like `torch.cat`; the derivative is a `split`."""
    return _Join([part.shape[dim] for part in parts], dim)(*parts)[0]


def split(tensor: Tensor, sizes: Sequence[int], dim: int) -> list[Tensor]:
    """Split a tensor like `torch.split`; the derivative is a `join`."""
    return list(_Split(sizes, dim)(tensor))


class _Join(Primitive):
    """Concatenation of parts of given sizes along one dimension."""

    def __init__(self, sizes: Sequence[int], dim: int) -> None:
        self.sizes, self.dim = sizes, dim

    def value(self, *args: Tensor | None) -> Outputs:
        return (torch.cat([part for part in args if part is not None], self.dim),)

    def jvp(self, args: Arguments, tangents: Arguments) -> Outputs | None:
        pairs = zip(args, tangents, strict=True)
        parts = (torch.zeros_like(a) if t is None and a is not None else t for a, t in pairs)
        return self(*parts)

    def vjp(self, args: Arguments, cotangents: Outputs, needed: Sequence[bool]) -> Arguments:
        return _Split(self.sizes, self.dim)(*cotangents)


class _Split(Primitive):
    """Division of a tensor into parts of given sizes along one dimension."""

    def __init__(self, sizes: Sequence[int], dim: int) -> None:
        self.sizes, self.dim = sizes, dim

    def value(self, *args: Tensor | None) -> Outputs:
        (tensor,) = args
        assert tensor is not None
        return tensor.split(list(self.sizes), self.dim)

    def jvp(self, args: Arguments, tangents: Arguments) -> Outputs | None:
        return self(*tangents)

    def vjp(self, args: Arguments, cotangents: Outputs, needed: Sequence[bool]) -> Arguments:
        return _Join(self.sizes, self.dim)(*cotangents)
