"""Dataclasses of tensors in files (npz), an array for each field."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from mace_functional.support.checkpoint_arrays import write_arrays

T = TypeVar("T")


def save_tensors(path: Path, tensors: Any) -> None:
    """Write a dataclass of tensors to a file; the file is complete or not there."""
    write_arrays(
        path, {f.name: getattr(tensors, f.name).numpy(force=True) for f in fields(tensors)}
    )


def load_tensors(cls: type[T], path: Path) -> T:
    """Read a dataclass of tensors that `save_tensors` wrote.

    Raises:
        KeyError: If an array of a field is missing.
    """
    names = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    with np.load(path, allow_pickle=False) as arrays:
        return cls(**{name: torch.as_tensor(arrays[name]) for name in names})
