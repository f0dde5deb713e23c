"""Wave vectors: what every function of q takes and refuses."""

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
    """A wave vector as a tensor of the dtype and on the device of a crystal.

    Lists, numpy arrays, whole numbers and tensors of other dtypes and devices are converted;
    derivatives by a tensor, or by tensors in a list, pass through. Values are looked at where they
    can be.

    Args:
        q: In units of the reciprocal lattice vectors, (3,).
        pbc: Periodic directions of the crystal, (3,).
        like: A floating-point tensor of the crystal, such as its positions.

    Returns:
        The wave vector, (3,).

    Raises:
        ValueError: If q is not three real, finite numbers, or has a component along a direction
            that is not periodic.
    """
    given = _tensor(q)
    if given.is_complex() or given.dtype == torch.bool:
        raise ValueError(f"q must be three real numbers, not of dtype {given.dtype}")
    if given.shape != (3,):
        raise ValueError(f"q must have the shape (3,), not {tuple(given.shape)}; use vmap for many")
    given = given.to(dtype=like.dtype, device=like.device)
    if is_concrete(given):
        _check_values(given.detach(), pbc)
    return given


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
    """Numbers as a tensor; those of Python keep double precision, which torch would round."""
    return numbers if isinstance(numbers, Tensor) else torch.as_tensor(np.asarray(numbers))


def _check_values(q: Tensor, pbc: Tensor) -> None:
    if not bool(q.isfinite().all()):
        raise ValueError(f"q = {q.tolist()} is not finite")
    if bool((q[~pbc] != 0).any()):
        raise ValueError(
            f"q = {q.tolist()} has a component along a direction that is not periodic "
            f"(pbc {pbc.tolist()}): there are no waves along it"
        )
