"""Whether a value may be looked at, and the refusal of functions that have to look at values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mace_functional.autodiff.torch_internals import forward_ad, is_functorch_wrapped_tensor, pytree


def is_concrete(tensor: Tensor) -> bool:
    """Whether a tensor has values to be read: not under a transform, nor on the meta device."""
    if torch.compiler.is_compiling() or tensor.is_meta:
        return False
    return not is_functorch_wrapped_tensor(tensor)


def refuse_transforms(name: str, use: str, *values: Any) -> None:
    """Raise where a function that has no derivatives would be differentiated or mapped.

    Such a function reads numbers out of tensors: its result would have a gradient of zero. Under
    `torch.no_grad()` tensors that require grad are accepted.

    Args:
        name: Of the function, for the error.
        use: What has derivatives and can be used instead, for the error.
        *values: Tensors, or pytrees with tensors in them, that the function is called with.

    Raises:
        ValueError: If one of the tensors is inside of a `torch.func` transform or of forward-mode
            differentiation, or requires grad.
    """
    for tensor in pytree.tree_leaves(values):
        if not isinstance(tensor, Tensor):
            continue
        if is_functorch_wrapped_tensor(tensor):
            reason = "inside of a torch.func transform (grad, jvp, vmap)"
        elif forward_ad.unpack_dual(tensor).tangent is not None:
            reason = "inside of forward-mode differentiation"
        elif tensor.requires_grad and torch.is_grad_enabled():
            reason = "with tensors that require grad"
        else:
            continue
        raise ValueError(
            f"{name} reads numbers out of tensors and has no derivatives: it cannot be used "
            f"{reason}. Use {use}, or call it with plain tensors (tensor.detach())"
        )
