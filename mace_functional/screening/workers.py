"""Workers and their tasks: each worker does one task at a time, the largest first.

An own process is a pool with one process, so that it is known on which structure it died. It ends
when the process that started it has ended.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait as wait_for
from typing import Protocol

import torch

from mace_functional.screening.evaluate import Task
from mace_functional.screening.record import Record

ATTEMPTS = 2
"""Number of attempts for a structure whose worker dies."""

DIED = "its process died, perhaps for want of memory"

Evaluate = Callable[[Task], Record]


class Worker(Protocol):
    """Something that does one task at a time."""

    device: str

    def submit(self, evaluate: Evaluate, task: Task) -> Future[Record]:
        """Begin a task."""

    def restart(self, death: BaseException) -> None:
        """Make it ready for the next task after its death."""

    def stop(self) -> None:
        """End it, even during a task."""


@dataclass
class OwnProcess:
    """A process that the screening starts and ends.

    Attributes:
        device: Device of its model.
        threads: Number of threads of torch.
    """

    device: str
    threads: int
    _pool: ProcessPoolExecutor | None = None
    _begun: Future[int] | None = None
    _processes: set[multiprocessing.process.BaseProcess] = field(default_factory=set)

    def submit(self, evaluate: Evaluate, task: Task) -> Future[Record]:
        """Begin a task; the first one starts the process."""
        before = set(multiprocessing.active_children())
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                1, multiprocessing.get_context("spawn"), _begin, (self.threads,)
            )
            self._begun = self._pool.submit(os.getpid)
        future = self._pool.submit(evaluate, task)
        self._processes |= set(multiprocessing.active_children()) - before
        return future

    def restart(self, death: BaseException) -> None:
        """End the process, so that the next task starts a new one.

        Raises:
            ChildProcessError: If the process died before its first task.
        """
        if self._begun is not None and self._begun.exception() is not None:
            raise ChildProcessError(
                "a worker died before its first task. Each worker imports the calling script, "
                "which must call `screen` under `if __name__ == '__main__':`"
            ) from death
        self.stop()

    def stop(self) -> None:
        """End the process."""
        for process in self._processes:
            process.kill()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._pool, self._processes = None, set()


def _begin(threads: int) -> None:
    """Prepare an own process: interrupts, threads, and its end with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


@dataclass
class ExecutorSlot:
    """One of the tasks at once in an executor of the caller.

    Attributes:
        device: Device of its model.
        executor: The executor, which all slots share.
    """

    device: str
    executor: Executor
    _future: Future[Record] | None = None

    def submit(self, evaluate: Evaluate, task: Task) -> Future[Record]:
        """Begin a task."""
        self._future = self.executor.submit(evaluate, task)
        return self._future

    def restart(self, death: BaseException) -> None:
        """Do nothing for Dask, which restarts its workers; other executors cannot restart.

        Raises:
            ChildProcessError: If the executor is broken.
        """
        if isinstance(death, BrokenExecutor | CancelledError):
            raise ChildProcessError(
                "the executor broke, or its workers are gone: call again with a new executor to "
                "continue"
            ) from death

    def stop(self) -> None:
        """Cancel the task if it has not begun; otherwise it ends by itself."""
        if self._future is not None:
            self._future.cancel()


def own_processes(devices: Sequence[str]) -> list[OwnProcess]:
    """Make a process for each device; they share the cores."""
    threads = max(1, min(cores() // len(devices), torch.get_num_threads()))
    return [OwnProcess(device, threads) for device in devices]


def executor_slots(
    executor: Executor, devices: Sequence[str], count: int | None
) -> list[ExecutorSlot]:
    """Make slots in an executor, with the devices in turn.

    Args:
        executor: Executor of concurrent.futures or Dask.
        devices: Devices of models.
        count: Number of tasks at once; the number of workers of the executor if None.
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


def _workers_of(executor: Executor) -> int:
    if is_dask(executor):
        return max(1, len(executor._client.nthreads()))  # type: ignore[attr-defined]
    return int(getattr(executor, "_max_workers", 1))


def completed(
    tasks: Sequence[Task], workers: Sequence[Worker], evaluate: Evaluate
) -> Generator[tuple[Task, Record], None, None]:
    """Do all tasks, the most costly first.

    Args:
        tasks: The tasks, in any order.
        workers: Workers that do them; they are stopped at the end in any case.
        evaluate: Function that does a task; it can be pickled.

    Yields:
        Tasks with their records, as they are done. A structure whose worker dies twice fails.

    Raises:
        ChildProcessError: If an executor is broken, or a process cannot start.
        Exception: Exceptions of the function.
    """
    pending = deque(sorted(tasks, key=lambda task: task.cost, reverse=True))
    n_deaths: dict[str, int] = {}
    running: dict[Future[Record], tuple[Task, Worker]] = {}
    idle = deque(workers)
    try:
        while pending or running:
            while pending and idle:
                task, worker = pending.popleft(), idle.popleft()
                future = worker.submit(evaluate, replace(task, device=worker.device))
                running[future] = task, worker
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task, worker = running.pop(future)
                idle.append(worker)
                try:
                    record = future.result()
                except _worker_died() as death:
                    worker.restart(death)
                    n_deaths[task.key] = n_deaths.get(task.key, 0) + 1
                    if n_deaths[task.key] < ATTEMPTS:
                        pending.appendleft(task)
                        continue
                    record = task.failed(DIED)
                yield task, record
    finally:
        for worker in workers:
            worker.stop()


def _worker_died() -> tuple[type[BaseException], ...]:
    """Exceptions of futures whose worker has died."""
    own = BrokenExecutor, CancelledError
    distributed = sys.modules.get("distributed")
    return own if distributed is None else (*own, distributed.KilledWorker)
