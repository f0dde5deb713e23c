"""Conversion and checks of wave vectors, for every function of q."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mace_functional.autodiff.concrete import is_concrete

WaveVector = Tensor | Sequence[float]
"""Three numbers in units of the reciprocal lattice vectors."""


def wave_vector(q: WaveVector, pbc: Tensor, like: Tensor) -> Tensor:
    """Convert a wave vector to a tensor with the dtype and device of a crystal.

    Lists, numpy arrays, integers and tensors of other dtypes and devices are converted. Derivatives
    by a tensor, or by tensors in a list, are preserved. Values are checked except under transforms.

    Args:
        q: Wave vector in units of the reciprocal lattice vectors, (3,).
        pbc: True for each periodic direction of the crystal, (3,).
        like: Floating-point tensor of the crystal, such as its positions.

    Returns:
        The wave vector, (3,).

    Raises:
        ValueError: If q is not three real, finite numbers, or has a component along a direction
            that is not periodic.
    """
    tensor = _tensor(q)
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise ValueError(f"q must be three real numbers, not of dtype {tensor.dtype}")
    if tensor.shape != (3,):
        raise ValueError(
            f"q must have the shape (3,), not {tuple(tensor.shape)}; use vmap for many"
        )
    tensor = tensor.to(dtype=like.dtype, device=like.device)
    if is_concrete(tensor):
        _check_values(tensor.detach(), pbc)
    return tensor


def _tensor(q: Any) -> Tensor:
    try:
        if not isinstance(q, Tensor) and any(isinstance(x, Tensor) for x in q):
            return torch.stack([_as_tensor(x) for x in q])
        return _as_tensor(q)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            "q must be three numbers, in units of the reciprocal lattice vectors, not "
            f"{type(q).__name__} {q!r}"
        ) from error


def _as_tensor(numbers: Any) -> Tensor:
    """Convert numbers to a tensor; Python floats keep double precision, which torch would round."""
    return numbers if isinstance(numbers, Tensor) else torch.as_tensor(np.asarray(numbers))


def _check_values(q: Tensor, pbc: Tensor) -> None:
    if not bool(q.isfinite().all()):
        raise ValueError(f"q = {q.tolist()} is not finite")
    if bool((q[~pbc] != 0).any()):
        raise ValueError(
            f"q = {q.tolist()} has a component along a direction that is not periodic "
            f"(pbc {pbc.tolist()}): there are no waves along it"
        )
