"""A linear map applied to many vectors, some at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.func import vmap

from mace_functional.autodiff.memory import BUDGET_FRACTION, MemoryMeter, free_memory
from mace_functional.support import validation

ChunkSize = int | Literal["auto"] | None

CPU_WORKING_SET = 256 * 2**20
CPU_COLUMNS = 8
"""What a chunk may fill, and hold, on CPU: larger ones leave the caches and gain nothing."""


def chunked_vmap(
    apply: Callable[[Tensor], Tensor],
    vectors: Tensor,
    *,
    chunk_size: ChunkSize = "auto",
    memory_budget: int | None = None,
    progress: bool = False,
    description: str = "Hessian",
) -> Tensor:
    """`vmap(apply)(vectors)`, in chunks.

    Args:
        apply: A linear map.
        vectors: Vectors along the first dimension.
        chunk_size: Vectors at once: a number, None for all, or "auto": the first two vectors are
            mapped one by one, what stays from the first and what the second needs are measured,
            and the rest goes in chunks that fit the budget.
        memory_budget: Bytes that "auto" may fill; a fraction of the free memory if None.
        progress: Show a progress bar.
        description: Its title.

    Returns:
        The mapped vectors, stacked.

    Raises:
        ValueError: If the chunk size is not a positive number, None or "auto", or the budget is no
            positive number of bytes.
        MemoryError: If not even one vector fits the budget.
    """
    from rich.progress import (
        MofNCompleteColumn,
        Progress,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    count = vectors.shape[0]
    chunk_size = validation.chunk_size(chunk_size)
    memory_budget = validation.memory_budget(memory_budget)
    done: list[Tensor] = []
    bar = Progress(
        *Progress.get_default_columns()[:-1],
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        disable=not progress,
    )
    with bar:
        task = bar.add_task(description, total=count)
        if chunk_size == "auto" and count > 2:
            budget = _budget(vectors.device) if memory_budget is None else memory_budget
            for vector in vectors[:2].split(1):
                with MemoryMeter() as meter:
                    done.append(vmap(apply)(vector))
                bar.advance(task)
                budget -= meter.live
            chunk_size = _chunk_size(meter.peak, vectors.device, budget)
        step = count if chunk_size is None or chunk_size == "auto" else chunk_size
        for chunk in vectors[len(done) :].split(max(step, 1)):
            done.append(vmap(apply)(chunk))
            bar.advance(task, len(chunk))
    return torch.cat(done)


def _budget(device: torch.device) -> int:
    return int(BUDGET_FRACTION * free_memory(device))


def _chunk_size(size: int, device: torch.device, budget: int) -> int:
    """How many vectors of the measured size fit."""
    if size > budget:
        raise MemoryError(
            f"one column needs {size / 2**20:.0f} MiB and {max(budget, 0) / 2**20:.0f} MiB of the "
            "budget are left: raise memory_budget, use float32, or multiply vectors one by one "
            "with hvp"
        )
    fit = budget // max(size, 1)
    if device.type == "cpu":
        fit = min(fit, CPU_WORKING_SET // max(size, 1), CPU_COLUMNS)
    return max(1, fit)
