"""What the tests share: where the data lies, and models and structures to test on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import mace_functional as mf  # before anything imports e3nn

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


def pytest_configure() -> None:
    """Several test processes share the cores: one thread for each, and for what they start."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)
        os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def model() -> mf.Model:
    """The embedded model; files about other models have a fixture of the same name."""
    return mf.load_model("embedded")
