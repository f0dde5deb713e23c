"""Formulas of cells and molecules in the order in which chemists write them."""

from __future__ import annotations

import pytest

from mace_functional.screening.formula_units import formula_unit


@pytest.mark.parametrize(
    ("cell", "unit", "number"),
    [
        ("O6Si3", "SiO2", 3),
        ("Cl4Na4", "NaCl", 4),
        ("C4Si4", "SiC", 4),
        ("C2Ca2O6", "CaCO3", 2),
        ("H8O4", "H2O", 4),
        ("H12N4", "NH3", 4),
        ("As4Ga4", "GaAs", 4),
        ("O12Sr4Ti4", "SrTiO3", 4),
        ("B4N4", "BN", 4),
        ("F8U4", "UF2", 4),
        ("Al6Cl2Na8O24Si6", "Na4Al3Si3O12Cl", 2),
        ("Si8", "Si", 8),
    ],
)
def test_inorganic_crystals_are_written_as_in_textbooks(cell, unit, number):
    assert formula_unit(cell, crystal=True) == (unit, number)


def test_frameworks_are_reduced_in_the_order_of_hill():
    assert formula_unit("C48H24O26Zn8", crystal=True) == ("C24H12O13Zn4", 2)


@pytest.mark.parametrize(("formula", "crystal"), [("C6H6", False), ("C24H24", True)])
def test_molecules_stay_whole(formula, crystal):
    assert formula_unit(formula, crystal=crystal) == (formula, 1)


@pytest.mark.parametrize("words", ["", "bad", "$x$", "<b>", "((((", "99"])
def test_what_is_no_formula_stays_as_it_is(words):
    assert formula_unit(words, crystal=True) == (words, 1)
