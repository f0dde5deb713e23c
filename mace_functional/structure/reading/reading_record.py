"""What was read: one record of every structure, whatever its file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ase import Atoms

from mace_functional.structure.contacts import Contact
from mace_functional.structure.reading.isotopes import Isotope


@dataclass(frozen=True)
class Stated:
    """What a file says of its structure beside the atoms; None where it says nothing.

    Attributes:
        formula: Of a formula unit, as the file has it.
        units: Formula units in a cell.
        density: g/cm³.
        space_group: Name or number, as the file has it.
        operations: How many the space group has in this cell; None if the cell is not one of it.
        point_order: Rotations of the space group.
        occupancies: Sites that are not exactly full, by their labels.
    """

    formula: str | None = None
    units: float | None = None
    density: float | None = None
    space_group: str | None = None
    operations: int | None = None
    point_order: int | None = None
    occupancies: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, eq=False)
class Read:
    """What a file holds, before it is checked.

    Attributes:
        atoms: The structure.
        stated: What the file says of it.
        findings: What a person should know of how it was read.
    """

    atoms: Atoms
    stated: Stated = Stated()
    findings: tuple[str, ...] = ()


@dataclass(frozen=True)
class StructureRecord:
    """What was read of a structure.

    Attributes:
        file: Path as it was given; None if the structure was given as Atoms.
        format: Of the file, by the name of ASE; None if there is no file.
        formula: Of the cell or molecule.
        atoms: How many there are.
        pbc: Periodic directions.
        shortest_contact: Pair of atoms with the smallest distance over the sum of covalent radii;
            None if no two come near each other.
        density: g/cm³; None if not periodic in all directions.
        constraints: What is held, in words.
        occupancies: Sites that are not exactly full in the file and were taken as full, by label.
        isotopes: Masses that are not the natural ones.
        stated_formula: As the file has it.
        stated_density: As the file has it, g/cm³.
        stated_space_group: As the file has it.
        found_space_group: Of the structure, by spglib; None if the file states none.
        findings: What a person should know, one sentence each; empty for a good file.
    """

    file: str | None
    format: str | None
    formula: str
    atoms: int
    pbc: tuple[bool, bool, bool]
    shortest_contact: Contact | None
    density: float | None
    constraints: tuple[str, ...] = ()
    occupancies: tuple[tuple[str, float], ...] = ()
    isotopes: tuple[Isotope, ...] = ()
    stated_formula: str | None = None
    stated_density: float | None = None
    stated_space_group: str | None = None
    found_space_group: str | None = None
    findings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The record for JSON, with the unit in the name of every number that has one."""
        data = asdict(self)
        contact = data.pop("shortest_contact")
        if contact is not None:
            contact["distance_A"] = contact.pop("distance")
        return {
            **{name: data[name] for name in ("file", "format", "formula", "atoms")},
            "pbc": list(self.pbc),
            "shortest_contact": contact,
            "density_g_per_cm3": self.density,
            "constraints": list(self.constraints),
            "occupancies": dict(self.occupancies),
            "isotopes": [
                {"symbol": i.symbol, "mass_amu": i.mass, "count": i.count} for i in self.isotopes
            ],
            "stated_formula": self.stated_formula,
            "stated_density_g_per_cm3": self.stated_density,
            "stated_space_group": self.stated_space_group,
            "found_space_group": self.found_space_group,
            "findings": list(self.findings),
        }
