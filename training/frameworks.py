"""Frameworks from which training configurations are generated, and those that are held out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ase.io
from ase import Atoms
from linker_edits import with_spacer

import mace_functional as mf


def held_out_frameworks(folder: Path) -> Iterator[tuple[str, Atoms]]:
    """Yield the frameworks on which the student is tested, which the training leaves out.

    Args:
        folder: Folder with the CIF files of Moosavi et al., Nat. Mater. 2022.
    """
    yield "IRMOF-0", with_spacer(mf.example_structure("MOF-5"), "C#C")
    nickel_framework = ase.io.read(folder / "RSM0011.cif")
    yield "RSM0011 with Zn for Ni", _replaced(nickel_framework, "Ni", "Zn")
    for name in ("RSM0010", "AFI", "13180N3"):
        yield name, ase.io.read(folder / f"{name}.cif")
    yield "aluminium fumarate", with_spacer(ase.io.read(folder / "RSM0062.cif"), "/C=C/")


def _replaced(atoms: Atoms, old: str, new: str) -> Atoms:
    atoms = atoms.copy()
    atoms.symbols[atoms.symbols == old] = new
    return atoms
