"""Transforms of functions of several tensors, to be nested."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

Function = Callable[..., Tensor]


def direction_like(t: Tensor, k: int) -> Tensor:
    """Without random numbers, which `vmap` does not allow."""
    return torch.sin(1.7 * torch.arange(t.numel(), dtype=t.dtype) + k + 0.3).view(t.shape)


def forward(k: int) -> Callable[[Function], Function]:
    def transform(f: Function) -> Function:
        def derivative(*t: Tensor) -> Tensor:
            def of_one(s: Tensor) -> Tensor:
                return f(*t[:k], s, *t[k + 1 :])

            return jvp(of_one, (t[k],), (direction_like(t[k], k),))[1]

        return derivative

    return transform


def reverse(k: int) -> Callable[[Function], Function]:
    def transform(f: Function) -> Function:
        def derivative(*t: Tensor) -> Tensor:
            return (grad(f, argnums=k)(*t) * direction_like(t[k], k)).sum()

        return derivative

    return transform


def forward_in_all(f: Function) -> Function:
    """Forward mode by all tensors together."""

    def derivative(*t: Tensor) -> Tensor:
        return jvp(f, t, tuple(direction_like(x, k) for k, x in enumerate(t)))[1]

    return derivative


def mapped(k: int) -> Callable[[Function], Function]:
    """The sum over a batch of two of one tensor, whose batch dimension is the last."""

    def transform(f: Function) -> Function:
        def function(*t: Tensor) -> Tensor:
            dims = tuple(-1 if i == k else None for i in range(len(t)))
            two = torch.stack([t[k], 0.9 * t[k]], -1)
            return vmap(f, dims)(*t[:k], two, *t[k + 1 :]).sum()

        return function

    return transform
