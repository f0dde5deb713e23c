"""Conversion between numpy arrays and tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def as_array(tensor: Tensor) -> np.ndarray:
    """Return the values of a tensor as a float64 array, detached."""
    return tensor.detach().cpu().double().numpy()


def to_tensors(arrays: dict[str, np.ndarray], like: Tensor) -> dict[str, Any]:
    """Convert arrays to tensors on the device of `like`, and floats to its dtype."""
    return {
        name: torch.as_tensor(
            array, device=like.device, dtype=like.dtype if array.dtype.kind == "f" else None
        )
        for name, array in arrays.items()
    }
