"""Activation functions that can be differentiated to any order, in forward and reverse mode."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mace_functional.engine.settings import Activation, ActivationName


def silu(x: Tensor) -> Tensor:
    """`x sigmoid(x)`; the backward of `torch.nn.functional.silu` has no forward-mode rule."""
    return x * torch.sigmoid(x)


_FUNCTIONS: dict[ActivationName, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "silu": silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "abs": torch.abs,
}


def activate(x: Tensor, activation: Activation) -> Tensor:
    """`scale * f(x)`."""
    y = _FUNCTIONS[activation.name](x)
    return y if activation.scale == 1.0 else y * activation.scale
