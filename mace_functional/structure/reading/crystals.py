"""Molecules and crystals from the sites of a file: what CIF and PDB have in common."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from ase.geometry import cellpar_to_cell

from mace_functional.structure.reading.errors import StructureError
from mace_functional.structure.reading.isotopes import HYDROGEN, set_symbols
from mace_functional.structure.reading.occupancy import named
from mace_functional.structure.reading.sites import ROUNDING, Orbits, repeated


def crystal_of(
    labels: Sequence[str], symbols: Sequence[str], found: Orbits, cell: np.ndarray
) -> tuple[Atoms, tuple[str, ...]]:
    """The atoms of a cell, each once.

    Args:
        labels: Of the sites.
        symbols: Of the sites, D and T included.
        found: Images of the sites.
        cell: Lattice vectors, Å, (3, 3).

    Returns:
        The crystal, and what a person should know.
    """
    findings = _shifted(labels, found, cell)
    symbols = [symbols[i] for i in found.sites]
    numbers = np.array([atomic_numbers["H" if s in HYDROGEN else s] for s in symbols])
    again = repeated(found, numbers, cell)
    if again.any():
        listed = sorted({labels[i] for i in found.sites[again]})
        findings += (
            f"{int(again.sum())} atoms are listed more than once (sites {named(listed)}), and each "
            "is taken once",
        )
    kept = np.flatnonzero(~again)
    return atoms_of([symbols[i] for i in kept], found.scaled[kept] @ cell, cell), findings


def atoms_of(
    symbols: Sequence[str], positions: np.ndarray, cell: np.ndarray | None = None
) -> Atoms:
    """Atoms by symbols, D and T included; periodic if there is a cell."""
    elements = ["H" if symbol in HYDROGEN else symbol for symbol in symbols]
    atoms = Atoms(elements, positions=positions, cell=cell, pbc=cell is not None)
    set_symbols(atoms, symbols)
    return atoms


def lattice(parameters: np.ndarray) -> np.ndarray:
    """Lattice vectors from lengths in Å and angles in degrees.

    Raises:
        StructureError: If there is no such cell.
    """
    lengths, angles = parameters[:3], np.deg2rad(parameters[3:])
    cosines = np.cos(angles)
    square = 1 - (cosines**2).sum() + 2 * cosines.prod()
    if not (lengths > 0).all() or not (np.sin(angles) > 0).all() or not square > 1e-6:
        raise StructureError(
            f"there is no cell of lengths {lengths.tolist()} Å and angles "
            f"{parameters[3:].tolist()}: it has no volume"
        )
    return cellpar_to_cell(parameters)


def _shifted(labels: Sequence[str], found: Orbits, cell: np.ndarray) -> tuple[str, ...]:
    """What to say of sites that were moved to special positions."""
    moved = np.flatnonzero(np.abs(found.shifts).max(1) > ROUNDING)
    if not len(moved):
        return ()
    largest = float(np.linalg.norm(found.shifts[moved] @ cell, axis=1).max())
    before = int(found.images[moved].sum())
    after = int(np.isin(found.sites, moved).sum())
    names = named([labels[int(i)] for i in moved])
    return (
        f"coordinates of {names} are rounded, up to {largest:.2g} Å beside special positions: "
        f"{before} images that nearly coincide are taken as {after} atoms",
    )
