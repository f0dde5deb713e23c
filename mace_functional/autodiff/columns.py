"""A linear map applied to many vectors, in chunks that fit the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from torch.func import vmap

from mace_functional.autodiff.memory import BUDGET_FRACTION, MemoryMeter, free_memory
from mace_functional.autodiff.tf32 import warn_of_tf32
from mace_functional.support import validation

ChunkSize = int | Literal["auto"] | None

CPU_WORKING_SET = 256 * 2**20
"""Largest memory of a chunk on the CPU, bytes, if not said otherwise. Larger chunks leave the
caches and gain no speed."""

CPU_COLUMNS = 16
"""Largest number of vectors in a chunk on the CPU. More are no faster where vectors pass along
edges. Where matrices between all atoms are multiplied, 32 gain a twentieth, for more memory."""


def chunked_vmap(apply: Callable[[Tensor], Tensor], vectors: Tensor, **options: Any) -> Tensor:
    """Compute `vmap(apply)(vectors)` in chunks.

    Args:
        apply: A linear map of one vector.
        vectors: Vectors, stacked along the first dimension.
        **options: Options of `chunked_map`.
    """
    return chunked_map(vmap(apply), vectors, **options)


def chunked_map(
    apply: Callable[[Tensor], Tensor],
    vectors: Tensor,
    *,
    chunk_size: ChunkSize = "auto",
    memory_budget: int | None = None,
    working_set: int = CPU_WORKING_SET,
    progress: bool = False,
    description: str = "Hessian",
) -> Tensor:
    """Compute `apply(vectors)` in chunks.

    Args:
        apply: A linear map of any number of vectors, stacked along the first dimension.
        vectors: Vectors, stacked along the first dimension.
        chunk_size: Vectors per chunk: a number, None for all, or "auto". "auto" maps the first
            vector alone, which leaves behind what all others share. It then maps the second one
            alone, measures its memory, and chooses the largest chunks that fit the budget.
        memory_budget: Bytes that "auto" may fill; a fraction of the free memory if None.
        working_set: Largest memory of a chunk of "auto" on the CPU, bytes. Where each chunk repeats
            work that its vectors share, larger chunks are faster.
        progress: Show a progress bar.
        description: Title of the progress bar.

    Returns:
        The mapped vectors, stacked.

    Raises:
        ValueError: If the chunk size is not a positive number, None or "auto", or the budget is not
            a positive number of bytes.
        MemoryError: If a single vector does not fit the budget.

    Warns:
        UserWarning: The vectors are in single precision on a GPU, and TF32 is on.
    """
    warn_of_tf32(vectors)
    chunk_size = validation.chunk_size(chunk_size)
    memory_budget = validation.memory_budget(memory_budget)
    done: list[Tensor] = []
    with columns_bar(description, vectors.shape[0], progress) as advance:
        if chunk_size == "auto" and vectors.shape[0] > 2:
            for column, size in measured(apply, vectors, memory_budget, working_set):
                done.append(column)
                chunk_size = size
                advance(1)
        step = vectors.shape[0] if chunk_size is None or chunk_size == "auto" else chunk_size
        for chunk in vectors[len(done) :].split(max(step, 1)):
            done.append(apply(chunk))
            advance(chunk.shape[0])
    return torch.cat(done)


def chunked_sum(
    apply: Callable[[Tensor], Sequence[Tensor]],
    vectors: Tensor,
    *,
    chunk_size: ChunkSize = "auto",
    memory_budget: int | None = None,
    working_set: int = CPU_WORKING_SET,
    progress: bool = False,
    description: str = "Gradient",
) -> list[Tensor]:
    """Compute the sum of `apply` over chunks of at least one vector, in the memory of one chunk.

    Args:
        apply: A function from any number of vectors, stacked along the first dimension, to tensors
            that are sums over them.
        vectors: Vectors, stacked along the first dimension.
        chunk_size: Vectors per chunk: a number, None for all, or "auto". "auto" takes the first
            vector alone, measures its memory, and chooses the largest chunks that fit the budget.
        memory_budget: Bytes that "auto" may fill; a fraction of the free memory if None.
        working_set: Largest memory of a chunk of "auto" on the CPU, bytes.
        progress: Show a progress bar.
        description: Title of the progress bar.

    Returns:
        The sums.

    Raises:
        ValueError: If the chunk size is not a positive number, None or "auto", or the budget is not
            a positive number of bytes.
        MemoryError: If a single vector does not fit the budget.
    """
    chunk_size = validation.chunk_size(chunk_size)
    memory_budget = validation.memory_budget(memory_budget)
    total: list[Tensor] = []
    with columns_bar(description, vectors.shape[0], progress) as advance:
        if chunk_size == "auto" and vectors.shape[0] > 1:
            with MemoryMeter() as meter:
                total = list(apply(vectors[:1]))
            free = int(BUDGET_FRACTION * free_memory(vectors.device))
            budget = free if memory_budget is None else memory_budget
            chunk_size = chunk_that_fits(meter.peak, vectors.device, budget, working_set)
            vectors = vectors[1:]
            advance(1)
        whole = chunk_size is None or chunk_size == "auto"
        for chunk in vectors.split(vectors.shape[0] if whole else chunk_size):
            terms = apply(chunk)
            total = [a + b for a, b in zip(total, terms, strict=True)] if total else list(terms)
            advance(chunk.shape[0])
    return total


@contextmanager
def columns_bar(description: str, count: int, progress: bool) -> Iterator[Callable[[int], None]]:
    """Show a progress bar of columns.

    Args:
        description: Title of the bar.
        count: Number of all columns.
        progress: False to show nothing.

    Yields:
        A function that adds to the number of finished columns.
    """
    from rich.progress import (
        MofNCompleteColumn,
        Progress,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        *Progress.get_default_columns()[:-1],
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        disable=not progress,
    )
    with bar:
        task = bar.add_task(description, total=count)
        yield lambda n: bar.advance(task, n)


def measured(
    apply: Callable[[Tensor], Tensor],
    vectors: Tensor,
    memory_budget: int | None,
    working_set: int = CPU_WORKING_SET,
) -> Iterator[tuple[Tensor, int]]:
    """Map the first two vectors, each alone, and yield them with the size of chunks of the rest.

    The first vector leaves behind what all others share. The memory of the second one is measured;
    the size that is yielded with the first is only that of a single vector.

    Args:
        apply: A linear map of any number of vectors.
        vectors: At least two vectors.
        memory_budget: Bytes that a chunk may fill; a fraction of the free memory if None.
        working_set: Largest memory of a chunk on the CPU, bytes.

    Raises:
        MemoryError: If a single vector does not fit the budget.
    """
    first, second = vectors[:2].split(1)
    if memory_budget is None:
        yield apply(first), 1
        budget = int(BUDGET_FRACTION * free_memory(vectors.device))
    else:
        with MemoryMeter() as meter:
            column = apply(first)
        yield column, 1
        budget = memory_budget - meter.live
    with MemoryMeter() as meter:
        column = apply(second)
    yield column, chunk_that_fits(meter.peak, vectors.device, budget, working_set)


def chunk_that_fits(
    size: int,
    device: torch.device,
    budget: int,
    working_set: int = CPU_WORKING_SET,
    most_on_cpu: int = CPU_COLUMNS,
) -> int:
    """Return the number of vectors of a chunk.

    Args:
        size: Bytes that one vector needs.
        device: Device of the vectors.
        budget: Bytes that a chunk may fill.
        working_set: Bytes that a chunk may fill on the CPU.
        most_on_cpu: Largest number of vectors on the CPU.

    Raises:
        MemoryError: If one vector does not fit the budget.
    """
    if size > budget:
        raise MemoryError(
            f"one column needs {size / 2**20:.0f} MiB, but only {max(budget, 0) / 2**20:.0f} MiB "
            "of the budget are left: raise memory_budget, use float32, or multiply vectors one by "
            "one with hvp"
        )
    fit = budget // max(size, 1)
    if device.type == "cpu":
        fit = min(fit, working_set // max(size, 1), most_on_cpu)
    return max(1, fit)
