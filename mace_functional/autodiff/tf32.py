"""A warning of TF32, in which GPUs multiply single-precision matrices with ten bits.

torch leaves TF32 off by default. Programs that turn it on for training may go on to compute second
derivatives, and it moves vibrational frequencies by up to 51 cm-1.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor


def warn_of_tf32(tensor: Tensor) -> None:
    """Warn if products of a tensor would be computed in TF32.

    Args:
        tensor: Vectors or positions of a second derivative; its values are not read.

    Warns:
        UserWarning: The tensor is on a GPU, in single precision, and TF32 is on.
    """
    if tensor.device.type == "cuda" and tensor.dtype == torch.float32 and _tf32_is_on():
        warnings.warn(
            "torch multiplies float32 matrices in TF32, which moves vibrational frequencies by up "
            "to 51 cm-1: set torch.backends.cuda.matmul.allow_tf32 = False, or compute in float64",
            stacklevel=3,
        )


def _tf32_is_on() -> bool:
    """Return True if torch multiplies float32 matrices on a GPU in TF32."""
    try:
        return bool(torch.backends.cuda.matmul.allow_tf32)
    except RuntimeError:  # set by the newer option, which torch asks to read
        return str(torch.backends.cuda.matmul.fp32_precision) == "tf32"
