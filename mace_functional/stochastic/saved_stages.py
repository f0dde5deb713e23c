"""Checkpoint files (npz) of `stochastic_thermo`: the sums over finished passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mace_functional.support.checkpoint_arrays import read_arrays, write_arrays

FORMAT = 3
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
    write_arrays(path, arrays)


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
    expected = {"format": np.array(FORMAT), **identity}
    arrays = read_arrays(path, expected, of="stochastic_thermo", rtol=TOLERANCE, atol=TOLERANCE)
    stages: list[dict[str, np.ndarray]] = []
    while f"stage{len(stages)}_steps" in arrays:
        name = f"stage{len(stages)}_"
        stages.append({k.removeprefix(name): v for k, v in arrays.items() if k.startswith(name)})
    return stages
