"""Reader of the tables of crystals: of the training, and of the test of the embedded model.

A file has one table for each crystal, named after it: `group`, the number of its space group;
`cell`, the lengths (Å) and the angles (degrees) of its conventional cell; `sites`, one atom of each
orbit, as its element and its fractional coordinates; and `setting`, where the second setting of
the space group is meant (the origin at the centre of inversion).
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import spglib
from ase import Atoms
from ase.spacegroup import crystal

FOLDER = Path(__file__).parent

TRAINING = FOLDER / "crystals.toml"
"""The crystals from which training configurations are made."""

HELD_OUT = FOLDER / "held_out.toml"
"""The crystals on which the embedded model is tested; the training has none of them."""


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
