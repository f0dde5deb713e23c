"""Workers of Dask, on this machine or on those of a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

from mace_functional.parallel.workers import cores
from mace_functional.support.defaults import LOCAL
from mace_functional.support.renamed import positional_for_a_release


@positional_for_a_release("workers")
@contextmanager
def dask_executor(address: str, *, workers: int | None = None) -> Iterator[Executor]:
    """An executor of Dask, for `executor=` of functions that take many workers.

    Args:
        address: Address of the scheduler, such as "tcp://host:8786"; or "local" for processes of
            one thread on this machine, which end with the executor.
        workers: Number of local processes; the number of cores if None.

    Yields:
        The executor.

    Raises:
        ValueError: If `workers` is not positive.
        ImportError: If Dask is not installed.
        OSError: If no scheduler answers at the address.
    """
    if workers is not None and workers < 1:
        raise ValueError("workers must be positive")
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise ImportError(
            "Dask is not installed: pip install 'mace_functional[dask]', or leave out Dask to use "
            "processes on this machine"
        ) from error
    if address != LOCAL:
        with Client(address) as client:
            yield client.get_executor()
        return
    count = cores() if workers is None else workers
    with (
        LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield client.get_executor()
