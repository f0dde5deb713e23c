"""Checkpoint files (npz) of `quasi_harmonic`: strained cells, and finished wave vectors of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mace_functional.support.checkpoint_arrays import read_arrays, write_arrays

FORMAT = 1
"""Version of the names of arrays in a checkpoint and of their meaning."""

TOLERANCE = 1e-7
"""Largest difference of positions (Å), cells (Å) and energies (eV) of the same calculation."""


@dataclass(eq=False)
class SavedCell:
    """A strained cell with the wave vectors that are finished.

    Attributes:
        positions: Relaxed positions, Å, (N, 3).
        cell: Lattice vectors, Å, (3, 3).
        n_gradients: Number of gradients of its relaxation.
        matrices: D and dD/de at the finished wave vectors, each complex (1 + S, M, M).
    """

    positions: np.ndarray
    cell: np.ndarray
    n_gradients: int
    matrices: list[Tensor] = field(default_factory=list)


def write_cells(path: Path, identity: Mapping[str, Any], cells: Sequence[SavedCell]) -> None:
    """Write all cells; an interruption never leaves an incomplete file.

    Args:
        path: File.
        identity: Arrays that are equal in all runs of one calculation, by name.
        cells: The cells.
    """
    arrays: dict[str, Any] = {"format": np.array(FORMAT), **identity}
    for k, cell in enumerate(cells):
        arrays[f"cell{k}_positions"] = cell.positions
        arrays[f"cell{k}_cell"] = cell.cell
        arrays[f"cell{k}_n_gradients"] = np.array(cell.n_gradients)
        for i, matrices in enumerate(cell.matrices):
            arrays[f"cell{k}_matrices{i}"] = matrices.cpu().numpy()
    write_arrays(path, arrays)


def read_cells(path: Path, identity: Mapping[str, Any]) -> list[SavedCell]:
    """Read the cells of a checkpoint; none if the file does not exist.

    Args:
        path: File.
        identity: Arrays that must be equal, by name.

    Raises:
        ValueError: If the file is no checkpoint, or belongs to another calculation.
    """
    if not path.exists():
        return []
    expected = {"format": np.array(FORMAT), **identity}
    arrays = read_arrays(path, expected, of="quasi_harmonic", atol=TOLERANCE)
    cells: list[SavedCell] = []
    while f"cell{len(cells)}_cell" in arrays:
        name = f"cell{len(cells)}"
        cell = SavedCell(
            arrays[f"{name}_positions"], arrays[f"{name}_cell"], int(arrays[f"{name}_n_gradients"])
        )
        while (key := f"{name}_matrices{len(cell.matrices)}") in arrays:
            cell.matrices.append(torch.as_tensor(arrays[key]))
        cells.append(cell)
    return cells
