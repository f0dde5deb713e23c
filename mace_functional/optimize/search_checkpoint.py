"""Checkpoint files (npz) of relaxations and searches for saddle points.

A checkpoint contains the identity of its search, so that another search does not continue from it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mace_functional.support.atomic_write import atomic_write

FORMAT = 2
"""Version of the names of arrays in a checkpoint and of their meaning."""

POSITION_TOLERANCE = 1e-8
"""Largest difference of positions and cells of the same search, Å."""


def write_checkpoint(
    path: Path, identity: Mapping[str, np.ndarray], data: Mapping[str, Any]
) -> None:
    """Write a checkpoint; an interruption never leaves an incomplete file.

    Args:
        path: File.
        identity: Arrays that are equal in all runs of one search, by name.
        data: All other arrays, by other names.
    """
    with atomic_write(path) as partial, open(partial, "wb") as file:
        arrays: dict[str, Any] = {"format": np.array(FORMAT), **identity, **data}
        np.savez(file, **arrays)


def read_checkpoint(
    path: Path, identity: Mapping[str, np.ndarray], basis: np.ndarray
) -> dict[str, np.ndarray]:
    """Read a checkpoint, and check that it belongs to the same search.

    Args:
        path: File.
        identity: Arrays that must be equal, by name.
        basis: Orthonormal columns that span the free coordinates of the search, (3N + 6, d).

    Returns:
        All arrays of the file, by name.

    Raises:
        ValueError: If the file is no checkpoint, or belongs to another search.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            data = dict(file)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no checkpoint of a search: {error}") from error
    expected = {"format": np.array(FORMAT), **identity}
    differing = [
        name
        for name, expected_array in expected.items()
        if name not in data or not _same(data[name], expected_array)
    ]
    other = data.get("basis", np.zeros(0))
    if other.shape != basis.shape or not np.allclose(other @ (other.T @ basis), basis, atol=1e-6):
        differing.append("constraints")
    if differing:
        raise ValueError(
            f"{path} belongs to another search: it differs in {', '.join(differing)}. Remove it, "
            "or name another file"
        )
    return data


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Return True if two arrays are equal, numbers within `POSITION_TOLERANCE`."""
    if one.dtype.kind == "U" or other.dtype.kind == "U":
        return bool(one.dtype.kind == other.dtype.kind and one == other)
    return one.shape == other.shape and np.allclose(one, other, atol=POSITION_TOLERANCE)
