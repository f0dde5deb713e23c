"""Checks of a structure that was read: errors and findings.

The limits of distances are in `contacts`. The stated formula, number of formula units, density and
space group are compared with those of the atoms.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import spglib
from ase import Atoms

from mace_functional.structure.contacts import (
    GRAM_PER_CM3,
    REFUSED,
    REPORTED,
    Contact,
    shortest_contact,
)
from mace_functional.structure.reading.composition import (
    composition,
    formula_units,
    in_words,
    parse_formula,
)
from mace_functional.structure.reading.errors import StructureError
from mace_functional.structure.reading.filler import without_filler
from mace_functional.structure.reading.isotopes import isotopes_of
from mace_functional.structure.reading.occupancy import check_occupancies, named
from mace_functional.structure.reading.reading_record import Read, Stated, StructureRecord

ONE_PLACE = 0.05
"""Distance below which two atoms occupy the same site, Å."""

SAME_DENSITY = 0.05
"""Relative difference of the stated and the computed density above which a finding is reported.

Thermal expansion causes up to 0.02, one formula unit too many in the cell 0.06 and more.
"""

SYMMETRY = 0.01
"""Tolerance of the search for the space group that a file states, Å."""

MOST_FOR_SYMMETRY = 4000
"""Largest number of atoms for which the space group is searched; 0.8 s for 4000 of diamond."""


def checked(read: Read, *, file: str | None = None, format: str | None = None) -> StructureRecord:
    """Check a structure, and return its record.

    Args:
        read: The structure and the properties that its file states.
        file: Path of the file.
        format: Format of the file.

    Raises:
        StructureError: If numbers are not finite, the cell has no volume, an element is unknown,
            atoms coincide, or the stated formula lacks an element of the atoms.
    """
    atoms, stated = read.atoms, read.stated
    _check_numbers(atoms)
    _check_cell(atoms)
    _check_sites(atoms)
    try:
        contact = shortest_contact(atoms)
    except ValueError as error:
        raise StructureError(str(error)) from error
    if contact is not None and contact.ratio < REFUSED:
        raise StructureError(_too_close(atoms, contact))
    findings = list(read.findings)
    if contact is not None and contact.ratio < REPORTED:
        findings.append(f"{contact}: check the cell and the coordinates")
    density = _density(atoms)
    findings += _formula_findings(atoms, stated)
    if density is not None and stated.density and not _near(density, stated.density):
        findings.append(
            f"the file states a density of {stated.density:g} g/cm³, but cell and atoms give "
            f"{density:.3f}"
        )
    group, symmetry_findings = _symmetry(atoms, stated)
    return StructureRecord(
        file=file,
        format=format,
        formula=atoms.get_chemical_formula(),
        atoms=len(atoms),
        pbc=(bool(atoms.pbc[0]), bool(atoms.pbc[1]), bool(atoms.pbc[2])),
        shortest_contact=contact,
        density=density,
        constraints=tuple(_in_words(constraint) for constraint in atoms.constraints),
        occupancies=stated.occupancies,
        isotopes=isotopes_of(atoms),
        stated_formula=stated.formula,
        stated_density=stated.density,
        stated_space_group=stated.space_group,
        found_space_group=group,
        findings=(*findings, *symmetry_findings),
    )


def _check_numbers(atoms: Atoms) -> None:
    """Raise if there are no atoms, or numbers are not finite, or an element is unknown."""
    if len(atoms) == 0:
        raise StructureError("it has no atoms")
    bad = np.flatnonzero(~np.isfinite(atoms.positions).all(1))
    if len(bad):
        raise StructureError(
            f"coordinates of atoms {_numbers(bad)} are not finite numbers: give them"
        )
    if not np.isfinite(atoms.cell.array).all():
        raise StructureError("its cell has entries that are not finite numbers: correct it")
    dummies = np.flatnonzero(atoms.numbers < 1)
    if len(dummies):
        raise StructureError(f"atoms {_numbers(dummies)} have no element (X): remove them")
    masses = atoms.get_masses()
    if not (np.isfinite(masses) & (masses > 0)).all():
        bad = np.flatnonzero(~(np.isfinite(masses) & (masses > 0)))
        raise StructureError(f"masses of atoms {_numbers(bad)} are not positive: give them in amu")


def _check_cell(atoms: Atoms) -> None:
    """Raise if a periodic direction has no lattice vector, or the cell has no volume."""
    lengths = atoms.cell.lengths()
    missing = np.flatnonzero(atoms.pbc & (lengths == 0))
    if len(missing):
        raise StructureError(
            f"it is periodic along {_axes(missing)} but has no lattice vector there: give the "
            'cell (Lattice="..." in extended XYZ), or make it non-periodic (pbc="F F F")'
        )
    if without_filler(Read(atoms)).atoms is not atoms:
        raise StructureError(
            f"{len(atoms)} atoms in a periodic cell of 1 x 1 x 1 Å are a molecule with a "
            "placeholder cell: remove the cell, or set pbc to False"
        )
    vectors = atoms.cell.array[atoms.pbc]
    if len(vectors):
        unit = vectors / np.linalg.norm(vectors, axis=1)[:, None]
        if not math.sqrt(max(0.0, float(np.linalg.det(unit @ unit.T)))) > 1e-3:
            raise StructureError(
                "its lattice vectors are linearly dependent, so that the cell has no volume: "
                "correct the cell"
            )


def _check_sites(atoms: Atoms) -> None:
    """Raise if `atoms.info` of ASE says that sites are partly occupied or mixed."""
    sites = atoms.info.get("occupancy")
    if not isinstance(sites, Mapping) or not all(isinstance(s, Mapping) for s in sites.values()):
        return
    shares = [
        (str(element), float(share)) for site in sites.values() for element, share in site.items()
    ]
    check_occupancies([element for element, _ in shares], [share for _, share in shares])


def _too_close(atoms: Atoms, contact: Contact) -> str:
    """Return the error message for two atoms that are too close, with a remedy."""
    first, second = contact.first, contact.second
    if first == second:
        return (
            f"atom {first} ({contact.symbols[0]}) is {contact.distance:.3g} Å from its own image: "
            "the cell is too small; give it in Å"
        )
    if contact.distance > ONE_PLACE:
        return (
            f"{contact}, less than the {REFUSED} of any matter: coordinates are rounded or "
            "alternatives, or the cell or its setting is wrong; correct the file"
        )
    if contact.symbols[0] != contact.symbols[1]:
        return f"{contact}: the site has mixed elements; choose one, or make an ordered supercell"
    distance = float(np.linalg.norm(atoms.positions[first] - atoms.positions[second]))
    if distance > ONE_PLACE:
        return (
            f"atoms {first} and {second} ({contact.symbols[0]}) are copies, a lattice vector "
            f"({distance:.3g} Å) apart: remove one of them, and likewise on all faces of the cell"
        )
    return f"{contact}: they are one atom, listed twice; remove one of them"


def _formula_findings(atoms: Atoms, stated: Stated) -> list[str]:
    """Compare the atoms with the stated formula, and return a finding if they disagree.

    Raises:
        StructureError: If the formula lacks an element of the atoms, or the atoms lack hydrogen.
    """
    formula = parse_formula(stated.formula or "")
    if formula is None:
        return []
    found = composition(atoms.symbols)
    words = f"the file states the formula {stated.formula}, but its atoms are {in_words(found)}"
    if set(found) - set(formula):
        raise StructureError(
            f"{words}: elements are misread, or the formula is that of another material; correct "
            "the elements (column _atom_site_type_symbol) or the formula"
        )
    if set(formula) - set(found) == {"H"}:
        raise StructureError(f"{words}: its hydrogen atoms are missing; add them")
    units = formula_units(found, formula)
    if units is None:
        return [f"{words}: check for missing or additional atoms"]
    if stated.units is not None and not math.isclose(units, stated.units, rel_tol=0.01):
        return [
            f"the file states {stated.units:g} formula units of {stated.formula} in the cell, but "
            f"its atoms make {units:g}"
        ]
    return []


def _density(atoms: Atoms) -> float | None:
    """Return the mass density, g/cm³; None if not periodic in all directions."""
    if not atoms.pbc.all():
        return None
    return float(atoms.get_masses().sum()) / float(atoms.get_volume()) * GRAM_PER_CM3


def _near(density: float, stated: float) -> bool:
    return abs(density - stated) <= SAME_DENSITY * stated


def _symmetry(atoms: Atoms, stated: Stated) -> tuple[str | None, list[str]]:
    """Return the space group that spglib finds, and a finding if the stated one is larger."""
    if stated.space_group is None or not atoms.pbc.all():
        return None, []
    if stated.point_order == 1 or len(atoms) > MOST_FOR_SYMMETRY:
        return None, []
    crystal = atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = spglib.get_symmetry_dataset(crystal, symprec=SYMMETRY)
        except Exception:  # some versions of spglib raise, others return None
            dataset = None
    if dataset is None:
        return None, []
    group = f"{dataset.international} ({dataset.number})"
    rotations = len(np.unique(dataset.rotations.reshape(-1, 9), axis=0))
    fewer_rotations = stated.point_order is not None and rotations < stated.point_order
    fewer = stated.operations is not None and len(dataset.rotations) < stated.operations
    if fewer_rotations or fewer:
        return group, [
            f"the file states the space group {stated.space_group}, but its atoms have only "
            f"{group}: check for missing atoms or another setting"
        ]
    return group, []


def _in_words(constraint: object) -> str:
    """Return the name of an ASE constraint and its number of atoms."""
    indices = getattr(constraint, "get_indices", None)
    name = type(constraint).__name__
    return name if indices is None else f"{name} on {len(set(np.ravel(indices()).tolist()))} atoms"


def _numbers(atoms: np.ndarray) -> str:
    return named([str(int(i)) for i in atoms])


def _axes(directions: Sequence[int] | np.ndarray) -> str:
    return ", ".join("abc"[int(i)] for i in directions)
