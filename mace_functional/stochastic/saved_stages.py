"""Checkpoint files (npz) of `stochastic_thermo`: the sums over finished passes."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mace_functional.support.atomic_write import atomic_write

FORMAT = 2
"""Version of the names of arrays in a checkpoint and of their meaning."""

TOLERANCE = 1e-7
"""Largest difference of positions (Å), cells (Å) and relative energies of the same calculation."""


def write_stages(
    path: Path, identity: Mapping[str, Any], stages: Sequence[Mapping[str, np.ndarray]]
) -> None:
    """Write the sums of all stages; an interruption never leaves an incomplete file.

    Args:
        path: File.
        identity: Arrays that are equal in all runs of one calculation, by name.
        stages: Arrays of each stage, by name.
    """
    arrays: dict[str, Any] = {"format": np.array(FORMAT), **identity}
    for k, stage in enumerate(stages):
        arrays |= {f"stage{k}_{name}": value for name, value in stage.items()}
    with atomic_write(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)


def read_stages(path: Path, identity: Mapping[str, Any]) -> list[dict[str, np.ndarray]]:
    """Read the sums of a checkpoint; none if the file does not exist.

    Args:
        path: File.
        identity: Arrays that must be equal, by name.

    Raises:
        ValueError: If the file is no checkpoint, or belongs to another calculation.
    """
    if not path.exists():
        return []
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no checkpoint of stochastic_thermo: {error}") from error
    expected = {"format": np.array(FORMAT), **identity}
    differing = [
        name
        for name, value in expected.items()
        if name not in arrays
        or arrays[name].shape != np.shape(value)
        or not np.allclose(arrays[name], value, rtol=TOLERANCE, atol=TOLERANCE)
    ]
    if differing:
        raise ValueError(
            f"{path} belongs to another calculation: it differs in {', '.join(differing)}. Remove "
            "it, or name another file"
        )
    stages: list[dict[str, np.ndarray]] = []
    while f"stage{len(stages)}_steps" in arrays:
        name = f"stage{len(stages)}_"
        stages.append({k.removeprefix(name): v for k, v in arrays.items() if k.startswith(name)})
    return stages
