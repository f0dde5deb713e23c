"""Reader of CIF and mmCIF files, for crystals and molecules.

gemmi parses the text and provides the space groups. The atoms of the cell are generated in `sites`.

Three readers were compared on eight porous materials, three crystals of the package and six
difficult files. Results for the difficult files:

| file | ASE 3.29 | gemmi 0.7 | pymatgen 2026.10 |
| --- | --- | --- | --- |
| `trigonal` axes, corundum (30 atoms) | 24 atoms, contact 0.58 | right | right |
| labels in capitals, NaCl | C4N4 | right | right |
| two digits, ZnO (4 atoms) | 12 atoms, contact 0.01 | 4 atoms, Cmc2_1 for P6_3mc | 12 atoms |
| half occupied | 28 atoms, contact 0.12 | 8 atoms, occupancy kept | no Atoms, occupancy kept |
| time, MOF-5 (424 atoms) | 0.11 s | 0.05 s | 1.5 s |

On the others all three agree. gemmi has no dependencies and one wheel of 2 MB. For a site with
rounded coordinates, gemmi's own atom list uses one of the images; this module uses their mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from ase import Atoms

from mace_functional.structure.contacts import REPORTED, shortest_contact
from mace_functional.structure.reading.cif_text import NOTHING, Block, blocks_of
from mace_functional.structure.reading.composition import composition, formula_units, parse_formula
from mace_functional.structure.reading.crystals import (
    atoms_of,
    crystal_of,
    lattice,
)
from mace_functional.structure.reading.errors import StructureError
from mace_functional.structure.reading.filler import FINDING, is_filler
from mace_functional.structure.reading.labels import element_of_symbol, elements_of_labels
from mace_functional.structure.reading.occupancy import check_alternatives, check_occupancies, named
from mace_functional.structure.reading.reading_record import Read, Stated
from mace_functional.structure.reading.sites import (
    FINEST,
    FractionalOperations,
    orbits,
    tolerance_of,
)
from mace_functional.structure.reading.space_groups import group_of

CELL = (
    *("_cell_length_a", "_cell_length_b", "_cell_length_c"),
    *("_cell_angle_alpha", "_cell_angle_beta", "_cell_angle_gamma"),
)
FRACTIONAL = ("_atom_site_fract_x", "_atom_site_fract_y", "_atom_site_fract_z")
CARTESIAN = ("_atom_site_cartn_x", "_atom_site_cartn_y", "_atom_site_cartn_z")
SYMBOL, OCCUPANCY = "_atom_site_type_symbol", "_atom_site_occupancy"
"""Tags of a CIF, in lower case, with `_` for `.`."""


@dataclass(frozen=True, eq=False)
class Sites:
    """The S sites of a block of a CIF.

    Attributes:
        labels: Label of each site.
        symbols: Element of each site, D and T included; None if only the labels give them.
        scaled: Fractional coordinates, (S, 3).
        tolerances: Rounding error of the coordinates of each site, (S,); see `tolerance_of`.
    """

    labels: Sequence[str]
    symbols: Sequence[str] | None
    scaled: np.ndarray
    tolerances: np.ndarray


@dataclass(frozen=True, eq=False)
class Candidate:
    """The crystal for one choice of the origin of the space group.

    Attributes:
        atoms: The crystal.
        findings: Messages to the user.
        agrees: True if it has the stated formula and the stated number of formula units.
        sound: True if no contact is below `REPORTED`.
        contact: Smallest distance over the sum of covalent radii.
    """

    atoms: Atoms
    findings: tuple[str, ...]
    agrees: bool = False
    sound: bool = False
    contact: float = 0.0


def read_cif(text: str) -> Read:
    """Read the structure of a CIF or mmCIF.

    Args:
        text: Text of the file.

    Raises:
        StructureError: If it is not a CIF, holds no structure or different ones, or is disordered.
    """
    block, findings = _chosen([block for block in blocks_of(text) if _has_sites(block)])
    labels = _labels(block)
    empty = [i for i, occupancy in enumerate(_occupancies(block, labels)) if occupancy == 0]
    if empty:
        findings += (f"sites of zero occupancy are left out: {named([labels[i] for i in empty])}",)
        block.keep_sites(sorted(set(range(len(labels))) - set(empty)), len(labels))
        labels = _labels(block)
    occupancies = check_occupancies(labels, _occupancies(block, labels))
    check_alternatives(labels, _alternatives(block, labels))
    stated = Stated(
        formula=block.value("_chemical_formula_sum"),
        units=block.number("_cell_formula_units_z"),
        density=block.number("_exptl_crystal_density_diffrn"),
        occupancies=occupancies,
    )
    parameters = [block.number(tag) for tag in CELL]
    coordinates = block.numbers(_coordinate_tags(block), labels)
    assert coordinates is not None
    symbols = _symbols(block, labels)
    fractional = _coordinate_tags(block) == FRACTIONAL
    if None in parameters:
        if fractional:
            raise StructureError(
                "it has fractional coordinates but no complete cell: give all lengths and angles"
            )
        return _molecule(labels, symbols, coordinates, stated, findings)
    if is_filler(np.array(parameters, dtype=float)):
        return _molecule(labels, symbols, coordinates, stated, (*findings, FINDING))
    cell = lattice(np.array(parameters, dtype=float))
    scaled = coordinates if fractional else np.linalg.solve(cell.T, coordinates.T).T
    tolerances = np.full(len(labels), FINEST)
    if fractional:
        columns = [block.column(tag) or [] for tag in FRACTIONAL]
        tolerances = np.array([tolerance_of(row) for row in zip(*columns, strict=True)])
    return _crystal(block, Sites(labels, symbols, scaled, tolerances), cell, stated, findings)


def _chosen(blocks: list[Block]) -> tuple[Block, tuple[str, ...]]:
    """Choose the block to read: the last one, if all blocks have the same sites.

    Raises:
        StructureError: If there is no block, or blocks hold different materials.
    """
    if not blocks:
        raise StructureError("it holds no atoms with coordinates: give _atom_site_fract_x, _y, _z")
    if len(blocks) == 1:
        return blocks[0], ()
    names = named([block.name or "(no name)" for block in blocks])
    contents = {tuple(sorted(_elements_or_labels(block))) for block in blocks}
    if len(contents) > 1:
        raise StructureError(
            f"it holds {len(blocks)} different structures, {names}: keep the one that is meant"
        )
    return blocks[-1], (
        f"it holds {len(blocks)} structures of the same sites, {names}: the last one is read",
    )


def _has_sites(block: Block) -> bool:
    return any(block.column(tags[0]) is not None for tags in (FRACTIONAL, CARTESIAN))


def _coordinate_tags(block: Block) -> tuple[str, ...]:
    """Return the tags of fractional coordinates, or of Cartesian ones if those are missing."""
    columns = [block.column(tag) for tag in FRACTIONAL]
    return FRACTIONAL if all(column is not None for column in columns) else CARTESIAN


def _elements_or_labels(block: Block) -> list[str]:
    return block.column(SYMBOL) or _labels(block)


def _labels(block: Block) -> list[str]:
    """Return the labels of the sites, or else their elements, or else their numbers."""
    tags = _coordinate_tags(block)
    count = len(block.column(tags[0]) or ())
    if any(len(block.column(tag) or ()) != count for tag in tags) or not count:
        raise StructureError("its coordinates are incomplete: give x, y and z of every site")
    labels = block.column("_atom_site_label", "_atom_site_label_atom_id", SYMBOL)
    return labels if labels and len(labels) == count else [str(i) for i in range(count)]


def _column(block: Block, labels: Sequence[str], *tags: str) -> list[str] | None:
    """Return the column of the first tag that the file has; None if it has none of them.

    Raises:
        StructureError: If the column does not have a value for each site.
    """
    column = block.column(*tags)
    if column is not None and len(column) != len(labels):
        raise StructureError(
            f"there are {len(column)} values of {' or '.join(tags)} for {len(labels)} sites: put "
            "them into the loop of the coordinates"
        )
    return column


def _symbols(block: Block, labels: Sequence[str]) -> list[str] | None:
    """Return the elements in the column of symbols; None if there is no such column.

    Raises:
        StructureError: If a symbol is not that of an element.
    """
    column = _column(block, labels, SYMBOL)
    if column is None or all(symbol in NOTHING for symbol in column):
        return None
    symbols = [element_of_symbol(symbol) for symbol in column]
    unknown = [
        f"{label} ({symbol})"
        for label, symbol, element in zip(labels, column, symbols, strict=True)
        if element is None
    ]
    if unknown:
        raise StructureError(
            f"the elements of sites {named(unknown)} are unknown: remove them, or name elements"
        )
    return [symbol for symbol in symbols if symbol is not None]


def _occupancies(block: Block, labels: Sequence[str]) -> list[float]:
    """Return the occupancies of the sites; 1 for sites without a value."""
    column = _column(block, labels, OCCUPANCY)
    if column is None:
        return [1.0] * len(labels)
    given = block.numbers((OCCUPANCY,), labels) if not set(column) & set(NOTHING) else None
    if given is not None:
        return given[:, 0].tolist()
    return [1.0 if value in NOTHING else _occupancy(value) for value in column]


def _occupancy(value: str) -> float:
    try:
        return float(value.partition("(")[0])
    except ValueError as error:
        raise StructureError(f"{value!r} is not an occupancy: give a number") from error


def _alternatives(block: Block, labels: Sequence[str]) -> list[tuple[str, str]]:
    """Return the disorder assembly and the disorder group of each site."""
    none = [""] * len(labels)
    tags = "_atom_site_disorder_group", "_atom_site_label_alt_id"
    groups = _column(block, labels, *tags) or none
    assemblies = _column(block, labels, "_atom_site_disorder_assembly") or none
    return [
        ("" if a in NOTHING else a, "" if g in (*NOTHING, "0") else g)
        for a, g in zip(assemblies, groups, strict=True)
    ]


def _molecule(
    labels: Sequence[str],
    symbols: Sequence[str] | None,
    positions: np.ndarray,
    stated: Stated,
    findings: tuple[str, ...],
) -> Read:
    """Return a molecule, which is not periodic."""
    if symbols is None:
        formula = parse_formula(stated.formula or "")
        symbols, label_findings = elements_of_labels(labels, [1] * len(labels), formula)
        findings += label_findings
    return Read(atoms_of(symbols, positions), replace(stated, units=None, density=None), findings)


def _crystal(
    block: Block, sites: Sites, cell: np.ndarray, stated: Stated, findings: tuple[str, ...]
) -> Read:
    """Return a crystal: the images of the sites by the operations of the space group."""
    group = group_of(block, cell)
    stated = replace(
        stated,
        space_group=group.stated,
        operations=None if group.named is None else len(group.named),
        point_order=group.point_order,
    )
    candidates = [_candidate(sites, choice, cell, stated) for choice in group.choices]
    if len(candidates) == 1:
        return Read(candidates[0].atoms, stated, (*findings, *candidates[0].findings))
    candidates = [_with_scores(candidate, stated) for candidate in candidates]
    best = max(candidates, key=lambda c: (c.agrees, c.sound))
    rivals = [
        c
        for c in candidates
        if (c.agrees, c.sound) == (best.agrees, best.sound)
        and (len(c.atoms) != len(best.atoms) or abs(c.contact - best.contact) > SAME_CONTACT)
    ]
    if rivals:
        findings += (
            f"it does not state the origin choice of {group.stated}: the first one is used, with "
            f"{len(best.atoms)} atoms; the other one would give {len(rivals[0].atoms)}",
        )
    return Read(best.atoms, stated, (*findings, *best.findings))


SAME_CONTACT = 0.02
"""Difference of the smallest ratios below which two crystals of as many atoms count as equal."""


def _candidate(
    sites: Sites, operations: FractionalOperations, cell: np.ndarray, stated: Stated
) -> Candidate:
    """Return the crystal for one choice of the operations."""
    found = orbits(sites.scaled, operations, cell, sites.tolerances)
    counts = np.bincount(found.sites, minlength=len(sites.labels))
    symbols = sites.symbols
    label_findings: tuple[str, ...] = ()
    if symbols is None:
        formula = parse_formula(stated.formula or "")
        symbols, label_findings = elements_of_labels(sites.labels, counts.tolist(), formula)
    atoms, findings = crystal_of(sites.labels, symbols, found, cell)
    return Candidate(atoms, (*label_findings, *findings))


def _with_scores(candidate: Candidate, stated: Stated) -> Candidate:
    """Set the fields that decide between choices of the origin: agrees, sound, contact."""
    formula = parse_formula(stated.formula or "")
    units = formula_units(composition(candidate.atoms.symbols), formula) if formula else None
    agrees = units is not None and (stated.units is None or abs(units - stated.units) < 0.01)
    try:
        contact = shortest_contact(candidate.atoms)
    except ValueError:  # no room for the atoms: the checks raise later
        return replace(candidate, agrees=agrees)
    ratio = np.inf if contact is None else contact.ratio
    return replace(candidate, agrees=agrees, sound=bool(ratio >= REPORTED), contact=float(ratio))
