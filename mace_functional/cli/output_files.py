"""Output files of subcommands, and checks before a computation that they can be written.

The suffix of a structure file determines its format. The structure itself is written and read back
to check that the format can represent it: a VASP file cannot represent a molecule, and a CIF cannot
represent a slab.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from mace_functional.support.atomic_write import atomic_write, place_beside

if TYPE_CHECKING:
    from ase import Atoms
    from matplotlib.figure import Figure

FIGURES = (".png", ".pdf", ".svg")
"""Suffixes of files for figures."""

MAX_ERROR = 1e-6
"""Largest error of coordinates in a file, Å; a format with larger errors is not accepted.

XYZ files have eight digits after the point, PDB files three.
"""

SUITABLE = ".xyz, .extxyz or .traj for any structure, .cif or .vasp for crystals"
"""Formats that error messages recommend."""


def check_outputs(outputs: Mapping[str, Path | None], inputs: Sequence[str] = ()) -> None:
    """Raise an error for files that cannot be written, or would replace another file.

    Args:
        outputs: File of each option; None if the option is not given.
        inputs: Input files, which must not be replaced.

    Raises:
        ValueError: If a file cannot be written, two options name the same file, or an option names
            an input file.
    """
    taken = {os.path.realpath(name): "the input" for name in inputs if os.path.isfile(name)}
    for option, path in outputs.items():
        if path is None:
            continue
        _check_writable(option, path)
        real_path = os.path.realpath(path)
        if real_path in taken:
            raise ValueError(f"{option} {path} would replace {taken[real_path]}: name another file")
        taken[real_path] = f"the file of {option}"


def check_folder(option: str, path: Path | None) -> None:
    """Raise an error for a folder that cannot be made or written to.

    Raises:
        ValueError: If it is a file, or the folder that it would be in is missing or read-only.
    """
    if path is None:
        return
    if path.exists() and not path.is_dir():
        raise ValueError(f"{option} {path} is a file: name a folder")
    _check_writable(option, path / "trial" if path.is_dir() else path)


def check_figure(option: str, path: Path | None) -> None:
    """Raise an error for a figure whose format is not one of `FIGURES`.

    Raises:
        ValueError: If the suffix is not one of `FIGURES`.
    """
    if path is not None and path.suffix.lower() not in FIGURES:
        raise ValueError(f"{option} takes a file name with {', '.join(FIGURES)}, not {path}")


def check_structure_file(
    option: str, path: Path | None, atoms: Atoms, may_turn: bool = True
) -> None:
    """Raise an error for a file whose format cannot represent the structure.

    Args:
        option: Name of the option, for the error.
        path: Name of the file; None if the option is not given.
        atoms: The structure.
        may_turn: Accept a file that stores the crystal with rotated Cartesian axes, as a CIF does.

    Raises:
        ValueError: If the structure cannot be written, or is different when it is read back.
    """
    if path is None:
        return
    import ase.io

    irregular = _irregular(atoms)
    with TemporaryDirectory() as folder:
        trial = place_beside(Path(folder) / path.name)
        try:
            ase.io.write(trial, irregular)
            restored = ase.io.read(trial)
        except Exception as error:  # formats raise errors of any class for unsuitable structures
            reason = (str(error) or type(error).__name__).replace(str(trial), path.name)
            raise ValueError(
                f"{option} {path}: this structure cannot be written and read in this format "
                f"({reason}): "
                f"use {SUITABLE}"
            ) from error
    fault = _fault_of_format(irregular, restored, may_turn)
    if fault is not None:
        raise ValueError(f"{option} {path}: this format {fault}; use {SUITABLE}")


def write_structure(path: Path, atoms: Atoms) -> None:
    """Write a structure in the format of the file's name, without results."""
    import ase.io

    with atomic_write(path) as partial:
        ase.io.write(partial, _bare(atoms))


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write data to a JSON file."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(data, indent=1) + "\n")


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure in the format of the file's name, one of `FIGURES`."""
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=300)


def _bare(atoms: Atoms) -> Atoms:
    """Return a copy of the structure without a calculator and its results."""
    bare = atoms.copy()
    bare.calc = None
    return bare


def _irregular(atoms: Atoms) -> Atoms:
    """Return the structure with small changes, so that no coordinate is exact by chance."""
    bare = _bare(atoms)
    bare.set_cell(bare.cell.array * 1.000123456789)
    bare.set_positions(bare.positions + 0.0123456789, apply_constraint=False)
    return bare


def _check_writable(option: str, path: Path) -> None:
    """Raise an error for a file that cannot be written; the check writes a file beside it."""
    if path.is_dir():
        raise ValueError(f"{option} {path} is a folder: name a file")
    if path.exists() and not path.is_file():
        raise ValueError(f"{option} {path} is not a file but a device or a pipe: name a file")
    folder = path.resolve().parent
    if not folder.is_dir():
        raise ValueError(
            f"{option}: there is no folder {folder}, so {path.name} cannot be written to it"
        )
    trial = place_beside(path)
    try:
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise ValueError(f"{option} {path} cannot be written: {error.strerror}") from error


def _fault_of_format(atoms: Atoms, restored: Any, may_turn: bool) -> str | None:
    """Describe the difference of a structure from the one read back; None if there is none."""
    from ase import Atoms

    if not isinstance(restored, Atoms) or not np.array_equal(restored.numbers, atoms.numbers):
        return "does not keep the atoms in their order"
    if not np.array_equal(restored.pbc, atoms.pbc):
        kind = {0: "a molecule", 3: "a crystal"}.get(int(sum(atoms.pbc)), "a slab or a chain")
        return f"cannot represent {kind}"
    if not np.allclose(restored.get_masses(), atoms.get_masses(), rtol=0, atol=1e-3):
        return "does not keep masses"
    same_cell = np.allclose(restored.cell.array, atoms.cell.array, rtol=0, atol=MAX_ERROR)
    if same_cell and np.allclose(restored.positions, atoms.positions, rtol=0, atol=MAX_ERROR):
        return None
    if not atoms.pbc.all():
        return "does not keep all digits of positions or cell"
    lengths = atoms.cell.lengths()
    shift = restored.get_scaled_positions(wrap=False) - atoms.get_scaled_positions(wrap=False)
    same_sites = abs((shift - np.rint(shift)) * lengths).max() < MAX_ERROR
    if not same_sites or not np.allclose(
        restored.cell.cellpar(), atoms.cell.cellpar(), atol=MAX_ERROR
    ):
        return "does not keep all digits of positions or cell"
    if not (same_cell or may_turn):
        return "rotates the axes of the crystal, on which constraints or strains depend"
    return None
