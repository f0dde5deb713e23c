"""Symmetry numbers of molecules: published ones, isotopes, distorted molecules, other oracles."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import spglib
from ase import Atoms
from ase.build import bulk, molecule

import mace_functional as mf

D = 2.014
S_F = 1.56
SF6 = Atoms("SF6", S_F * np.array([[0, 0, 0], *np.eye(3), *-np.eye(3)]))
PUBLISHED = {  # Fernández-Ramos et al., Theor. Chem. Acc. 118, 813 (2007), and point groups
    "H2O": 2,
    "CH3CH2OH": 1,
    "C6H6": 12,
    "CO2": 2,
    "H2": 2,
    "CH4": 12,
    "NH3": 3,
    "HCl": 1,
    "C2H2": 2,
    "HCN": 1,
    "C2H4": 4,
    "C2H6": 6,
    "BF3": 6,
    "C3H4_D2d": 4,
    "isobutane": 3,
    "cyclobutane": 4,
    "H2O2": 2,  # chiral, C2
    "CH3OH": 1,
    "OCS": 1,
    "C60": 60,
}


def molecule_of(name: str, masses: dict[int, float] | None = None) -> Atoms:
    atoms = molecule(name)
    changed = atoms.get_masses()
    for index, mass in (masses or {}).items():
        changed[index] = mass
    atoms.set_masses(changed)
    return atoms


def turned(atoms: Atoms, seed: int) -> Atoms:
    """The molecule turned and moved, with its atoms in another order."""
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    other = atoms[rng.permutation(len(atoms))]
    other.positions = other.positions @ (q * np.linalg.det(q)) + rng.normal(size=3)
    return other


@pytest.mark.parametrize(("name", "number"), PUBLISHED.items())
def test_published_symmetry_numbers(name, number):
    assert mf.symmetry_number(molecule(name)) == number
    assert mf.symmetry_number(turned(molecule(name), seed=number)) == number


def test_octahedron_and_atom():
    assert mf.symmetry_number(turned(SF6, seed=1)) == 24
    assert mf.symmetry_number(Atoms("Ar")) == 1


@pytest.mark.parametrize(
    ("name", "masses", "number"),
    [
        ("CH4", {1: D}, 3),
        ("CH4", {1: D, 2: D}, 2),
        ("CH4", {1: D, 2: D, 3: D}, 3),
        ("CH4", {1: D, 2: D, 3: D, 4: D}, 12),
        ("H2", {0: D}, 1),
        ("H2O", {1: D}, 1),
        ("CO2", {1: 17.999}, 1),
        ("C6H6", {6: D}, 2),
        ("CH4", {0: 13.003}, 12),
        ("CH4", {1: 1.0079, 2: 1.00784}, 12),  # the same isotope in two tables
    ],
)
def test_isotopes_are_different_atoms(name, masses, number):
    assert mf.symmetry_number(molecule_of(name, masses)) == number


@pytest.mark.parametrize("name", ["H2O", "CH4", "C2H4", "SF6", "C3H4_D2d", "H2CO", "P2", "O3"])
def test_proper_rotations_of_spglib(name):
    """In a cubic box spglib finds the rotations of molecules that lie along its axes."""
    atoms = SF6 if name == "SF6" else molecule(name)
    if name == "C3H4_D2d":  # its axes lie between x and y
        atoms.rotate(45, "z")
    box = (np.eye(3) * 20, atoms.positions / 20 + 0.5, atoms.numbers)
    rotations = spglib.get_symmetry(box, symprec=0.01)["rotations"]
    number = sum(np.linalg.det(r) > 0 for r in rotations)
    if name == "P2":  # also the quarter turns about its own axis, which are not counted
        number //= 4
    assert mf.symmetry_number(atoms) == number


def test_bond_that_is_longer_breaks_the_symmetry_beyond_the_tolerance():
    atoms = molecule("CH4")
    atoms.positions[1] *= 1.05  # 0.055 Å
    with pytest.warns(UserWarning, match=r"3 with a tolerance of 0.02 Å, and 12 with 0.0"):
        assert mf.symmetry_number(atoms) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mf.symmetry_number(atoms, tolerance=0.1) == 12
        assert mf.symmetry_number(atoms, tolerance=1e-3) == 3


@pytest.mark.parametrize("seed", range(20))
def test_number_near_the_tolerance_is_the_order_of_a_subgroup(seed):
    atoms = molecule("CH4")
    atoms.rattle(0.015, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        number = mf.symmetry_number(atoms)
    assert number in (1, 2, 3, 4, 12)


def test_bent_molecule_that_is_linear_at_its_minimum():
    atoms = Atoms("CO2", [[0, 0.1, 0], [0, 0, 1.16], [0, 0, -1.16]])
    assert mf.symmetry_number(atoms) == mf.symmetry_number(atoms, linear=True) == 2
    atoms.symbols[2] = "S"
    assert mf.symmetry_number(atoms, linear=True) == 1


def test_what_is_no_molecule_is_refused():
    with pytest.raises(ValueError, match="periodic along 3 directions: for a molecule in a box"):
        mf.symmetry_number(bulk("Si"))
    with pytest.raises(ValueError, match="there are no atoms"):
        mf.symmetry_number(Atoms())
    with pytest.raises(ValueError, match=r"tolerance must be a number from 1e-08 to 0\.5"):
        mf.symmetry_number(molecule("H2O"), tolerance=0)
    with pytest.raises(TypeError, match="takes an Atoms, not str"):
        mf.symmetry_number("H2O")
