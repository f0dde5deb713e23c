"""The parts of a job, computed by many workers.

`computed` computes them in this process or in an executor, `mapped` and `completed` by workers.
Parts are independent, so results do not depend on the number of workers. The part of a worker that
dies is computed again by another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import closing
from dataclasses import replace
from typing import Any, TypeVar

import torch

from mace_functional.parallel.delivery import (
    BudgetedJob,
    Delivery,
    InMemory,
    Job,
    MissingJob,
    Pickled,
)
from mace_functional.parallel.processes import WorkerProcesses
from mace_functional.parallel.workers import Worker, died, executor_slots, memory_of_worker

ATTEMPTS = 2
"""Number of attempts for a part whose worker dies."""

P = TypeVar("P")
R = TypeVar("R")


def workers_of(
    executor: Executor, devices: Sequence[str | None] = (None,), count: int | None = None
) -> Sequence[Worker]:
    """Return the workers of an executor.

    Args:
        executor: `WorkerProcesses`, an executor of `concurrent.futures`, or one of Dask.
        devices: Devices to compute on, in turn; that of the job's data if None. Processes of
            `WorkerProcesses` have their own.
        count: Number of parts at once; the number of workers of the executor if None.

    Raises:
        TypeError: If it is no executor.
    """
    if isinstance(executor, WorkerProcesses):
        return executor.processes
    if not isinstance(executor, Executor):
        raise TypeError(
            "an executor is WorkerProcesses(n), an executor of concurrent.futures, or "
            f"get_executor() of a client of Dask, not {executor!r}"
        )
    return executor_slots(executor, devices, count)


def delivery_of(job: Job[P, R], workers: Sequence[Worker]) -> Delivery[P, R]:
    """Return the way to bring a job and its parts to workers.

    Raises:
        ValueError: If the job cannot be sent to processes.
    """
    in_memory = all(worker.in_memory for worker in workers)
    return InMemory(job) if in_memory else Pickled(job)


def computed(
    job: BudgetedJob[P, R], parts: Iterable[P], executor: Executor | None, device: torch.device
) -> Generator[R]:
    """Compute the parts of a job, and return their results in the order of the parts.

    Args:
        job: The job. Workers whose job has no memory budget share the free memory.
        parts: The parts.
        executor: Executor whose workers share the parts; None to compute in this process.
        device: Device of the job's data.

    Raises:
        TypeError: If it is no executor.
        ValueError: If the job cannot be sent to processes.
        ChildProcessError: See `mapped`.
        Exception: Exceptions of the parts, as they are.
    """
    if executor is None:
        return (result for result in map(job.begun(None), parts))
    workers = workers_of(executor)
    if job.memory_budget is None:
        job = replace(job, memory_budget=memory_of_worker(workers, device))
    return mapped(delivery_of(job, workers), parts, workers)


def mapped(delivery: Delivery[P, R], parts: Iterable[P], workers: Sequence[Worker]) -> Generator[R]:
    """Compute the parts of a job, and yield their results in the order of the parts.

    Args:
        delivery: The job, from `delivery_of`.
        parts: The parts, in the order in which they are begun.
        workers: Workers of `workers_of`.

    Raises:
        ChildProcessError: If the executor is broken, no process can start, or workers die again and
            again.
        Exception: Exceptions of the parts, as they are.
    """
    ready: dict[int, R] = {}
    following = 0
    with closing(completed(delivery, parts, workers)) as coming:
        for i, result in coming:
            ready[i] = result
            while following in ready:
                yield ready.pop(following)
                following += 1


def completed(
    delivery: Delivery[P, R],
    parts: Iterable[P],
    workers: Sequence[Worker],
    *,
    lost: Callable[[P], R] | None = None,
) -> Generator[tuple[int, R]]:
    """Compute the parts of a job, and yield their numbers and results as they are done.

    Args:
        delivery: The job, from `delivery_of`.
        parts: The parts, in the order in which they are begun.
        workers: Workers of `workers_of`; they are released at the end in any case.
        lost: Function that gives the result of a part whose worker died `ATTEMPTS` times; an error
            if None.

    Raises:
        ChildProcessError: If the executor is broken, or no process can start; without `lost`, also
            if the worker of the same part died `ATTEMPTS` times.
        Exception: Exceptions of the parts, as they are.
    """
    pending, again = enumerate(parts), deque[tuple[int, P]]()
    n_deaths: dict[int, int] = {}
    running: dict[Future[Any], tuple[int, P, Worker]] = {}
    idle = deque(workers)
    try:
        while True:
            while idle and (following := again.popleft() if again else next(pending, None)):
                (i, part), worker = following, idle.popleft()
                running[delivery.submit(worker, part, with_job=False)] = i, part, worker
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                i, part, worker = running.pop(future)
                try:
                    result = delivery.result(future)
                except died() as death:
                    worker.restart(death)
                    idle.append(worker)
                    n_deaths[i] = n_deaths.get(i, 0) + 1
                    if n_deaths[i] < ATTEMPTS:
                        again.append((i, part))
                        continue
                    if lost is None:
                        raise ChildProcessError(
                            f"workers died {n_deaths[i]} times in the same part, perhaps for want "
                            "of memory: take fewer workers, or a smaller memory_budget"
                        ) from death
                    result = lost(part)
                if isinstance(result, MissingJob):
                    running[delivery.submit(worker, part, with_job=True)] = i, part, worker
                    continue
                idle.append(worker)
                yield i, result
    finally:
        for worker in workers:
            worker.release()
