"""How much memory a computation needs, and how much there is."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

T = TypeVar("T")

BUDGET_FRACTION = 0.5
"""Fraction of the free memory that a computation may take unless told otherwise."""


class _LiveBytes(TorchDispatchMode):
    """Sums the tensor storages alive that were made since it was entered."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, torch.Tensor):
                self._seen.add(tensor.untyped_storage())
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._release, size)

    def _release(self, size: int) -> None:
        self.live -= size


def peak_memory(function: Callable[[], T]) -> tuple[T, int]:
    """Call a function and count the bytes of tensors it holds at its peak, on any device.

    Args:
        function: Called once, without arguments.

    Returns:
        Its result, and the largest sum of the sizes of the storages that it made and that were
        alive at one time. Sizes only: no value is read, so it may be used under transforms.
    """
    with _LiveBytes() as meter:
        result = function()
    return result, meter.peak


def free_memory(device: torch.device) -> int:
    """Free memory of the device in bytes."""
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + reserved
    return int(psutil.virtual_memory().available)
