"""How much memory a computation needs, and how much there is."""

from __future__ import annotations

import weakref
from functools import cache
from typing import Any

import torch
from torch import Tensor

from mace_functional.autodiff.torch_internals import TorchDispatchMode

BUDGET_FRACTION = 0.5
"""Fraction of the free memory that a computation may take unless told otherwise."""


class MemoryMeter(TorchDispatchMode):
    """Counts the bytes of tensors that are made while it is entered, on any device.

    It looks at sizes only: no value is read, so it may be used under transforms.

    Attributes:
        live: Bytes of the storages made since that are still alive.
        peak: The most that were alive at one time.
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
    """Let the C library keep up to 64 MiB of what is freed, and hand it out again.

    glibc returns large blocks to the system at once, and every new one then costs a page fault for
    each 4 KiB: more than what is computed with it. It adapts to the largest block, below 32 MiB,
    that it has seen freed (mallopt(3), M_MMAP_THRESHOLD); this shows it one. Elsewhere it does
    nothing, and neither does it take memory.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


def check_fits(what: str, size: int, device: torch.device, advice: str) -> None:
    """Refuse what would fill more than the memory that is free.

    Args:
        what: Takes the memory, for the error.
        size: Bytes.
        device: Where.
        advice: What to do instead, for the error.

    Raises:
        MemoryError: If it does not fit.
    """
    free = free_memory(device)
    if size > free:
        raise MemoryError(
            f"{what} need {size / 2**30:.3g} GiB of memory and {free / 2**30:.3g} GiB are free: "
            f"{advice}"
        )


def free_memory(device: torch.device) -> int:
    """Free memory of the device in bytes."""
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + reserved

    import psutil

    return int(psutil.virtual_memory().available)
