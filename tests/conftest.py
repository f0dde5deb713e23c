"""What the tests share: where the data lies, and models and structures to test on."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import mace  # noqa: F401  (before e3nn, whose constants torch otherwise refuses to load)
import pytest
import torch
from models import float64_default
from slow_groups import GROUPS, group_of, today

import mace_functional as mf
from mace_functional.screening import drawing
from mace_functional.screening import run as screen_run
from mace_functional.screening.page import PngFigure

ROOT = Path(__file__).resolve().parent.parent


def shared_folder() -> Path:
    """The folder with foundation model weights and benchmark structures."""
    return Path(os.environ.get("MACE_FUNCTIONAL_SHARED", ROOT.parent / "shared"))


def shared_file(*parts: str) -> Path:
    """A file of the shared folder; the test is skipped where it is missing."""
    path = shared_folder().joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is missing: set MACE_FUNCTIONAL_SHARED to the folder that has it")
    return path


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--slow",
        choices=[*GROUPS, "today"],
        help="run the slow tests of this group, or of the group of the day, and no others",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Choose the slow tests; one thread for each of several test processes that share the cores."""
    if config.option.slow is not None:
        config.option.markexpr = "slow"
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)
        os.environ["OMP_NUM_THREADS"] = "1"


def checked_and_replaced(executor: Executor) -> Callable[..., AbstractContextManager[Executor]]:
    """What takes the options of `WorkerProcesses`, and gives an executor that starts at once."""

    def processes(*args: Any, **options: Any) -> AbstractContextManager[Executor]:
        mf.WorkerProcesses(*args, **options)  # starts no process before its first task
        return nullcontext(executor)

    return processes


@pytest.fixture
def screens_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Screenings take one thread of this process, which starts at once, for their workers."""
    with ThreadPoolExecutor(1) as executor:
        monkeypatch.setattr(screen_run, "WorkerProcesses", checked_and_replaced(executor))
        yield


@pytest.fixture
def blank_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of a report are made but not drawn, which takes most of its time."""
    monkeypatch.setattr(
        drawing, "_image", lambda figure: PngFigure(b"\x89PNG", figure.get_figwidth())
    )


@pytest.fixture
def float64_default_dtype() -> Iterator[None]:
    """mace-torch builds its tensors in the default dtype."""
    with float64_default():
        yield


@pytest.fixture(scope="session")
def model() -> mf.MaceModel:
    """The embedded model; files about other models have a fixture of the same name."""
    return mf.load_model("embedded")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the other groups of slow tests; a slow test without a group is an error."""
    groups = {}
    for item in items:
        if item.get_closest_marker("slow") is not None:
            path = item.path.relative_to(ROOT / "tests").as_posix()
            groups[item] = group_of(path)
            if groups[item] is None:
                raise pytest.UsageError(f"{path} has slow tests: name it in tests/slow_groups.py")
    chosen = config.option.slow
    if chosen is not None:
        chosen = today() if chosen == "today" else chosen
        left_out = [item for item in items if groups.get(item) != chosen]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if groups.get(item) == chosen]


def pytest_collection_finish() -> None:
    """What is there once all tests are collected stays: the garbage collector may leave it out."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


def pytest_report_header(config: pytest.Config) -> str | None:
    chosen = config.option.slow
    return None if chosen is None else f"slow tests: {today() if chosen == 'today' else chosen}"
