"""Activation functions and their derivatives of any order."""

from __future__ import annotations

from collections.abc import Callable
from math import comb

import torch
from torch import Tensor

from mace_functional.mace.settings import Activation, ActivationName


def silu(x: Tensor) -> Tensor:
    """Compute `x sigmoid(x)`; torch's own silu has no forward-mode rule for its backward."""
    return _silu(x, 0)[0]


def activate(x: Tensor, activation: Activation) -> Tensor:
    """Compute `scale * f(x)`."""
    return activation_derivatives(x, activation, 0)[0]


def activation_derivatives(x: Tensor, activation: Activation, order: int) -> list[Tensor]:
    """Compute `scale * [f(x), f'(x), ...]` up to an order."""
    derivatives = _DERIVATIVES[activation.name](x, order)
    scale = activation.scale
    return derivatives if scale == 1.0 else [d * scale for d in derivatives]


def _identity(x: Tensor, order: int) -> list[Tensor]:
    return [x, torch.ones_like(x), *[torch.zeros_like(x)] * order][: order + 1]


def _abs(x: Tensor, order: int) -> list[Tensor]:
    return [x.abs(), x.sign(), *[torch.zeros_like(x)] * order][: order + 1]


def _sigmoid(x: Tensor, order: int) -> list[Tensor]:
    """Compute the sigmoid s and its derivatives, by `s' = s - s^2`."""
    out = [torch.sigmoid(x)]
    for n in range(order):
        out.append(_minus_square(out[n], out, n))
    return out


def _tanh(x: Tensor, order: int) -> list[Tensor]:
    """Compute t = tanh(x) and its derivatives, by `t' = 1 - t^2`."""
    out = [torch.tanh(x)]
    for n in range(order):
        constant = torch.ones_like(x) if n == 0 else torch.zeros_like(x)
        out.append(_minus_square(constant, out, n))
    return out


def _minus_square(start: Tensor, y: list[Tensor], n: int) -> Tensor:
    """Compute `start - (y^2)^(n)` from the derivatives of y (Leibniz rule)."""
    for k in range(n // 2 + 1):
        symmetry = 2 if 2 * k < n else 1
        start = torch.addcmul(start, y[k], y[n - k], value=-symmetry * comb(n, k))
    return start


def _silu(x: Tensor, order: int) -> list[Tensor]:
    """Compute x s and its derivatives, s the sigmoid, by `(x s)^(n) = x s^(n) + n s^(n-1)`."""
    s = _sigmoid(x, order)
    higher = (torch.addcmul(n * s[n - 1] if n > 1 else s[0], x, s[n]) for n in range(1, order + 1))
    return [x * s[0], *higher]


_DERIVATIVES: dict[ActivationName, Callable[[Tensor, int], list[Tensor]]] = {
    "identity": _identity,
    "silu": _silu,
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "abs": _abs,
}
