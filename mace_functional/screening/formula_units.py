"""Chemical formulas as chemists write them: SiO2 and 3 formula units, not O6Si3.

Elements of inorganic formulas follow the sequence of the periodic table that IUPAC gives for
formulas (Nomenclature of Inorganic Chemistry, 2005, table VI): groups from left to right, heavier
elements first, hydrogen between groups 15 and 16. Formulas with carbon and hydrogen are in the
order of Hill: C, H, and then by the alphabet.
"""

from __future__ import annotations

from ase.data import atomic_numbers
from ase.formula import Formula

NOBLE_GASES = (86, 54, 36, 18, 10, 2, 0)
"""Atomic numbers after which a period begins."""

MOLECULAR = frozenset(["H", "C", "N", "O", "F", "P", "S", "Cl", "Br", "I"])
"""Elements of organic molecules. The formula unit of a crystal of such molecules is a molecule,
which the composition alone does not tell."""


def formula_unit(formula: str, crystal: bool) -> tuple[str, int]:
    """The formula of one formula unit, and the number of formula units in the cell.

    Args:
        formula: Formula of the cell or molecule.
        crystal: True for a cell that is periodic in all directions, whose formula is reduced.
            Molecules, and crystals of organic molecules, stay whole.

    Returns:
        Formula and number; the text as it is, and 1, if it is no formula.

    >>> formula_unit("O6Si3", crystal=True)
    ('SiO2', 3)
    >>> formula_unit("C6H6", crystal=False)
    ('C6H6', 1)
    """
    try:
        whole = Formula(formula)
    except ValueError:
        return formula, 1
    elements = set(whole.count())
    if not elements:
        return formula, 1
    organic = {"C", "H"} <= elements
    unit, number = whole, 1
    if crystal and not (organic and elements <= MOLECULAR):
        unit, number = whole.reduce()
    if organic:
        return unit.format("hill"), number
    count = unit.count()
    ordered = sorted(count, key=_place)
    return "".join(f"{e}{count[e] if count[e] > 1 else ''}" for e in ordered), number


def _place(element: str) -> tuple[float, int]:
    """Place of an element in an inorganic formula: its group, and the heavier ones first."""
    number = atomic_numbers[element]
    if number == 1:
        return 15.5, -1
    return _group(number), -number


def _group(number: int) -> int:
    """Group of the periodic table; 3 for lanthanides and actinides, 0 for noble gases."""
    if number in NOBLE_GASES:
        return 0
    before = next(noble for noble in NOBLE_GASES if noble < number)
    place = number - before
    if place <= 2:
        return place
    if before < 18:
        return place + 10
    if before < 54:
        return place
    return max(3, place - 14)
