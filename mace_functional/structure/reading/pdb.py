"""Reader of PDB files, whose atoms may be an asymmetric unit or alternative positions."""

from __future__ import annotations

import re

import gemmi
import numpy as np

from mace_functional.structure.reading.crystals import (
    atoms_of,
    crystal_of,
    lattice,
)
from mace_functional.structure.reading.errors import StructureError
from mace_functional.structure.reading.filler import FINDING, is_filler
from mace_functional.structure.reading.labels import element_of_symbol
from mace_functional.structure.reading.occupancy import check_alternatives, check_occupancies, named
from mace_functional.structure.reading.reading_record import Read, Stated
from mace_functional.structure.reading.sites import FINEST, FractionalOperations, orbits
from mace_functional.structure.reading.space_groups import FITS, groups_named

END = re.compile(r"^END(?:MDL)?\s*$", re.MULTILINE)
"""Line that ends a structure: ENDMDL, or END, with which some programs separate structures."""

ATOM = re.compile(r"^(?:ATOM  |HETATM)", re.MULTILINE)
"""Beginning of the line of an atom."""

TRITIUM = re.compile(r"^(?:ATOM  |HETATM)([ \d]{5}).{65} T", re.MULTILINE)
"""Line of a tritium atom, with its serial number; gemmi does not know tritium."""

CELL = re.compile(r"^CRYST1.*$", re.MULTILINE)
"""Line of the cell."""


def read_pdb(text: str) -> Read:
    """Read the last structure of a PDB file.

    Args:
        text: Text of the file.

    Raises:
        StructureError: If it holds no atoms, or the structure is disordered.
    """
    frames = [frame for frame in END.split(text) if ATOM.search(frame)]
    if not frames:
        raise StructureError("it holds no ATOM or HETATM lines: give a file with atoms")
    findings: tuple[str, ...] = ()
    if len(frames) > 1:
        findings = (f"it holds {len(frames)} structures: the last one is read",)
    cells = CELL.findall(text)
    try:
        structure = gemmi.read_pdb_string("\n".join([*cells[-1:], CELL.sub("", frames[-1])]))
    except (ValueError, RuntimeError) as error:
        raise StructureError(f"it is not a PDB file: {error}") from error
    sites = [
        (atom, f"{residue.name} {residue.seqid} {atom.name}", f"{chain.name} {residue.seqid}")
        for model in structure
        for chain in model
        for residue in chain
        for atom in residue
    ]
    labels = [label for _, label, _ in sites]
    occupancies = [atom.occ for atom, _, _ in sites]
    if not any(occupancies):  # the program that wrote the file left the column empty
        occupancies = [1.0] * len(sites)
    alternatives = [(residue, atom.altloc.strip("\0 ")) for atom, _, residue in sites]
    check_alternatives(labels, alternatives)
    occupied = check_occupancies(labels, occupancies)
    tritium = {int(serial) for serial in TRITIUM.findall(frames[-1])}
    symbols = [
        "T" if atom.serial in tritium else element_of_symbol(atom.element.name)
        for atom, _, _ in sites
    ]
    if None in symbols:
        unknown = [label for label, symbol in zip(labels, symbols, strict=True) if symbol is None]
        raise StructureError(
            f"the elements of atoms {named(unknown)} are unknown: give them in columns 77 and 78"
        )
    elements = [symbol for symbol in symbols if symbol is not None]
    positions = np.array([atom.pos.tolist() for atom, _, _ in sites])
    stated = Stated(occupancies=occupied)
    parameters = np.array(structure.cell.parameters)
    if not cells:
        return Read(atoms_of(elements, positions), stated, findings)
    if is_filler(parameters) or not parameters[:3].any():
        return Read(atoms_of(elements, positions), stated, (*findings, FINDING))
    cell = lattice(parameters)
    operations = _operations(structure.spacegroup_hm, cell)
    scaled = np.linalg.solve(cell.T, positions.T).T
    found = orbits(scaled, operations, cell, np.full(len(labels), FINEST))
    atoms, crystal_findings = crystal_of(labels, elements, found, cell)
    stated = Stated(
        space_group=structure.spacegroup_hm or None,
        operations=len(operations),
        point_order=operations.point_order,
        occupancies=occupied,
    )
    return Read(atoms, stated, (*findings, *crystal_findings))


def _operations(name: str, cell: np.ndarray) -> FractionalOperations:
    """Return the operations of the space group that the file names, or else the identity.

    Raises:
        StructureError: If the group is unknown, or does not fit the cell.
    """
    if not name.strip():
        return FractionalOperations(np.eye(3)[None], np.zeros((1, 3)))
    fitting = [g for g in groups_named(None, name, None, None, cell) if g.misfit(cell) < FITS]
    if not fitting:
        raise StructureError(
            f"the space group {name} is unknown or does not fit the cell: correct CRYST1"
        )
    return fitting[0]
