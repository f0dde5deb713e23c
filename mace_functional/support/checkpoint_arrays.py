"""Checkpoints as files of arrays (npz), with arrays that identify their calculation."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mace_functional.support.atomic_write import atomic_write


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays by name; an interruption never leaves an incomplete file."""
    with atomic_write(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)


def read_arrays(
    path: Path, identity: Mapping[str, Any], *, of: str, rtol: float = 0.0, atol: float
) -> dict[str, np.ndarray]:
    """Read all arrays of a checkpoint by name, and check that it is that of the calculation.

    Args:
        path: File.
        identity: Arrays of numbers that must be equal, by name.
        of: Name of the function that wrote it, for errors.
        rtol: Largest relative difference of these arrays.
        atol: Largest difference of these arrays.

    Raises:
        ValueError: If the file is no checkpoint, or belongs to another calculation.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no checkpoint of {of}: {error}") from error
    differing = [
        name
        for name, value in identity.items()
        if name not in arrays
        or arrays[name].shape != np.shape(value)
        or not np.allclose(arrays[name], value, rtol=rtol, atol=atol)
    ]
    if differing:
        raise ValueError(
            f"{path} belongs to another calculation: it differs in {', '.join(differing)}. Remove "
            "it, or name another file"
        )
    return arrays
