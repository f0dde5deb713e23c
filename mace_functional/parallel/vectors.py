"""A linear map applied to many vectors, in chunks, by many workers.

Chunks are those of `autodiff.columns`, which the number of workers does not change. Results
therefore agree with those of one process to the last digit.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mace_functional.autodiff.columns import ChunkSize, columns_bar, measured
from mace_functional.parallel.shared_parts import delivery_of, mapped, workers_of
from mace_functional.parallel.workers import memory_of_worker
from mace_functional.support import validation


class LinearMap(Protocol):
    """A linear map that workers can prepare."""

    def begun(self, device: str | None) -> Callable[[Tensor], Tensor]:
        """Prepare the map in a worker, and return it as a function of any number of vectors.

        Args:
            device: Device to compute on; that of the map's data if None.
        """


class SharedMap:
    """A linear map that the workers of an executor apply to chunks of vectors.

    Args:
        linear: The map.
        executor: Executor of `concurrent.futures` or Dask, or `WorkerProcesses`.
        memory_budget: Bytes of each worker that a chunk may fill; a share of the free memory if
            None.
        device: Device of the vectors.

    Raises:
        TypeError: If it is no executor.
        ValueError: If the map cannot be sent to processes.
    """

    def __init__(
        self,
        linear: LinearMap,
        executor: Executor,
        *,
        memory_budget: int | None,
        device: torch.device,
    ) -> None:
        self._workers, self._device = workers_of(executor), device
        if memory_budget is None:
            memory_budget = memory_of_worker(self._workers, device)
        self._delivery = delivery_of(_Chunks(linear, memory_budget), self._workers)
        self._size: int | None = None

    def map(
        self,
        vectors: Tensor,
        *,
        chunk_size: ChunkSize = "auto",
        progress: bool = False,
        description: str = "Hessian",
    ) -> Tensor:
        """Map vectors in the chunks of `chunked_map`; see `mapped_vectors`.

        With "auto", the first call measures the memory. Later calls take the size that it found.
        """
        chunk_size = validation.chunk_size(chunk_size)
        done: list[Tensor] = []
        with columns_bar(description, len(vectors), progress) as advance:
            if chunk_size != "auto" or len(vectors) <= 2:
                step = chunk_size if isinstance(chunk_size, int) else len(vectors)
                chunks = vectors.split(max(1, step))
            elif self._size is None:
                columns, self._size = self.measured(vectors)
                done.append(columns)
                advance(len(columns))
                chunks = vectors[2:].split(self._size)
            else:
                chunks = (*vectors[:2].split(1), *vectors[2:].split(self._size))
            with closing(self.mapped(chunks)) as rest:
                for columns in rest:
                    done.append(columns)
                    advance(len(columns))
        return torch.cat(done)

    def measured(self, vectors: Tensor) -> tuple[Tensor, int]:
        """Map the first two vectors in one worker, and measure the size of chunks of the rest.

        Args:
            vectors: At least two vectors.

        Returns:
            The two mapped vectors, and the size.

        Raises:
            ChildProcessError: See `mapped`.
            MemoryError: If a single vector does not fit the budget.
        """
        ((columns, size),) = self._results([vectors[:2]], measure=True)
        return columns.to(self._device), size

    def mapped(self, chunks: Iterable[Tensor]) -> Generator[Tensor]:
        """Map chunks of vectors, and yield them in their order.

        Raises:
            ChildProcessError: If the executor is broken, no process can start, or workers die again
                and again.
        """
        with closing(self._results(chunks)) as results:
            for columns, _ in results:
                yield columns.to(self._device)

    def _results(self, chunks: Iterable[Tensor], *, measure: bool = False) -> Generator[_Columns]:
        # A chunk is a view, and is pickled with all vectors unless it is copied.
        parts = (_Chunk(chunk.clone().cpu(), measure) for chunk in chunks)
        return mapped(self._delivery, parts, self._workers)


class OwnMap:
    """A linear map that this process applies to chunks of vectors, as a `SharedMap` does.

    Args:
        linear: The map.
        memory_budget: Bytes that a chunk may fill; a fraction of the free memory if None.
    """

    def __init__(self, linear: LinearMap, *, memory_budget: int | None) -> None:
        self._apply, self._memory_budget = linear.begun(None), memory_budget

    def measured(self, vectors: Tensor) -> tuple[Tensor, int]:
        """Map the first two vectors, and measure the size of chunks of the rest."""
        columns, sizes = zip(*measured(self._apply, vectors, self._memory_budget), strict=True)
        return torch.cat(columns), sizes[-1]

    def mapped(self, chunks: Iterable[Tensor]) -> Generator[Tensor]:
        """Map chunks of vectors, and yield them in their order."""
        yield from map(self._apply, chunks)


def map_of(
    linear: LinearMap,
    executor: Executor | None,
    *,
    memory_budget: int | None,
    device: torch.device,
) -> OwnMap | SharedMap:
    """Return a linear map that an executor shares, or that this process computes if it is None.

    Args:
        linear: The map.
        executor: The executor.
        memory_budget: Bytes that a chunk may fill; see `SharedMap`.
        device: Device of the vectors.
    """
    if executor is None:
        return OwnMap(linear, memory_budget=memory_budget)
    return SharedMap(linear, executor, memory_budget=memory_budget, device=device)


def mapped_vectors(
    linear: LinearMap,
    vectors: Tensor,
    executor: Executor,
    *,
    chunk_size: ChunkSize = "auto",
    memory_budget: int | None = None,
    progress: bool = False,
    description: str = "Hessian",
) -> Tensor:
    """Apply a linear map to vectors in chunks, as `chunked_map` does, by many workers.

    Args:
        linear: The map.
        vectors: Vectors, stacked along the first dimension.
        executor: Executor of `concurrent.futures` or Dask, or `WorkerProcesses`.
        chunk_size: Vectors per chunk; see `chunked_map`. With "auto", the first worker measures the
            memory, and the others begin when it has.
        memory_budget: Bytes of each worker that "auto" may fill; a share of the free memory if
            None.
        progress: Show a progress bar.
        description: Title of the progress bar.

    Returns:
        The mapped vectors, stacked, on the device of `vectors`.

    Raises:
        TypeError: If it is no executor.
        ValueError: If an option is out of range, or the map cannot be sent to processes.
        ChildProcessError: If the executor is broken, no process can start, or workers die again and
            again.
        MemoryError: If a single vector does not fit the budget.
    """
    memory_budget = validation.memory_budget(memory_budget)
    shared = SharedMap(linear, executor, memory_budget=memory_budget, device=vectors.device)
    return shared.map(vectors, chunk_size=chunk_size, progress=progress, description=description)


class _Chunk(NamedTuple):
    """Vectors, and True to measure the memory of one."""

    vectors: Tensor
    measure: bool


class _Columns(NamedTuple):
    """Mapped vectors, and the size of the other chunks if it was measured."""

    vectors: Tensor
    chunk_size: int


@dataclass(frozen=True, eq=False)
class _Chunks:
    """The job: chunks of vectors."""

    linear: LinearMap
    memory_budget: int | None

    def begun(self, device: str | None) -> Callable[[_Chunk], _Columns]:
        """Prepare the map, and return the function of a chunk."""
        apply = self.linear.begun(device)

        def apply_to(chunk: _Chunk) -> _Columns:
            if not chunk.measure:
                return _Columns(apply(chunk.vectors).cpu(), len(chunk.vectors))
            columns, sizes = zip(*measured(apply, chunk.vectors, self.memory_budget), strict=True)
            return _Columns(torch.cat(columns).cpu(), sizes[-1])

        return apply_to
