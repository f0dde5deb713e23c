"""Formats of structure files, and the reader for each.

CIF, PDB, XYZ and POSCAR have readers in this package, because their usual errors are visible only
in the text. ASE reads all other formats.
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
"""Readers of this package, by ASE's name of the format."""

SUFFIXES = {
    **dict.fromkeys((".cif", ".mcif", ".mmcif"), "cif"),
    **dict.fromkeys((".pdb", ".ent"), "proteindatabank"),
    **dict.fromkeys((".xyz", ".extxyz"), "extxyz"),
    **dict.fromkeys((".vasp", ".poscar"), "vasp"),
}
"""Formats by suffix of the file name; the content is then not inspected."""

COMPRESSED = (".gz", ".bz2", ".xz")
"""Suffixes of compressed files; the suffix before them gives the format."""

TRAJECTORY = "traj"
"""ASE's name of the trajectory format."""


def read_file(path: Path) -> tuple[Read, str]:
    """Read the content of a file, and return it with the format.

    Args:
        path: Path of the file.

    Raises:
        StructureError: If the file cannot be read as a structure; the message lacks the file name.
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
    except Exception as error:  # the readers of ASE raise exceptions of any type
        reason = str(error) or type(error).__name__
        if reason.strip("'\"") in HYDROGEN:
            reason = f"ASE does not know {reason} in it: write extended XYZ, CIF, PDB or POSCAR"
        raise StructureError(f"no structure can be read from it as {format}: {reason}") from error


def format_of(path: Path) -> str:
    """Return the format of a file, by its suffix or else by its content.

    Raises:
        StructureError: If neither determines the format.
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
            "neither name nor content determines its format: give it a suffix such as .cif, .xyz "
            "or .vasp"
        ) from error


def _by_ase(path: Path, format: str) -> Read:
    """Read the last structure of a file with ASE."""
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
    """Decode the text of a file as UTF-8, or as Latin-1 if it is not valid UTF-8."""
    if b"\0" in data:
        raise StructureError("it holds binary data, although its name says that it is text")
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        return data.decode("latin-1").replace("\r\n", "\n").replace("\r", "\n")
