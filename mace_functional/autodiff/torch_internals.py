"""The private names of torch that this package uses, all in one place.

`primitive` uses functorch's stack of transforms, `edge_geometry` makes constants outside of it,
`concrete` uses the test for tensors that a transform has wrapped, and `memory` the hook that sees
every operation. A new version of torch may move these names. The import then fails here, with a
message that names the supported versions.
"""

from __future__ import annotations

import torch

SUPPORTED = "2.8 <= torch < 2.15"
"""Supported versions of torch, as in pyproject.toml."""

try:
    import torch.autograd.forward_ad as forward_ad
    from torch._C import _are_functorch_transforms_active as transforms_are_active
    from torch._C._functorch import (
        TransformType,
        _add_batch_dim,
        _unwrap_for_grad,
        _wrap_for_grad,
        get_interpreter_stack,
        get_unwrapped,
        is_batchedtensor,
        is_functorch_wrapped_tensor,
        maybe_get_bdim,
        maybe_get_level,
        unwrap_if_dead,
    )
    from torch._functorch import eager_transforms
    from torch._functorch.pyfunctorch import (
        retrieve_current_functorch_interpreter,
        temporarily_clear_interpreter_stack,
    )
    from torch._functorch.utils import enable_single_level_autograd_function
    from torch._functorch.vmap import unwrap_batched
    from torch.autograd.function import _SingleLevelFunction
    from torch.utils import _pytree as pytree
    from torch.utils._python_dispatch import TorchDispatchMode

    # Modules read these where they use them, because their values change.
    _ = forward_ad._current_level, forward_ad._set_fwd_grad_enabled, eager_transforms.JVP_NESTING
except (ImportError, AttributeError) as error:
    raise ImportError(
        f"torch {torch.__version__} has moved a name that mace_functional needs ({error}): install "
        f"a supported version, {SUPPORTED}"
    ) from error

__all__ = [
    "SUPPORTED",
    "TorchDispatchMode",
    "TransformType",
    "_SingleLevelFunction",
    "_add_batch_dim",
    "_unwrap_for_grad",
    "_wrap_for_grad",
    "eager_transforms",
    "enable_single_level_autograd_function",
    "forward_ad",
    "get_interpreter_stack",
    "get_unwrapped",
    "is_batchedtensor",
    "is_functorch_wrapped_tensor",
    "maybe_get_bdim",
    "maybe_get_level",
    "pytree",
    "retrieve_current_functorch_interpreter",
    "temporarily_clear_interpreter_stack",
    "transforms_are_active",
    "unwrap_batched",
    "unwrap_if_dead",
]
