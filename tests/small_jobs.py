"""Small jobs, which worker processes import by name."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed

import mace_functional as mf


@dataclass(frozen=True)
class Squares:
    """Squares of numbers. Each preparation leaves a file behind in `folder`."""

    folder: Path
    data: bytes = b""

    def begun(self, device: str | None) -> Callable[[int], int]:
        (self.folder / f"{os.getpid()}-{device}-{time.monotonic_ns()}").touch()
        return lambda n: n * n


@dataclass(frozen=True)
class DiesOnce:
    """Squares of numbers, but the first process that is given `victim` dies; all if `always`."""

    folder: Path
    victim: int
    always: bool = False

    def begun(self, device: str | None) -> Callable[[int], int]:
        def square(n: int) -> int:
            if n == self.victim:
                deaths = len(list(self.folder.iterdir()))
                if self.always or not deaths:
                    (self.folder / str(deaths)).touch()
                    os.kill(os.getpid(), signal.SIGKILL)
            return n * n

        return square


@dataclass(frozen=True)
class Raises:
    """An error for odd numbers."""

    def begun(self, device: str | None) -> Callable[[int], int]:
        def check(n: int) -> int:
            if n % 2:
                raise FloatingPointError(f"{n} is odd")
            return n

        return check


@dataclass(frozen=True)
class Sleeps:
    """Seconds of sleep, so that results come in another order than parts."""

    def begun(self, device: str | None) -> Callable[[float], float]:
        def sleep(seconds: float) -> float:
            time.sleep(seconds)
            return seconds

        return sleep


@dataclass(frozen=True)
class Threads:
    """The number of threads of torch and the process, for any part."""

    def begun(self, device: str | None) -> Callable[[object], tuple[int, int]]:
        return lambda _: (torch.get_num_threads(), os.getpid())


@dataclass(frozen=True)
class Matrix:
    """Products with a matrix, which fail for more than `most` vectors at once."""

    matrix: torch.Tensor
    most: int = 10**6

    def begun(self, device: str | None) -> Callable[[torch.Tensor], torch.Tensor]:
        def apply(vectors: torch.Tensor) -> torch.Tensor:
            assert len(vectors) <= self.most
            return vectors @ self.matrix

        return apply


def train_in_group(rank: int, folder: str, processes: int, options: dict[str, Any]) -> None:
    """Train the model in a folder as one of several processes, and save what it finds."""
    place = Path(folder)
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{place / 'group'}", rank=rank, world_size=processes
    )
    model, data = torch.load(place / "model-and-data.pt", weights_only=False)
    found = mf.training.finetune(model, data, checkpoint=place / "state.pt", **options)
    mf.save_model(found.potential, place / f"found-{rank}.safetensors")
    distributed.destroy_process_group()


def train_until_killed(rank: int, folder: str, steps: int, options: dict[str, Any]) -> None:
    """Train the model in a folder, and end by SIGKILL after some steps."""
    place, calls = Path(folder), 0
    torch.set_num_threads(1)
    mf.training.training_run.SAVE_SECONDS = 0.0
    model, data = torch.load(place / "model-and-data.pt", weights_only=False)

    def kill(params: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls > steps:
            os.kill(os.getpid(), signal.SIGKILL)
        return 0 * params["readouts.0.linear.weight"].sum()

    objectives = {"none": kill}
    mf.training.finetune(
        model, data, checkpoint=place / "state.pt", objectives=objectives, **options
    )
