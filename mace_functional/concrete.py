"""Whether a value may be looked at."""

from __future__ import annotations

import torch
from torch import Tensor

from mace_functional.torch_internals import is_functorch_wrapped_tensor


def is_concrete(tensor: Tensor) -> bool:
    """Whether the values of a tensor can be read: not inside of a `torch.func` transform."""
    if torch.compiler.is_compiling():
        return False
    return not is_functorch_wrapped_tensor(tensor)
