"""Checkpoint files (npz) of relaxations and searches for saddle points.

A checkpoint contains the identity of its search, so that another search does not continue from it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from mace_functional.optimize.coordinates import Matrix
from mace_functional.optimize.dense_hessian import DenseHessian, HessianModel
from mace_functional.optimize.limited_hessian import LimitedHessian, Update
from mace_functional.optimize.sparse_factors import SparseFactors
from mace_functional.support.checkpoint_arrays import write_arrays

FORMAT = 2
"""Version of the names of arrays in a checkpoint and of their meaning."""

POSITION_TOLERANCE = 1e-8
"""Largest difference of positions and cells of the same search, Å."""

SAME_SPACE = 1e-6
"""Largest component of a free direction of one search that another search keeps fixed."""


def write_checkpoint(
    path: Path, identity: Mapping[str, np.ndarray], data: Mapping[str, Any]
) -> None:
    """Write a checkpoint; an interruption never leaves an incomplete file.

    Args:
        path: File.
        identity: Arrays that are equal in all runs of one search, by name.
        data: All other arrays, by other names.
    """
    write_arrays(path, {"format": np.array(FORMAT), **identity, **data})


def matrix_arrays(name: str, matrix: Matrix) -> dict[str, np.ndarray]:
    """Return the arrays of a dense or sparse matrix, by names that begin with its name."""
    if isinstance(matrix, np.ndarray):
        return {name: matrix}
    parts = {"data": matrix.data, "indices": matrix.indices, "indptr": matrix.indptr}
    return {f"{name}_{part}": array for part, array in parts.items()} | {
        f"{name}_shape": np.array(matrix.shape)
    }


def matrix_of(name: str, data: Mapping[str, np.ndarray]) -> Matrix | None:
    """Return the matrix from its arrays; None if there is none of this name."""
    if name in data:
        return data[name]
    if f"{name}_shape" not in data:
        return None
    parts = (data[f"{name}_{part}"] for part in ("data", "indices", "indptr"))
    return csr_array(tuple(parts), shape=tuple(data[f"{name}_shape"]))


def hessian_arrays(hessian: HessianModel) -> dict[str, np.ndarray]:
    """Return the arrays of a model of the Hessian, by name.

    Raises:
        TypeError: If it is of another class than `DenseHessian` and `LimitedHessian`.
    """
    if isinstance(hessian, DenseHessian):
        return {"hessian": hessian.matrix}
    if not isinstance(hessian, LimitedHessian):
        raise TypeError(f"a checkpoint does not hold a {type(hessian).__name__}")
    widths = [u.columns.shape[1] for u in hessian.updates]
    return {
        **matrix_arrays("hessian", hessian.sparse),
        **matrix_arrays("hessian_near", hessian.factors.matrix),
        "hessian_groups": hessian.groups,
        "hessian_translations": hessian.translations,
        "hessian_widths": np.array(widths, dtype=int),
        "hessian_columns": hessian.columns,
        "hessian_core": hessian.core,
        "hessian_soft": np.zeros(0) if hessian.soft is None else hessian.soft,
    }


def hessian_of(data: Mapping[str, np.ndarray]) -> HessianModel:
    """Return the model of the Hessian from its arrays."""
    matrix = matrix_of("hessian", data)
    if isinstance(matrix, np.ndarray):
        return DenseHessian(matrix)
    ends = data["hessian_translations"].shape[1] + np.cumsum(data["hessian_widths"])
    slices = [slice(e - w, e) for e, w in zip(ends, data["hessian_widths"], strict=True)]
    columns, core = data["hessian_columns"], data["hessian_core"]
    return LimitedHessian(
        matrix,
        data["hessian_groups"],
        data["hessian_translations"],
        SparseFactors(matrix_of("hessian_near", data)),
        tuple(Update(columns[:, s], core[s, s]) for s in slices),
        data["hessian_soft"] if data["hessian_soft"].size else None,
    )


def read_checkpoint(
    path: Path, identity: Mapping[str, np.ndarray], basis: Matrix
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
    other = matrix_of("basis", data)
    if (
        other is None
        or other.shape != basis.shape
        or abs(other @ (other.T @ basis) - basis).max() > SAME_SPACE
    ):
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
