"""Record of a structure: its properties, and findings of the checks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ase import Atoms

from mace_functional.structure.contacts import Contact
from mace_functional.structure.reading.isotopes import Isotope


@dataclass(frozen=True)
class Stated:
    """Formula, density and symmetry that a file states; None for those that it does not state.

    Attributes:
        formula: Formula of a formula unit, as written in the file.
        units: Number of formula units in the cell.
        density: Density, g/cm³.
        space_group: Name or number of the space group, as written in the file.
        operations: Number of operations of the space group in this cell; None if they do not fit.
        point_order: Number of different rotations of the space group.
        occupancies: Labels and occupancies of sites whose occupancy is not exactly one.
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
    """Structure and stated properties of a file, before the checks.

    Attributes:
        atoms: The structure.
        stated: Formula, density and symmetry that the file states.
        findings: Messages of the reader to the user.
    """

    atoms: Atoms
    stated: Stated = Stated()
    findings: tuple[str, ...] = ()


@dataclass(frozen=True)
class StructureRecord:
    """Properties of a structure that was read, and findings of the checks.

    Attributes:
        file: Path as it was given; None if the structure was given as Atoms.
        format: ASE's name of the file format; None if there is no file.
        formula: Formula of the cell or molecule.
        atoms: Number of atoms.
        pbc: Periodic directions.
        shortest_contact: Pair of atoms with the smallest distance over the sum of covalent radii;
            None if no two atoms are close to each other.
        density: Density, g/cm³; None if not periodic in all directions.
        constraints: Description of each constraint.
        occupancies: Labels and occupancies of sites that were taken as full although the file
            states an occupancy slightly different from one.
        isotopes: Atoms whose masses differ from the natural ones.
        stated_formula: Formula as written in the file.
        stated_density: Density as written in the file, g/cm³.
        stated_space_group: Space group as written in the file.
        found_space_group: Space group that spglib finds; None if the file states none.
        findings: Messages to the user, one sentence each; empty for a good file.
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
        """Return the record as a dictionary for JSON; names of quantities end with their unit."""
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
