"""Jobs and how they reach workers: the common data travels once to each worker.

A job is one computation for many independent parts, such as the modes of a crystal at many wave
vectors. The data that all parts need, such as potential and structure, belong to the job.

A part is sent with the digest of its job. A worker that has not seen the job says so, and the part
is sent to it again together with the job. This works for workers of every kind: those that came
later, that were started again, and on other machines. A worker keeps the last job, with all that it
has prepared, until another job comes or the worker ends. Threads share memory with the caller, and
get the job itself.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar

import torch

P = TypeVar("P")
P_contra = TypeVar("P_contra", contravariant=True)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Job(Protocol[P_contra, R_co]):
    """A computation for many independent parts."""

    def begun(self, device: str | None) -> Callable[[P_contra], R_co]:
        """Prepare the computation in a worker, and return the function that computes a part.

        Results are sent back as they are, so tensors should be on the CPU.

        Args:
            device: Device to compute on; that of the job's data if None.
        """


class BudgetedJob(Job[P_contra, R_co], Protocol[P_contra, R_co]):
    """A job, a dataclass, whose parts fill at most a number of bytes.

    Attributes:
        memory_budget: The number; None for a fraction of the free memory.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def memory_budget(self) -> int | None: ...  # noqa: D102


class Submit(Protocol):
    """A worker, as far as a delivery needs it."""

    @property
    def device(self) -> str | None: ...  # noqa: D102

    @property
    def threads(self) -> int | None: ...  # noqa: D102

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Begin a call of a function in the worker."""


class Delivery(Protocol[P_contra, R_co]):
    """A way to bring a job and its parts to workers."""

    def submit(self, worker: Submit, part: P_contra, *, with_job: bool) -> Future[Any]:
        """Send a part to a worker, and the job too if `with_job`."""

    def result(self, future: Future[Any]) -> R_co | MissingJob:
        """Return the result of a part, or `MISSING` if its worker does not have the job."""


@dataclass(frozen=True)
class MissingJob:
    """Answer of a worker that does not have the job of a part."""


MISSING: Final = MissingJob()


class InMemory(Generic[P, R]):
    """The delivery to threads. Each thread prepares the job for itself.

    Args:
        job: The job.
    """

    def __init__(self, job: Job[P, R]) -> None:
        self._job = job
        self._of_thread = threading.local()

    def submit(self, worker: Submit, part: P, *, with_job: bool) -> Future[R]:
        """Begin a part in a worker."""
        return worker.submit(self._run, worker.device, part)

    def result(self, future: Future[R]) -> R:
        """Return the result of a part."""
        return future.result()

    def _run(self, device: str | None, part: P) -> R:
        begun: dict[str | None, Callable[[P], R]] = vars(self._of_thread).setdefault("begun", {})
        if device not in begun:
            begun[device] = self._job.begun(device)
        return begun[device](part)


class Pickled(Generic[P, R]):
    """The delivery to processes, on this machine or on others.

    Args:
        job: The job.

    Raises:
        ValueError: If the job cannot be pickled.
    """

    def __init__(self, job: Job[P, R]) -> None:
        self._data = pickled(job)
        self._digest = hashlib.sha256(self._data).hexdigest()

    def submit(self, worker: Submit, part: P, *, with_job: bool) -> Future[bytes | None]:
        """Send a part to a worker, and the job too if `with_job`."""
        data = self._data if with_job else None
        # Plain bytes: torch's own way between processes holds a file open for each tensor.
        return worker.submit(
            _run, self._digest, data, worker.device, worker.threads, pickle.dumps(part)
        )

    def result(self, future: Future[bytes | None]) -> R | MissingJob:
        """Return the result of a part, or `MISSING` if its worker does not have the job."""
        answer = future.result()
        if answer is None:
            return MISSING
        result: R = pickle.loads(answer)
        return result


def pickled(data: object) -> bytes:
    """Return pickled data.

    Raises:
        ValueError: If they cannot be pickled, such as a potential with a local function.
    """
    try:
        return pickle.dumps(data)
    except Exception as error:  # whatever a class raises that cannot be pickled
        raise ValueError(
            f"{data} cannot be sent to processes ({error}): define its functions in a module, "
            "or use threads, executor=ThreadPoolExecutor(1)"
        ) from error


class _Kept(threading.local):
    """The last job of a thread of a worker, and its functions on each device."""

    digest = ""
    job: Any = None

    def __init__(self) -> None:
        self.begun: dict[str | None, Callable[[Any], Any]] = {}


_kept = _Kept()


def _run(
    digest: str, data: bytes | None, device: str | None, threads: int | None, part: bytes
) -> bytes | None:
    """Compute a part in a worker; None if the job is missing."""
    if threads is not None and not _is_forked() and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    if _kept.digest != digest:
        _kept.digest, _kept.job, _kept.begun = "", None, {}  # frees the memory of the last job
        if data is None:
            return None
        _kept.job = pickle.loads(data)
        _kept.digest = digest
    if device not in _kept.begun:
        _kept.begun[device] = _kept.job.begun(device)
    return pickle.dumps(_kept.begun[device](pickle.loads(part)))


def _is_forked() -> bool:
    """True in a forked process, which cannot have more than one thread of torch."""
    return type(multiprocessing.current_process()).__name__ == "ForkProcess"
