"""Files that verbs write: which ones they can write, checked before anything is computed.

A structure is written in the format of its file's name. Whether the format can hold it is tried
out with the structure itself, which is written and read back: a VASP file has no place for a
molecule, a CIF none for a slab.
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
"""Suffixes of figures."""

KEPT = 1e-6
"""Å. Coordinates that a file gives back with a larger error are lost; those of XYZ files have eight
digits, those of PDB files three."""

WORKING = ".xyz, .extxyz or .traj for any structure, .cif or .vasp for crystals"
"""Formats to name where another does not work."""


def check_outputs(outputs: Mapping[str, Path | None], inputs: Sequence[str] = ()) -> None:
    """Refuse files that cannot be written, or that would replace another one.

    Args:
        outputs: The file of each option; None if it was not given.
        inputs: Files that are read, and must stay.

    Raises:
        ValueError: If a file cannot be written, two options name one file, or one of them names a
            file that is read.
    """
    taken = {os.path.realpath(name): "the input" for name in inputs if os.path.isfile(name)}
    for option, path in outputs.items():
        if path is None:
            continue
        _check_writable(option, path)
        there = os.path.realpath(path)
        if there in taken:
            raise ValueError(f"{option} {path} would replace {taken[there]}: name another file")
        taken[there] = f"the file of {option}"


def check_figure(option: str, path: Path | None) -> None:
    """Refuse a figure in another format than `FIGURES`.

    Raises:
        ValueError: If the suffix is another.
    """
    if path is not None and path.suffix.lower() not in FIGURES:
        raise ValueError(f"{option} takes a name in {', '.join(FIGURES)}, not {path}")


def check_structure_file(
    option: str, path: Path | None, atoms: Atoms, may_turn: bool = True
) -> None:
    """Refuse a file whose format cannot hold the structure.

    Args:
        option: That names the file, for the error.
        path: The file; None if it was not given.
        atoms: The structure.
        may_turn: Whether the file may hold the crystal in other Cartesian axes, as a CIF does.

    Raises:
        ValueError: If the structure is not written, or read back as another one.
    """
    if path is None:
        return
    import ase.io

    bare = _irregular(atoms)
    with TemporaryDirectory() as folder:
        trial = place_beside(Path(folder) / path.name)
        try:
            ase.io.write(trial, bare)
            found = ase.io.read(trial)
        except Exception as error:  # a format may raise anything for what it has no place for
            why = (str(error) or type(error).__name__).replace(str(trial), path.name)
            raise ValueError(
                f"{option} {path}: a structure cannot be written and read in this format ({why}): "
                f"take {WORKING}"
            ) from error
    lost = _what_is_lost(bare, found, may_turn)
    if lost is not None:
        raise ValueError(f"{option} {path}: this format {lost}; take {WORKING}")


def write_structure(path: Path, atoms: Atoms) -> None:
    """Write a structure in the format of the file's name, without results."""
    import ase.io

    with atomic_write(path) as partial:
        ase.io.write(partial, _bare(atoms))


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write JSON."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(data, indent=1) + "\n")


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure in the format of the file's name, one of `FIGURES`."""
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=300)


def _bare(atoms: Atoms) -> Atoms:
    bare = atoms.copy()
    bare.calc = None
    return bare


def _irregular(atoms: Atoms) -> Atoms:
    """The structure a little off, so that no digit of it is zero by chance."""
    bare = _bare(atoms)
    bare.set_cell(bare.cell.array * 1.000123456789)
    bare.set_positions(bare.positions + 0.0123456789, apply_constraint=False)
    return bare


def _check_writable(option: str, path: Path) -> None:
    """Refuse a file that cannot be written, by writing beside it."""
    if path.is_dir():
        raise ValueError(f"{option} {path} is a folder: name a file")
    if path.exists() and not path.is_file():
        raise ValueError(f"{option} {path} is no file but a device or a pipe: name a file")
    folder = path.resolve().parent
    if not folder.is_dir():
        raise ValueError(
            f"{option}: there is no folder {folder} that {path.name} can be written to"
        )
    trial = place_beside(path)
    try:
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise ValueError(f"{option} {path} cannot be written: {error.strerror}") from error


def _what_is_lost(atoms: Atoms, found: Any, may_turn: bool) -> str | None:
    """What a file does not hold of a structure, in words; None if it holds all."""
    from ase import Atoms

    if not isinstance(found, Atoms) or not np.array_equal(found.numbers, atoms.numbers):
        return "does not keep the atoms in their order"
    if not np.array_equal(found.pbc, atoms.pbc):
        what = {0: "a molecule", 3: "a crystal"}.get(int(sum(atoms.pbc)), "a slab or a chain")
        return f"has no place for {what}"
    if not np.allclose(found.get_masses(), atoms.get_masses(), rtol=0, atol=1e-3):
        return "does not keep masses"
    same_cell = np.allclose(found.cell.array, atoms.cell.array, rtol=0, atol=KEPT)
    if same_cell and np.allclose(found.positions, atoms.positions, rtol=0, atol=KEPT):
        return None
    if not atoms.pbc.all():
        return "does not keep positions, or the cell, to the last digit"
    lengths = atoms.cell.lengths()
    shift = found.get_scaled_positions(wrap=False) - atoms.get_scaled_positions(wrap=False)
    same_sites = abs((shift - np.rint(shift)) * lengths).max() < KEPT
    if not same_sites or not np.allclose(found.cell.cellpar(), atoms.cell.cellpar(), atol=KEPT):
        return "does not keep positions, or the cell, to the last digit"
    if not (same_cell or may_turn):
        return "turns the axes of the crystal, along which something is held or strained"
    return None
