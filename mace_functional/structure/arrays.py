"""Between numpy arrays and tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def as_array(tensor: Tensor) -> np.ndarray:
    """The values of a tensor in double precision, on the CPU, without its derivatives."""
    return tensor.detach().cpu().double().numpy()


def to_tensors(arrays: dict[str, np.ndarray], like: Tensor) -> dict[str, Any]:
    """Arrays as tensors on the device, and floating-point ones in the dtype, of `like`."""
    return {
        name: torch.as_tensor(
            array, device=like.device, dtype=like.dtype if array.dtype.kind == "f" else None
        )
        for name, array in arrays.items()
    }
