"""Workers: something that computes one part of a job at a time.

Workers are slots in an executor of the caller, or processes of `WorkerProcesses`. Such a process is
a pool with one process, so that it is known on which part it died. It ends when the process that
started it has ended.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from dataclasses import dataclass, field
from multiprocessing.connection import wait as wait_for
from typing import Any, Protocol

import torch

from mace_functional.autodiff.memory import BUDGET_FRACTION, free_memory


class Worker(Protocol):
    """Something that computes one part of a job at a time.

    Attributes:
        device: Device to compute on; that of the job's data if None.
        threads: Number of threads of torch; that of the worker itself if None.
        in_memory: True if it shares the memory of the caller.
    """

    @property
    def device(self) -> str | None: ...  # noqa: D102

    @property
    def threads(self) -> int | None: ...  # noqa: D102

    @property
    def in_memory(self) -> bool: ...  # noqa: D102

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Begin a call."""

    def restart(self, death: BaseException) -> None:
        """Make it ready for the next call after its death."""

    def release(self) -> None:
        """End its call, if there is one, so that it is free for others."""


@dataclass
class OwnProcess:
    """A process that `WorkerProcesses` starts and ends.

    Attributes:
        device: Device to compute on.
        threads: Number of threads of torch.
    """

    device: str | None
    threads: int | None
    in_memory = False
    _pool: ProcessPoolExecutor | None = None
    _begun: Future[int] | None = None
    _futures: set[Future[Any]] = field(default_factory=set)
    _processes: set[multiprocessing.process.BaseProcess] = field(default_factory=set)

    @property
    def futures(self) -> set[Future[Any]]:
        """Calls that are not done."""
        self._futures = {future for future in self._futures if not future.done()}
        return self._futures

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Begin a call; the first one starts the process."""
        before = set(multiprocessing.active_children())
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                1, multiprocessing.get_context("spawn"), _begin, (self.threads,)
            )
            self._begun = self._pool.submit(os.getpid)
        future = self._pool.submit(function, *args)
        self._futures.add(future)
        self._processes |= set(multiprocessing.active_children()) - before
        return future

    def restart(self, death: BaseException) -> None:
        """End the process, so that the next call starts a new one.

        Raises:
            ChildProcessError: If the process died before its first call.
        """
        if self._begun is not None and self._begun.exception() is not None:
            raise ChildProcessError(
                "a worker died before its first task. Each worker imports the calling script, "
                "which must start the computation under `if __name__ == '__main__':`"
            ) from death
        self.stop()

    def release(self) -> None:
        """End the process if it is busy; the next call starts a new one."""
        if self.futures:
            self.stop()

    def stop(self) -> None:
        """End the process."""
        for process in self._processes:
            process.kill()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._pool, self._processes = None, set()


def _begin(threads: int | None) -> None:
    """Prepare an own process: interrupts, threads, and its end with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    if threads is not None:
        torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


@dataclass
class ExecutorSlot:
    """One of the calls at once in an executor of the caller.

    Attributes:
        device: Device to compute on; that of the job's data if None.
        executor: The executor, which all slots share.
    """

    device: str | None
    executor: Executor
    _future: Future[Any] | None = None

    @property
    def threads(self) -> int | None:
        """Number of threads of torch: that of the caller, except for threads and Dask."""
        return None if self.in_memory or is_dask(self.executor) else torch.get_num_threads()

    @property
    def in_memory(self) -> bool:
        """True for threads."""
        return isinstance(self.executor, ThreadPoolExecutor)

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Begin a call.

        Raises:
            ChildProcessError: If the executor is broken.
        """
        with warnings.catch_warnings():
            # Dask's advice on large data is for data that travel with every task.
            warnings.filterwarnings("ignore", message="Sending large graph")
            try:
                self._future = self.executor.submit(function, *args)
            except BrokenExecutor as death:
                self.restart(death)
        assert self._future is not None
        return self._future

    def restart(self, death: BaseException) -> None:
        """Do nothing for Dask, which restarts its workers; other executors cannot restart.

        Raises:
            ChildProcessError: If the executor is broken.
        """
        if isinstance(death, BrokenExecutor | CancelledError):
            raise ChildProcessError(
                "the executor broke, or its workers are gone: call again with a new executor to "
                "continue, or take WorkerProcesses, which starts dead processes again"
            ) from death

    def release(self) -> None:
        """Cancel the call if it has not begun; otherwise it ends by itself."""
        if self._future is not None:
            self._future.cancel()


def executor_slots(
    executor: Executor, devices: Sequence[str | None], count: int | None
) -> list[ExecutorSlot]:
    """Make slots in an executor, with the devices in turn.

    Args:
        executor: Executor of concurrent.futures or Dask.
        devices: Devices to compute on; that of the job's data if None.
        count: Number of calls at once; the number of workers of the executor if None.
    """
    count = _workers_of(executor) if count is None else count
    return [ExecutorSlot(devices[i % len(devices)], executor) for i in range(count)]


def cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def is_dask(executor: Executor) -> bool:
    """True for an executor of Dask, whose workers may be on other machines."""
    return type(executor).__module__.startswith("distributed")


def memory_of_worker(workers: Sequence[Worker], device: torch.device | str) -> int | None:
    """Return the share of each worker in the memory for second derivatives, bytes.

    None on GPUs and on other machines, where workers measure it.

    Args:
        workers: The workers.
        device: Device of the job's data.
    """
    elsewhere = any(isinstance(w, ExecutorSlot) and is_dask(w.executor) for w in workers)
    kinds = {torch.device(w.device or device).type for w in workers}
    if elsewhere or kinds != {"cpu"}:
        return None
    return int(BUDGET_FRACTION * free_memory(torch.device("cpu")) / len(workers))


def died() -> tuple[type[BaseException], ...]:
    """Exceptions of futures whose worker has died."""
    own = BrokenExecutor, CancelledError
    distributed = sys.modules.get("distributed")
    return own if distributed is None else (*own, distributed.KilledWorker)


def _workers_of(executor: Executor) -> int:
    if is_dask(executor):
        return max(1, len(executor._client.nthreads()))  # type: ignore[attr-defined]
    return int(getattr(executor, "_max_workers", 1))
