"""Structures of a screening: their files and names, and reasons why some cannot be read.

All files are read at the beginning, so that sizes are known. A file that cannot be read is a failed
structure with a reason. A structure has the name of its file without folder and suffix, or a longer
part of the path where two would have the same name.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ase import Atoms

from mace_functional.structure.examples import is_example
from mace_functional.structure.reading import StructureError, find, structure_record

SUFFIXES = (
    *(".cif", ".xyz", ".extxyz", ".vasp", ".poscar", ".res", ".cell", ".gen", ".xsf", ".pdb"),
    ".traj",
)
"""Suffixes of files that are structures."""

VASP_NAMES = ("POSCAR", "CONTCAR")
"""Beginnings of names of files without a suffix that are structures."""

Structures = Mapping[str, Atoms] | str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
"""Atoms by name; or a file or a folder, or many of them."""


@dataclass(frozen=True, eq=False)
class Source:
    """A structure to be screened, or the reason why there is none.

    Attributes:
        name: Name of the structure, unique in the screening.
        file: File of the structure; empty if it was given as atoms.
        atoms: The structure; None if it could not be read.
        failure: Reason why it could not be read or is refused.
        findings: Remarks on the file, from reading it.
    """

    name: str
    file: str
    atoms: Atoms | None
    failure: str | None = None
    findings: tuple[str, ...] = ()


def find_sources(structures: Structures) -> list[Source]:
    """Find all structures, in the given order; those of a folder are sorted by name.

    Args:
        structures: Atoms by name; or files, folders and names of structures of the package. Of a
            folder, files with a suffix of `SUFFIXES` are taken, and POSCAR and CONTCAR files. The
            last structure of a file is taken, and a file that is given twice counts once.

    Returns:
        The structures. A structure that cannot be read, or is refused, has the reason.

    Raises:
        ValueError: If a file or folder does not exist, a folder has no structures, or nothing is
            given.
        TypeError: If the structures are of another type.
    """
    if isinstance(structures, Mapping):
        sources = [_given(name, atoms) for name, atoms in structures.items()]
    else:
        if isinstance(structures, str | os.PathLike):
            structures = [structures]
        paths = list(dict.fromkeys(path for given in structures for path in _paths(given)))
        sources = [_read(name, path) for name, path in zip(_names(paths), paths, strict=True)]
    if not sources:
        raise ValueError("there is nothing to screen: give files or folders of structures")
    return sources


def _given(name: str, atoms: Atoms) -> Source:
    if not isinstance(name, str) or not isinstance(atoms, Atoms):
        raise TypeError(f"a screening takes Atoms by name, not {type(atoms).__name__} by {name!r}")
    bare = atoms.copy()
    try:
        return Source(name, "", bare, findings=structure_record(bare).findings)
    except StructureError as error:
        return Source(name, "", None, str(error))


def _paths(given: str | os.PathLike[str]) -> list[Path]:
    """Path of the file, paths of the files of a folder, or name of a structure of the package."""
    path = Path(given)
    if path.is_file():
        return [path.absolute()]
    if path.is_dir():
        found = sorted(p.absolute() for p in path.iterdir() if p.is_file() and _is_structure(p))
        if not found:
            raise ValueError(
                f"the folder {path} has no structures: no files *{', *'.join(SUFFIXES)}, "
                f"{'*, '.join(VASP_NAMES)}*"
            )
        return found
    if is_example(os.fspath(given)):
        return [path]
    raise ValueError(f"there is no file or folder {path}")


def _is_structure(path: Path) -> bool:
    named = path.suffix.lower() in SUFFIXES or path.name.startswith(VASP_NAMES)
    return named and not path.name.startswith(".")


def _names(paths: list[Path]) -> list[str]:
    """Shortest names that tell all paths apart: where two are equal, both are made longer."""
    longer: list[Callable[[Path], str]] = [
        _stem,
        lambda path: f"{path.parent.name}/{_stem(path)}",
        lambda path: f"{path.parent.name}/{path.name}",
        str,
    ]
    names = [""] * len(paths)
    for name_of in longer:
        clashing = Counter(names)
        names = [
            name_of(path) if clashing[name] > 1 or not name else name
            for name, path in zip(names, paths, strict=True)
        ]
    return names


def _stem(path: Path) -> str:
    """Name of a file without the suffix of its format; POSCAR.quartz is one name."""
    return path.stem if path.suffix.lower() in SUFFIXES else path.name


def _read(name: str, path: Path) -> Source:
    try:
        reading = find(str(path))
        return Source(name, str(path), reading.atoms, findings=reading.record.findings)
    except StructureError as error:
        return Source(name, str(path), None, str(error))
