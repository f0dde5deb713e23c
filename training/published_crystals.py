"""Crystals of the training, and of the test of the embedded model, from tables of published data.

A file has one table for each crystal, named after it: `group`, the number of its space group;
`cell`, the lengths (Å) and the angles (degrees) of its conventional cell; `sites`, one atom of each
orbit, as its element and its fractional coordinates; and `setting`, where the second setting of
the space group is meant (the origin at the centre of inversion).
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import spglib
from ase import Atoms
from ase.build import make_supercell
from ase.spacegroup import crystal

FOLDER = Path(__file__).parent

TRAINING = FOLDER / "crystals.toml"
"""The crystals from which training configurations are made."""

HELD_OUT = FOLDER / "held_out.toml"
"""The crystals on which the embedded model is tested; the training has none of them."""

SMALLEST = 8
"""Smallest number of atoms of a crystal; smaller cells are repeated.

Displacements then differ between cells.
"""

WITH_ALUMINIUM = ("sodalite", "zeolite BIK", "zeolite GIS")
"""Siliceous zeolites that also have a structure with one Al for Si, and H or Na."""


def crystals() -> Iterator[tuple[str, Atoms]]:
    """Yield the crystals of the training, as primitive cells or small supercells.

    Some zeolites come with aluminium and a counter-ion as well.
    """
    for name, atoms in read_crystals(TRAINING):
        yield name, _at_least(atoms, SMALLEST)
        if name in WITH_ALUMINIUM:
            yield f"{name} with Al and H", _with_aluminium(atoms, "H", 0.95)
            yield f"{name} with Al and Na", _with_aluminium(atoms, "Na", 2.3)


def read_crystals(path: Path) -> Iterator[tuple[str, Atoms]]:
    """Yield the name and the primitive cell of each crystal of a file.

    Args:
        path: A TOML file, as described at the top of this module.
    """
    for name, table in tomllib.loads(path.read_text(encoding="utf-8")).items():
        conventional = crystal(
            [element for element, *_ in table["sites"]],
            [position for _, *position in table["sites"]],
            spacegroup=table["group"],
            setting=table.get("setting", 1),
            cellpar=table["cell"],
        )
        yield name, _primitive(conventional)


def _primitive(conventional: Atoms) -> Atoms:
    """Return the primitive cell; that of ASE's `crystal` may lack atoms near the cell's faces."""
    cell = conventional.cell[:], conventional.get_scaled_positions(), conventional.numbers
    found = spglib.standardize_cell(cell, to_primitive=True, no_idealize=True, symprec=1e-3)
    lattice, positions, numbers = found
    return Atoms(numbers, scaled_positions=positions, cell=lattice, pbc=True)


def _at_least(atoms: Atoms, size: int) -> Atoms:
    """Return a supercell of at least `size` atoms, doubled along its shortest lattice vectors."""
    repeats = np.ones(3, dtype=int)
    while len(atoms) * repeats.prod() < size:
        repeats[np.argmin(atoms.cell.lengths() * repeats)] *= 2
    return make_supercell(atoms, np.diag(repeats))


def _with_aluminium(zeolite: Atoms, ion: str, distance: float) -> Atoms:
    """Replace one Si by Al, and add a counter-ion at a neighbouring oxygen.

    Args:
        zeolite: The siliceous zeolite.
        ion: Element of the counter-ion.
        distance: Distance of the ion from the oxygen, Å; it points away from both T atoms.
    """
    atoms = zeolite.copy()
    al = int(np.flatnonzero(atoms.numbers == 14)[0])
    atoms.symbols[al] = "Al"
    oxygens = np.flatnonzero(atoms.numbers == 8)
    to_oxygen = atoms.get_distances(al, oxygens, mic=True, vector=True)
    oxygen = oxygens[np.argmin(np.linalg.norm(to_oxygen, axis=1))]
    t_atoms = np.flatnonzero(np.isin(atoms.numbers, (13, 14)))
    to_t_atoms = atoms.get_distances(oxygen, t_atoms, mic=True, vector=True)
    nearest = np.argsort(np.linalg.norm(to_t_atoms, axis=1))[:2]
    outward = -to_t_atoms[nearest].sum(0)
    position = atoms.positions[oxygen] + distance * outward / np.linalg.norm(outward)
    return atoms + Atoms([ion], [position])
