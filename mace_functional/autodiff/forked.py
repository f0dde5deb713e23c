"""One thread for torch in forked processes.

OpenMP starts its threads with the first computation. A process that is forked afterwards
(`multiprocessing` with the start method "fork", the default on Linux before Python 3.14) has no
copies of these threads and waits for them forever. With one thread it does not need them. Processes
of the start methods "spawn" and "forkserver" start their own threads and keep all of them.
"""

from __future__ import annotations

import os
import sys


def compute_with_one_thread_when_forked() -> None:
    """Let every process that this one forks from now on use one thread of torch."""
    if hasattr(os, "register_at_fork"):  # absent on Windows, which has no fork
        os.register_at_fork(after_in_child=_one_thread)


def _one_thread() -> None:
    torch = sys.modules.get("torch")
    if torch is not None:  # a process without torch has started no threads
        torch.set_num_threads(1)
