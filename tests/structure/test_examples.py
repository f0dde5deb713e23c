"""The structures that come with the package, against what is known of them."""

from __future__ import annotations

from importlib import resources

import ase.io
import numpy as np
import pytest
from ase.neighborlist import neighbor_list

import mace_functional as mf
from mace_functional.structure import examples as structures
from mace_functional.structure.examples import CRYSTALS, STRUCTURES

COMPOSITIONS = {
    "quartz": "O6Si3",
    "sodalite": "O12Si6",
    "MOF-5": "C48H24O26Zn8",
    "ethanol": "C2H6O",
    "benzene": "C6H6",
}

CELLS = {"quartz": 113.01, "sodalite": 8.965**3 / 2, "MOF-5": 25.832**3 / 4}
"""Volumes of the primitive cells, Å³."""

BONDS = {
    "quartz": {"Si-O": (1.60, 1.62, 12)},
    "sodalite": {"Si-O": (1.58, 1.62, 24)},
    "MOF-5": {
        "Zn-O": (1.91, 1.96, 32),  # four for each zinc, one of them to the oxygen at the centre
        "C-O": (1.25, 1.31, 24),
        "C-C": (1.37, 1.50, 48),
        "C-H": (0.90, 1.10, 24),
    },
    "ethanol": {"C-C": (1.50, 1.53, 1), "C-O": (1.40, 1.44, 1), "C-H": (1.08, 1.11, 5)},
    "benzene": {"C-C": (1.38, 1.40, 6), "C-H": (1.07, 1.10, 6)},
}
"""Shortest and longest bonds in Å, and how many there are."""

LONGEST = {"Si-O": 2.0, "Zn-O": 2.5, "C-O": 1.8, "C-C": 1.8, "C-H": 1.3}
"""What counts as a bond, Å."""


def test_every_structure_is_tested_here():
    assert list(STRUCTURES) == list(COMPOSITIONS) == list(BONDS)
    assert list(CELLS) == list(CRYSTALS)


@pytest.mark.parametrize(("name", "formula"), COMPOSITIONS.items())
def test_composition(name, formula):
    atoms = mf.example_structure(name)
    assert atoms.get_chemical_formula() == formula
    assert f" {len(atoms)} atoms " in STRUCTURES[name]
    assert atoms.pbc.tolist() == [name in CRYSTALS] * 3


@pytest.mark.parametrize(("name", "volume"), CELLS.items())
def test_cell_is_primitive(name, volume):
    assert mf.example_structure(name).get_volume() == pytest.approx(volume, abs=0.01)


@pytest.mark.parametrize(("name", "bonds"), BONDS.items())
def test_bond_lengths(name, bonds):
    atoms = mf.example_structure(name)
    for pair, (shortest, longest, number) in bonds.items():
        lengths = neighbor_list("d", atoms, {tuple(pair.split("-")): LONGEST[pair]})
        assert len(lengths) == 2 * number
        assert lengths.min() > shortest
        assert lengths.max() < longest


@pytest.mark.parametrize("name", ["quartz", "sodalite"])
def test_silicon_has_four_oxygens_at_the_corners_of_a_tetrahedron(name):
    atoms = mf.example_structure(name)
    silicon, vectors = neighbor_list("iD", atoms, {("Si", "O"): 2.0})
    for i in np.flatnonzero(atoms.numbers == 14):
        arms = vectors[silicon == i]
        cosines = arms @ arms.T / np.outer(*2 * [np.linalg.norm(arms, axis=1)])
        angles = np.degrees(np.arccos(cosines[np.triu_indices(4, 1)]))
        assert len(arms) == 4
        assert np.abs(angles - 109.47).max() < 5


@pytest.mark.parametrize("name", CRYSTALS)
def test_file_is_a_crystal_for_any_reader_and_names_its_source(name):
    text = (resources.files(structures) / f"{name}.cif").read_text()
    for tag in "_publ_author_name", "_journal_name_full", "_journal_year":
        assert f"\n{tag} " in text
    year = text.split("_journal_year ")[1].split()[0]
    assert year in STRUCTURES[name]
    conventional = ase.io.read(str(resources.files(structures) / f"{name}.cif"))
    cells = {"quartz": 1, "sodalite": 2, "MOF-5": 4}[name]
    assert len(conventional) == cells * len(mf.example_structure(name))


@pytest.mark.parametrize("name", ["Quartz", "mof-5", "ETHANOL"])
def test_names_are_known_in_any_case(name):
    (known,) = [s for s in STRUCTURES if s.lower() == name.lower()]
    assert mf.example_structure(name) == mf.example_structure(known)


def test_each_call_gives_a_structure_of_its_own():
    first = mf.example_structure("quartz")
    first.positions += 1
    assert mf.example_structure("quartz") != first
    assert first.info == {}


def test_unknown_name_is_refused_with_the_names():
    known = "quartz, sodalite, MOF-5, ethanol, benzene"
    with pytest.raises(ValueError, match=f"no structure 'MOF-6': choose one of {known}"):
        mf.example_structure("MOF-6")
