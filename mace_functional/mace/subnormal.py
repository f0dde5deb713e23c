"""Replacement of weights that are subnormal floating-point numbers by zero.

Numbers below 2.2e-308 in double precision, and 1.2e-38 in single precision, are subnormal: they
have fewer digits, and processors compute with them in slow microcode. MACE-MP-0 small has tens of
thousands of such weights, and its Hessian takes 2.4 times as long with them on an Intel processor.
Zeros in their place change no result, because subnormal weights are far below the rounding error of
every sum that they enter.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def without_subnormal(
    tensor: Tensor, dtype: torch.dtype, device: str | torch.device
) -> tuple[Tensor, int]:
    """Copy a tensor, and set numbers that are subnormal in the new dtype to zero.

    Args:
        tensor: Floating-point numbers.
        dtype: Floating-point type of the copy.
        device: Device of the copy.

    Returns:
        The copy, and the number of its zeros that were not zero before.
    """
    small = (tensor != 0) & (tensor.abs() < torch.finfo(dtype).tiny)
    copy = tensor.to(device=device, dtype=dtype, copy=True)
    return copy.masked_fill_(small.to(copy.device), 0.0), int(small.sum())


def flush_subnormal(module: nn.Module) -> int:
    """Set subnormal numbers in the floating-point tensors of a module to zero, in place.

    Args:
        module: A module, such as a mace-torch model to compare with one of `load_model`.

    Returns:
        The number of subnormal numbers that were set to zero.
    """
    total = 0
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                copy, number = without_subnormal(tensor, tensor.dtype, tensor.device)
                tensor.copy_(copy)
                total += number
    return total
