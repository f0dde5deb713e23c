"""Tests if a tensor can be read or is differentiated, and the refusal of transforms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mace_functional.autodiff.torch_internals import (
    forward_ad,
    get_unwrapped,
    is_batchedtensor,
    is_functorch_wrapped_tensor,
    maybe_get_bdim,
    maybe_get_level,
    pytree,
    retrieve_current_functorch_interpreter,
    temporarily_clear_interpreter_stack,
    transforms_are_active,
)


def is_concrete(tensor: Tensor) -> bool:
    """True if a tensor has readable values: not under a transform, nor on the meta device."""
    if torch.compiler.is_compiling() or tensor.is_meta:
        return False
    return not is_functorch_wrapped_tensor(tensor)


def is_differentiated(tensor: Tensor | None) -> bool:
    """True if reverse mode differentiates by a tensor, at any level of transforms or below them."""
    if tensor is None or not torch.is_grad_enabled():
        return False
    while is_functorch_wrapped_tensor(tensor):
        if tensor.requires_grad:
            return True
        tensor = get_unwrapped(tensor)
    return tensor.requires_grad


def raw_values(tensor: Tensor, *, first: bool = False) -> Tensor:
    """Return the values of a tensor without transforms and gradients.

    Args:
        tensor: The tensor.
        first: True to return the first one of a batch, of the shape of the tensor; False to return
            all of them, with the batch dimensions anywhere.
    """
    dims = []
    while is_functorch_wrapped_tensor(tensor):
        if is_batchedtensor(tensor):
            dims.append(maybe_get_bdim(tensor))
        tensor = get_unwrapped(tensor)
    with temporarily_clear_interpreter_stack():
        for dim in reversed(dims) if first else ():
            tensor = tensor.select(dim, 0)
        return tensor.detach()


def is_followed(tensor: Tensor) -> bool:
    """True if a transform maps or differentiates a tensor, or it requires grad, at any level.

    So a tensor that was computed from plain tensors and from others shows if the others matter.
    """
    if is_batchedtensor(tensor) or tensor.requires_grad:
        return True
    if forward_ad.unpack_dual(tensor, level=0).tangent is not None:
        return True
    if not transforms_are_active():
        return False
    interpreter = retrieve_current_functorch_interpreter()
    if maybe_get_level(tensor) == interpreter.level():
        tensor = get_unwrapped(tensor)
    with interpreter.lower():  # a tangent shows at its own level only
        return is_followed(tensor)


def refuse_transforms(name: str, use: str, *values: Any) -> None:
    """Raise an error if a function that has no derivatives is differentiated or mapped.

    Such a function reads numbers out of tensors, so its result would have a gradient of zero. Under
    `torch.no_grad()` tensors that require grad are accepted.

    Args:
        name: Name of the function, for the error message.
        use: A function with derivatives to recommend instead, for the error message.
        *values: Arguments of the function: tensors, or pytrees with tensors in them.

    Raises:
        ValueError: If a tensor is inside a `torch.func` transform or forward-mode differentiation,
            or requires grad.
    """
    for tensor in pytree.tree_leaves(values):
        if not isinstance(tensor, Tensor):
            continue
        if is_functorch_wrapped_tensor(tensor):
            reason = "inside a torch.func transform (grad, jvp, vmap)"
        elif forward_ad.unpack_dual(tensor).tangent is not None:
            reason = "inside forward-mode differentiation"
        elif tensor.requires_grad and torch.is_grad_enabled():
            reason = "with tensors that require grad"
        else:
            continue
        raise ValueError(
            f"{name} reads numbers out of tensors and has no derivatives: it cannot be used "
            f"{reason}. Use {use}, or call it with plain tensors (tensor.detach())"
        )
