"""What the tensors of a model have to be, whatever file or module they come from."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Tensors of a model are finite.

    Args:
        tensors: By name.
        where: What holds them, for the error.

    Raises:
        ValueError: If one has entries that are infinite or NaN.
    """
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            bad = int((~tensor.isfinite()).sum())
            raise ValueError(f"{name} of {where} has {bad} entries that are not finite")
