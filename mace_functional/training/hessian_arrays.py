"""Hessians of the structures of a file, in an npz file beside it.

The arrays are named by the name of a structure (`atoms.info["name"]`) or by its number in the file,
counted from 0. Each is (3N, 3N) or (N, 3, N, 3), in eV/Å².
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from mace_functional.structure.reading.errors import StructureError
from mace_functional.structure.reading.formats import COMPRESSED

SUFFIX = ".hessians.npz"
"""End of the name of the file of Hessians, in place of the suffix of the file of structures."""


def beside(path: Path) -> Path | None:
    """Return the file of the Hessians beside a file, `NAME.hessians.npz`, if there is one."""
    inner = path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
    found = inner.with_name(inner.stem + SUFFIX)
    return found if found.is_file() else None


def read_hessians(path: Path, frames: Sequence[Atoms]) -> dict[int, np.ndarray]:
    """Read the Hessians of frames, by their numbers.

    Args:
        path: Path of the npz file.
        frames: All frames of the file that the Hessians belong to.

    Raises:
        StructureError: If the file cannot be read, or an array belongs to none or to several of the
            frames.
    """
    names = [str(atoms.info["name"]) if "name" in atoms.info else None for atoms in frames]
    counts = Counter(names)
    by_name = {name: number for number, name in enumerate(names) if name is not None}
    by_number = {str(number): number for number in range(len(frames))}
    found: dict[int, np.ndarray] = {}
    for name, hessian in _arrays(path).items():
        number = by_name.get(name, by_number.get(name))
        if number is None:
            raise StructureError(
                f"{path}: the array {name!r} is neither the name of a structure (info['name']) nor "
                f"a number from 0 to {len(frames) - 1}: rename it"
            )
        if name in by_name and counts[name] > 1:
            raise StructureError(
                f"{path}: {counts[name]} structures are named {name!r}: name the array by the "
                "number of the structure, or give them different names"
            )
        if number in found:
            raise StructureError(f"{path}: structure {number} has two Hessians: remove one")
        found[number] = hessian
    return found


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise StructureError(f"there is no file {path} of Hessians: give an npz file")
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise StructureError(f"{path} holds one array: write it with numpy.savez")
        with file:
            return {name: file[name] for name in file.files}
    except StructureError:
        raise
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise StructureError(f"{path} is not an npz file of arrays: {error}") from error
