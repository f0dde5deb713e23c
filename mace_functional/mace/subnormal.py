"""Weights that are too small to be normal floating-point numbers.

Below 2.2e-308 in double and 1.2e-38 in single precision numbers are kept with fewer digits, and
processors compute with them in microcode: a Hessian of MACE-MP-0 small, which has tens of thousands
of them, takes 2.4 times as long on an Intel processor. Set to zero, they change no result: they are
far below the rounding of every sum that they enter.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def without_subnormal(
    tensor: Tensor, dtype: torch.dtype, device: str | torch.device
) -> tuple[Tensor, int]:
    """A copy of a tensor in which no number is subnormal in its new dtype.

    Args:
        tensor: Floating-point numbers.
        dtype: Of the copy. What rounds to a subnormal number or to zero in it is zero.
        device: Of the copy.

    Returns:
        The copy, and how many numbers that were not zero are zero in it.
    """
    small = (tensor != 0) & (tensor.abs() < torch.finfo(dtype).tiny)
    copy = tensor.to(device=device, dtype=dtype, copy=True)
    return copy.masked_fill_(small.to(copy.device), 0.0), int(small.sum())


def flush_subnormal(module: nn.Module) -> int:
    """Set subnormal numbers among the floating-point tensors of a module to zero, in place.

    Args:
        module: Such as a mace-torch model that is to be compared with one of `load_model`.

    Returns:
        How many there were.
    """
    found = 0
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                copy, number = without_subnormal(tensor, tensor.dtype, tensor.device)
                tensor.copy_(copy)
                found += number
    return found
