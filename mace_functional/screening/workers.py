"""Workers, and how tasks come to them: the largest first, one at a time for each.

A process of our own is a pool of one, so that when it dies it is known which structure it died of.
It ends by itself when the process that started it is no more.
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
"""How often a structure is tried whose worker dies."""

DIED = "its process died, perhaps for want of memory"

Evaluate = Callable[[Task], Record]


class Worker(Protocol):
    """Something that does one task at a time."""

    device: str

    def submit(self, evaluate: Evaluate, task: Task) -> Future[Record]:
        """Begin a task."""

    def revive(self, death: BaseException) -> None:
        """Make it work again."""

    def stop(self) -> None:
        """End it, whatever it is doing."""


@dataclass
class OwnProcess:
    """A process of our own.

    Attributes:
        device: That its model is on.
        threads: Of torch.
    """

    device: str
    threads: int
    _pool: ProcessPoolExecutor | None = None
    _begun: Future[int] | None = None
    _processes: set[multiprocessing.process.BaseProcess] = field(default_factory=set)

    def submit(self, evaluate: Evaluate, task: Task) -> Future[Record]:
        """Begin a task; the process starts with the first."""
        before = set(multiprocessing.active_children())
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                1, multiprocessing.get_context("spawn"), _begin, (self.threads,)
            )
            self._begun = self._pool.submit(os.getpid)
        future = self._pool.submit(evaluate, task)
        self._processes |= set(multiprocessing.active_children()) - before
        return future

    def revive(self, death: BaseException) -> None:
        """The next task gets a new process.

        Raises:
            ChildProcessError: If this one has died before it began with anything.
        """
        if self._begun is not None and self._begun.exception() is not None:
            raise ChildProcessError(
                "a worker died before it began. Python starts it with the program that called: "
                "what that does must stand under `if __name__ == '__main__':`"
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
    """What a process of our own does first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


@dataclass
class Borrowed:
    """A place in an executor that belongs to the caller.

    Attributes:
        device: That its model is on.
        executor: Shared by all places.
    """

    device: str
    executor: Executor
    _future: Future[Record] | None = None

    def submit(self, evaluate: Evaluate, task: Task) -> Future[Record]:
        """Begin a task."""
        self._future = self.executor.submit(evaluate, task)
        return self._future

    def revive(self, death: BaseException) -> None:
        """Dask has started another worker by itself; others break for good.

        Raises:
            ChildProcessError: If the executor works no more.
        """
        if isinstance(death, BrokenExecutor | CancelledError):
            raise ChildProcessError(
                "the executor broke, or its workers are gone: call again with a new one, to go on "
                "from there"
            ) from death

    def stop(self) -> None:
        """Cancel what has not begun. What has will end by itself."""
        if self._future is not None:
            self._future.cancel()


def own_processes(devices: Sequence[str]) -> list[OwnProcess]:
    """A process for each of the devices, which share the cores."""
    threads = max(1, min(cores() // len(devices), torch.get_num_threads()))
    return [OwnProcess(device, threads) for device in devices]


def borrowed(executor: Executor, devices: Sequence[str], count: int | None) -> list[Borrowed]:
    """Places in an executor, with devices in turn.

    Args:
        executor: Of concurrent.futures, or of Dask.
        devices: Of models.
        count: Tasks at once; as many as the executor has workers if None.
    """
    count = _workers_of(executor) if count is None else count
    return [Borrowed(devices[i % len(devices)], executor) for i in range(count)]


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def is_dask(executor: Executor) -> bool:
    """Whether an executor is one of Dask's, whose workers may be on other machines."""
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
        tasks: In any order.
        workers: That do them; they are stopped at the end, however that comes.
        evaluate: What to do; a function that can be pickled.

    Yields:
        Tasks with their records, as they come. A structure whose worker dies again has this as the
        reason of its failure.

    Raises:
        ChildProcessError: If an executor works no more, or a process cannot begin.
        Exception: What the function raises.
    """
    pending = deque(sorted(tasks, key=lambda task: task.cost, reverse=True))
    deaths: dict[str, int] = {}
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
                except _deaths() as death:
                    worker.revive(death)
                    deaths[task.key] = deaths.get(task.key, 0) + 1
                    if deaths[task.key] < ATTEMPTS:
                        pending.appendleft(task)
                        continue
                    record = task.failed(DIED)
                yield task, record
    finally:
        for worker in workers:
            worker.stop()


def _deaths() -> tuple[type[BaseException], ...]:
    """What futures raise whose worker has died."""
    own = BrokenExecutor, CancelledError
    distributed = sys.modules.get("distributed")
    return own if distributed is None else (*own, distributed.KilledWorker)
