"""Whether a value may be looked at."""

from __future__ import annotations

import torch
from torch import Tensor

from mace_functional.torch_internals import is_functorch_wrapped_tensor


def is_concrete(tensor: Tensor) -> bool:
    """Whether a tensor has values to be read: not under a transform, nor on the meta device."""
    if torch.compiler.is_compiling() or tensor.is_meta:
        return False
    return not is_functorch_wrapped_tensor(tensor)
