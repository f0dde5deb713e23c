"""Memory: the free memory of a device, and the memory that a computation needs."""

from __future__ import annotations

import weakref
from functools import cache
from typing import Any

import torch
from torch import Tensor

from mace_functional.autodiff.torch_internals import TorchDispatchMode

BUDGET_FRACTION = 0.5
"""Fraction of the free memory that a computation may fill if the user gives no budget."""


class MemoryMeter(TorchDispatchMode):
    """A context manager that counts the bytes of tensors made inside it, on any device.

    It reads sizes and no values, so it works under transforms.

    Attributes:
        live: Bytes of the storages made inside that are still alive.
        peak: Largest value that `live` has had.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **kwargs) if kwargs else func(*args)
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage(), args)
        return out

    def _count(self, storage: torch.UntypedStorage, args: Any) -> None:
        key = storage._cdata
        if key in self._storages or any(
            isinstance(a, Tensor) and a.untyped_storage()._cdata == key for a in args
        ):
            return
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)

        def released(_: object) -> None:
            self.live -= size
            self._storages.pop(key, None)

        self._storages[key] = weakref.ref(storage, released)


@cache
def tune_allocator() -> None:
    """Let the C library keep and reuse up to 64 MiB of freed memory.

    glibc returns large blocks to the system as soon as they are freed. Every new block then costs a
    page fault per 4 KiB, which takes longer than the computation with it. glibc raises its
    threshold to the size of the largest freed block below 32 MiB (mallopt(3), M_MMAP_THRESHOLD), so
    this function allocates and frees such a block. It never writes to the block, so it takes no
    memory. Other C libraries are not affected.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


def check_fits(what: str, size: int, device: torch.device, advice: str) -> None:
    """Raise an error if a computation needs more than the free memory.

    Args:
        what: Name, in the plural, of the objects that take the memory, for the error message.
        size: Bytes that they need.
        device: Device that they are on.
        advice: Advice to the user, for the error message.

    Raises:
        MemoryError: If `size` exceeds the free memory.
    """
    free = free_memory(device)
    if size > free:
        raise MemoryError(
            f"{what} need {size / 2**30:.3g} GiB of memory, but {free / 2**30:.3g} GiB are free: "
            f"{advice}"
        )


def free_memory(device: torch.device) -> int:
    """Return the free memory of a device, in bytes."""
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + reserved

    import psutil

    return int(psutil.virtual_memory().available)
