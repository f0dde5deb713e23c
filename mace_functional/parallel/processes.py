"""Processes on this machine as an executor, each with a device of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from concurrent.futures import wait as wait_for
from functools import partial
from typing import Any

import torch
from typing_extensions import override

from mace_functional.parallel.workers import OwnProcess, cores
from mace_functional.support import validation


class WorkerProcesses(Executor):
    """Processes on this machine, for `executor=` of functions that take many workers.

    A process that dies is started again, and what it computed is computed again. Processes start
    with their first task, import the calling script, and end with the executor or with the process
    that made it. A script must therefore use them under `if __name__ == "__main__":`.

    Args:
        workers: Number of processes on the CPU; the number of cores if None.
        devices: Device of each process, such as "cuda:0" and "cuda:1", in place of `workers`.
        threads: Number of threads of torch of each process. If None, an equal share of the cores,
            and at most the caller's number. Results agree with those of the caller to the last
            digit if the number is that of the caller, `torch.get_num_threads()`.

    Attributes:
        processes: The processes.

    Raises:
        ValueError: If workers and devices are both given, a number is not positive, or a device
            does not exist.

    Example:
        >>> import mace_functional as mf
        >>> with mf.WorkerProcesses(2) as executor:
        ...     len(executor.processes)
        2
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        devices: Sequence[str] | None = None,
        threads: int | None = None,
    ) -> None:
        if devices is None:
            count = cores() if workers is None else validation.count("workers", workers)
            devices = ["cpu"] * count
        elif workers is not None:
            raise ValueError("workers is for the CPU: name a device for each process instead")
        if not devices:
            raise ValueError("processes need at least one device")
        for device in devices:
            validation.compute_device(device)
        if threads is None:
            threads = max(1, min(cores() // len(devices), torch.get_num_threads()))
        else:
            threads = validation.count("threads", threads)
        self.processes = [OwnProcess(device, threads) for device in devices]

    def __repr__(self) -> str:
        return f"WorkerProcesses({', '.join(str(p.device) for p in self.processes)})"

    @override
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        process = min(self.processes, key=lambda p: len(p.futures))
        try:
            return process.submit(partial(fn, *args, **kwargs))
        except BrokenExecutor:
            process.stop()
            return process.submit(partial(fn, *args, **kwargs))

    @override
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if wait and not cancel_futures:
            wait_for({future for process in self.processes for future in process.futures})
        for process in self.processes:
            process.stop()
