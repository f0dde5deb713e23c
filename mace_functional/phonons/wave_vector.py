"""Conversion and checks of wave vectors, for every function of q."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mace_functional.autodiff.concrete import is_concrete
from mace_functional.autodiff.torch_internals import temporarily_clear_interpreter_stack

WaveVector = Tensor | Sequence[float]
"""Three numbers in units of the reciprocal lattice vectors."""


def wave_vector(q: WaveVector, pbc: Sequence[bool], like: Tensor) -> Tensor:
    """Convert a wave vector to a tensor with the dtype and device of a crystal.

    Lists, numpy arrays, integers and tensors of other dtypes and devices are converted. Derivatives
    by a tensor, or by tensors in a list, are preserved. Values are checked except under transforms.
    Numbers and tensors on the CPU are copied to a GPU without waiting for it.

    Args:
        q: Wave vector in units of the reciprocal lattice vectors, (3,).
        pbc: True for each periodic direction of the crystal.
        like: Floating-point tensor of the crystal, such as its positions.

    Returns:
        The wave vector, (3,).

    Raises:
        ValueError: If q is not three real, finite numbers, or has a component along a direction
            that is not periodic.
    """
    return checked_where_given(q, pbc, like.dtype).to(like.device, non_blocking=True)


def checked_where_given(q: WaveVector, pbc: Sequence[bool], dtype: torch.dtype) -> Tensor:
    """Convert a wave vector to a tensor as `wave_vector` does, but leave it on its device."""
    tensor = _tensor(q)
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise ValueError(f"q must be three real numbers, not of dtype {tensor.dtype}")
    if tensor.shape != (3,):
        raise ValueError(
            f"q must have the shape (3,), not {tuple(tensor.shape)}; use vmap for many"
        )
    if not is_concrete(tensor):
        return tensor.to(dtype)
    with temporarily_clear_interpreter_stack():  # transforms of other tensors leave it readable
        tensor = tensor.to(dtype)
        _check_values(tensor.detach().tolist(), pbc)
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


def _check_values(q: list[float], pbc: Sequence[bool]) -> None:
    if not all(map(math.isfinite, q)):
        raise ValueError(f"q = {q} is not finite")
    if any(component != 0 and not periodic for component, periodic in zip(q, pbc, strict=True)):
        raise ValueError(
            f"q = {q} has a component along a direction that is not periodic "
            f"(pbc {list(pbc)}): there are no waves along it"
        )
