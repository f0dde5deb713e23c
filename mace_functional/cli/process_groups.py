"""Processes that `torchrun` starts, which share the structures of each training step."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


def is_first() -> bool:
    """Return True in the process that prints and writes files, or in the only process."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def process_group(device: str) -> Iterator[str]:
    """Join the process group, if `torchrun` started this process.

    Processes other than the first one do not warn.

    Args:
        device: Device of the only process. Of several, each takes the GPU of its number on its
            machine if this is a GPU.

    Yields:
        The device of this process.

    Raises:
        ValueError: If there are fewer GPUs than processes, or the environment is not that of
            `torchrun`.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield device
        return
    import torch
    from torch import distributed

    from mace_functional.support.validation import compute_device

    backend = "gloo"
    if device != "cpu":
        device = str(compute_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}"))
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend)
    try:
        with warnings.catch_warnings():
            if not is_first():
                warnings.simplefilter("ignore")
            yield device
    finally:
        distributed.destroy_process_group()
