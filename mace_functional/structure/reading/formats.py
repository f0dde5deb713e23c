"""Files of structures: what format one has, and which reader takes it.

CIF, PDB, XYZ and POSCAR are read here, since their usual faults can only be seen in the text; all
other formats by ASE.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ase.io
from ase import Atoms
from ase.io.formats import UnknownFileTypeError, filetype, open_with_compression
from ase.io.trajectory import Trajectory

from mace_functional.structure.reading.cif import read_cif
from mace_functional.structure.reading.errors import StructureError
from mace_functional.structure.reading.isotopes import HYDROGEN
from mace_functional.structure.reading.pdb import read_pdb
from mace_functional.structure.reading.poscar import read_poscar
from mace_functional.structure.reading.reading_record import Read
from mace_functional.structure.reading.xyz import read_xyz

READERS: dict[str, Callable[[str], Read]] = {
    "cif": read_cif,
    "proteindatabank": read_pdb,
    "extxyz": read_xyz,
    "xyz": read_xyz,
    "vasp": read_poscar,
}
"""Readers of text by the format, as ASE calls it."""

SUFFIXES = {
    **dict.fromkeys((".cif", ".mcif", ".mmcif"), "cif"),
    **dict.fromkeys((".pdb", ".ent"), "proteindatabank"),
    **dict.fromkeys((".xyz", ".extxyz"), "extxyz"),
    **dict.fromkeys((".vasp", ".poscar"), "vasp"),
}
"""Formats of files by the end of the name, whatever stands in them."""

COMPRESSED = (".gz", ".bz2", ".xz")

TRAJECTORY = "traj"


def read_file(path: Path) -> tuple[Read, str]:
    """What a file holds, and its format.

    Args:
        path: The file.

    Raises:
        StructureError: If the file cannot be read as a structure; without the name of the file.
    """
    if path.stat().st_size == 0:
        raise StructureError("it is empty")
    format = format_of(path)
    try:
        if format in READERS:
            with open_with_compression(str(path.absolute()), "rb") as file:
                return READERS[format](_text(file.read())), format
        return _by_ase(path, format), format
    except StructureError:
        raise
    except Exception as error:  # readers of ASE raise anything
        why = str(error) or type(error).__name__
        if why.strip("'\"") in HYDROGEN:
            why = f"ASE does not know {why} in it: write extended XYZ, CIF, PDB or POSCAR"
        raise StructureError(f"no structure can be read from it as {format}: {why}") from error


def format_of(path: Path) -> str:
    """The format of a file, by its name, or else by what stands in it.

    Raises:
        StructureError: If neither tells.
    """
    inner = path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
    known = SUFFIXES.get(inner.suffix.lower())
    if known is not None:
        return known
    with open_with_compression(str(path.absolute()), "rb") as file:
        beginning = file.read(2000)
    if any(line.lower().startswith(b"data_") for line in beginning.splitlines()):
        return "cif"
    try:
        return filetype(str(path.absolute()))
    except (UnknownFileTypeError, OSError) as error:
        raise StructureError(
            "neither name nor content says what format it has: give it a suffix such as .cif, .xyz "
            "or .vasp"
        ) from error


def _by_ase(path: Path, format: str) -> Read:
    """The last structure of a file in a format that ASE reads."""
    atoms = ase.io.read(str(path.absolute()), format=format, do_not_split_by_at_sign=True)
    if not isinstance(atoms, Atoms):
        raise StructureError("it holds no structure")
    findings: tuple[str, ...] = ()
    if format == TRAJECTORY:
        with Trajectory(str(path.absolute())) as frames:
            if len(frames) > 1:
                findings = (f"it holds {len(frames)} structures: the last one is read",)
    return Read(atoms, findings=findings)


def _text(data: bytes) -> str:
    """Text of a file in UTF-8, or in Latin-1 if it is not."""
    if b"\0" in data:
        raise StructureError("it holds binary data, and its name says that it is text")
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        return data.decode("latin-1").replace("\r\n", "\n").replace("\r", "\n")
