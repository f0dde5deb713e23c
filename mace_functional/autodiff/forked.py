"""Forked processes compute with one thread.

OpenMP starts its threads with the first computation. A process that is forked afterwards
(`multiprocessing` with the start method "fork", the default on Linux before Python 3.14) has none
of them and waits for them for ever. With one thread it needs none. Processes of the start methods
"spawn" and "forkserver" begin anew and keep all threads.
"""

from __future__ import annotations

import os
import sys


def compute_with_one_thread_when_forked() -> None:
    """From now on, children that this process forks compute with one thread of torch."""
    if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
        os.register_at_fork(after_in_child=_one_thread)


def _one_thread() -> None:
    torch = sys.modules.get("torch")
    if torch is not None:  # the parent's threads are missed only where it had imported torch
        torch.set_num_threads(1)
