"""Reader of POSCAR and CONTCAR files of VASP; D and T are allowed as species."""

from __future__ import annotations

import io
from typing import Any

import ase.io

from mace_functional.structure.reading.errors import StructureError
from mace_functional.structure.reading.isotopes import HYDROGEN, set_symbols
from mace_functional.structure.reading.reading_record import Read

SPECIES, COUNTS = 5, 6
"""Lines, from 0, of the species and of their counts since VASP 5.

Before VASP 5 the first line named the species, and line 5 had the counts.
"""


def read_poscar(text: str) -> Read:
    """Read the structure of a POSCAR.

    Args:
        text: Text of the file.

    Raises:
        StructureError: If elements are not named, or lines are missing.
        Exception: If ASE raises.
    """
    lines = text.splitlines()
    symbols: list[str] = []
    if len(lines) > COUNTS:
        before_vasp5 = lines[SPECIES].split()[:1] and lines[SPECIES].split()[0].isdigit()
        names, counts = (0, SPECIES) if before_vasp5 else (SPECIES, COUNTS)
        words = lines[names].split()
        if any(word in HYDROGEN for word in words):
            numbers = [int(word) for word in lines[counts].split("!")[0].split() if word.isdigit()]
            symbols = [word for word, n in zip(words, numbers, strict=False) for _ in range(n)]
            lines[names] = " ".join("H" if word in HYDROGEN else word for word in words)
    try:
        atoms: Any = ase.io.read(io.StringIO("\n".join(lines) + "\n"), format="vasp")
    except (AttributeError, IndexError) as error:  # ASE looks for POTCAR, or for further lines
        raise StructureError(
            "it does not name elements, or lines are missing: a POSCAR has a comment, a scale, "
            "three lattice vectors, the elements, their counts, Direct or Cartesian, and the atoms"
        ) from error
    set_symbols(atoms, symbols)
    return Read(atoms)
