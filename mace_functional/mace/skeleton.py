"""Copies of a module without copies of its tensors.

`torch.func.functional_call` puts tensors into a module for as long as a call lasts. Into a skeleton
that was made for one call, no other thread puts any.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def skeleton(module: ModuleT) -> ModuleT:
    """A module whose lists of buffers and of parts are its own; all else is shared.

    Making it takes less than a hundredth of an energy. What `torch.compile` traces is the module
    itself: a trace is made by one thread.

    Args:
        module: Without parameters: its tensors are buffers.
    """
    if torch.compiler.is_compiling():
        return module
    twin = module.__new__(type(module))
    twin.__dict__.update(module.__dict__)
    parts = module._modules.items()
    twin.__dict__["_buffers"] = dict(module._buffers)
    twin.__dict__["_modules"] = {k: None if part is None else skeleton(part) for k, part in parts}
    return twin
