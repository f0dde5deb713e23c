"""Options for many workers: processes, GPUs, and Dask."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from mace_functional.cli.arguments import Parser, UsageError, is_any_of, number, words_of
from mace_functional.cli.options import device
from mace_functional.support.defaults import LOCAL
from mace_functional.support.validation import count

if TYPE_CHECKING:
    from concurrent.futures import Executor

MAX_WORKERS = 1024
"""Largest accepted number of workers."""

DEVICES = is_any_of(r"(cpu|cuda)(:\d+)?")
"""True for a word that names a device."""


def add_workers(parser: Parser, shared: str) -> None:
    """Add --workers, --devices and --dask to a subcommand that computes one structure.

    Args:
        parser: Parser of the subcommand.
        shared: What the workers share, for the help.
    """
    parser.add_argument(
        "--workers",
        type=number("--workers", count, 1, MAX_WORKERS),
        metavar="n",
        help=f"processes on the CPU that share {shared}, from 1 to {MAX_WORKERS} (this process)",
    )
    parser.add_several(
        "--devices",
        can_be=DEVICES,
        type=words_of(device("--devices")),
        metavar="DEVICE,DEVICE,...",
        help=f"GPUs that share {shared}, with a process for each: cuda:0 cuda:1 ...",
    )
    parser.add_argument(
        "--dask",
        metavar="ADDRESS",
        help=f"share {shared} among the workers of this Dask scheduler, or {LOCAL} for --workers "
        "Dask workers on this machine; needs the extra `dask`",
    )


def check_workers(options: argparse.Namespace) -> None:
    """Raise an error for options of `add_workers` that contradict each other.

    Raises:
        UsageError: If options contradict each other.
    """
    if options.devices is not None and (options.workers is not None or options.dask is not None):
        raise UsageError("--devices makes a process for each GPU: leave out --workers and --dask")
    if options.workers is not None and options.dask not in (None, LOCAL):
        raise UsageError(f"a Dask scheduler knows its workers: --workers needs --dask {LOCAL}")


def executor_of(options: argparse.Namespace) -> AbstractContextManager[Executor | None]:
    """Return the executor that the options of `add_workers` describe; None for this process."""
    if options.dask is not None:
        from mace_functional.parallel.dask_workers import dask_executor

        return dask_executor(options.dask, workers=options.workers)
    if options.devices is None and options.workers in (None, 1):
        return nullcontext()
    from mace_functional.parallel.processes import WorkerProcesses

    return WorkerProcesses(options.workers, devices=options.devices)
