"""Molecules and crystals from the sites of a file; used by the readers of CIF and PDB."""

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
    """Return the crystal without duplicate atoms.

    Args:
        labels: Label of each site.
        symbols: Element of each site, D and T included.
        found: Images of the sites.
        cell: Lattice vectors, Å, (3, 3).

    Returns:
        The crystal and the findings.
    """
    findings = _shift_findings(labels, found, cell)
    symbols = [symbols[i] for i in found.sites]
    numbers = np.array([atomic_numbers["H" if s in HYDROGEN else s] for s in symbols])
    duplicate = repeated(found, numbers, cell)
    if duplicate.any():
        sites = sorted({labels[i] for i in found.sites[duplicate]})
        findings += (
            f"{int(duplicate.sum())} atoms are listed more than once (sites {named(sites)}); each "
            "is taken once",
        )
    kept = np.flatnonzero(~duplicate)
    return atoms_of([symbols[i] for i in kept], found.scaled[kept] @ cell, cell), findings


def atoms_of(
    symbols: Sequence[str], positions: np.ndarray, cell: np.ndarray | None = None
) -> Atoms:
    """Return atoms with the given symbols, D and T included; periodic if a cell is given."""
    elements = ["H" if symbol in HYDROGEN else symbol for symbol in symbols]
    atoms = Atoms(elements, positions=positions, cell=cell, pbc=cell is not None)
    set_symbols(atoms, symbols)
    return atoms


def lattice(parameters: np.ndarray) -> np.ndarray:
    """Return the lattice vectors of a cell, given its lengths in Å and angles in degrees.

    Raises:
        StructureError: If no cell has these lengths and angles.
    """
    lengths, angles = parameters[:3], np.deg2rad(parameters[3:])
    cosines = np.cos(angles)
    square = 1 - (cosines**2).sum() + 2 * cosines.prod()
    if not (lengths > 0).all() or not (np.sin(angles) > 0).all() or not square > 1e-6:
        raise StructureError(
            f"a cell of lengths {lengths.tolist()} Å and angles {parameters[3:].tolist()} has no "
            "volume: correct them"
        )
    return cellpar_to_cell(parameters)


def _shift_findings(labels: Sequence[str], found: Orbits, cell: np.ndarray) -> tuple[str, ...]:
    """Return a finding if sites were moved to special positions."""
    moved = np.flatnonzero(np.abs(found.shifts).max(1) > ROUNDING)
    if not len(moved):
        return ()
    largest = float(np.linalg.norm(found.shifts[moved] @ cell, axis=1).max())
    before = int(found.images[moved].sum())
    after = int(np.isin(found.sites, moved).sum())
    names = named([labels[int(i)] for i in moved])
    return (
        f"coordinates of {names} are rounded, up to {largest:.2g} Å from special positions: "
        f"{before} images that nearly coincide are taken as {after} atoms",
    )
