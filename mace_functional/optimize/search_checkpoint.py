"""Checkpoints of a relaxation or a search for a saddle point: files of arrays (npz).

A checkpoint begins with the identity of the search, so that one of another search is refused.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mace_functional.support.atomic_write import atomic_write

FORMAT = 2
"""Version of the names and their meaning."""

SAME_POSITIONS = 1e-8
"""Largest difference of positions and cells of one search, Å."""


def write_checkpoint(
    path: Path, identity: Mapping[str, np.ndarray], data: Mapping[str, Any]
) -> None:
    """Write a checkpoint; the file is whole whenever the process is killed.

    Args:
        path: File.
        identity: What two runs of one search have in common.
        data: All else, by other names.
    """
    with atomic_write(path) as partial, open(partial, "wb") as file:
        arrays: dict[str, Any] = {"format": np.array(FORMAT), **identity, **data}
        np.savez(file, **arrays)


def read_checkpoint(
    path: Path, identity: Mapping[str, np.ndarray], basis: np.ndarray
) -> dict[str, np.ndarray]:
    """Read a checkpoint.

    Args:
        path: File.
        identity: That of the search that goes on.
        basis: Orthonormal columns that span its free coordinates, (3N + 6, d).

    Returns:
        All arrays of the file, by name.

    Raises:
        ValueError: If the file is no checkpoint, or one of another search.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            data = dict(file)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no checkpoint of a search: {error}") from error
    expected = {"format": np.array(FORMAT), **identity}
    differing = [
        name for name, own in expected.items() if name not in data or not _same(data[name], own)
    ]
    other = data.get("basis", np.zeros(0))
    if other.shape != basis.shape or not np.allclose(other @ (other.T @ basis), basis, atol=1e-6):
        differing.append("constraints")
    if differing:
        raise ValueError(
            f"{path} is of another search: it differs in {', '.join(differing)}. Remove it, or "
            "name another"
        )
    return data


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    if one.dtype.kind == "U" or other.dtype.kind == "U":
        return bool(one.dtype.kind == other.dtype.kind and one == other)
    return one.shape == other.shape and np.allclose(one, other, atol=SAME_POSITIONS)
