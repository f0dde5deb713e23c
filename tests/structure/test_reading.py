"""Structures from files: what is wrong is refused, what is doubtful is told, all else is silent."""

from __future__ import annotations

import dataclasses
import gzip
import json
import warnings
from pathlib import Path

import ase.io
import gemmi
import numpy as np
import pytest
import spglib
from ase import Atoms
from ase.build import bulk, molecule
from ase.cell import Cell
from ase.constraints import FixAtoms
from ase.geometry import get_distances
from ase.spacegroup import crystal
from conftest import shared_file, shared_folder

import mace_functional as mf
from mace_functional.structure.reading import (
    StructureError,
    StructureWarning,
    read,
    structure_record,
)
from mace_functional.structure.reading.cif import read_cif

CUBIC = (5.64, 5.64, 5.64, 90, 90, 90)
HEXAGONAL = (4.759, 4.759, 12.991, 90, 90, 120)
WURTZITE = (3.25, 3.25, 5.207, 90, 90, 120)


def cif(
    cell: tuple[float, ...],
    sites: list[str],
    *lines: str,
    columns: str = "label type_symbol fract_x fract_y fract_z",
    name: str = "made",
) -> str:
    """A CIF with some sites, and lines of its own before them."""
    tags = ["length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma"]
    return "\n".join(
        [
            f"data_{name}",
            *(f"_cell_{tag} {value}" for tag, value in zip(tags, cell, strict=True)),
            *lines,
            "loop_",
            *(f"_atom_site_{column}" for column in columns.split()),
            *sites,
            "",
        ]
    )


def group(name: str) -> str:
    return f"_symmetry_space_group_name_H-M '{name}'"


OPERATIONS = "loop_\n_symmetry_equiv_pos_as_xyz\n"
ROCK_SALT = ["Na1 Na 0 0 0", "Cl1 Cl 0.5 0.5 0.5"]
CORUNDUM = ["Al1 Al 0 0 0.3522", "O1 O 0.3063 0 0.25"]
ZINC_OXIDE = ["Zn1 Zn 0.3333 0.6667 0", "O1 O 0.3333 0.6667 0.382"]
WATER = "3\n\nO 0 0 0.119\nH 0 0.763 -0.477\nH 0 -0.763 -0.477\n"


def pdb(*atoms: str, cell: str | None = None) -> str:
    """A PDB file of atoms "name altloc x y z occupancy element"."""
    lines = [] if cell is None else [f"CRYST1{cell}"]
    for number, atom in enumerate(atoms, 1):
        name, altloc, x, y, z, occupancy, element = atom.split()
        lines.append(
            f"HETATM{number:5d}  {name:3s}{altloc.replace('-', ' ')}LIG A   1    "
            f"{float(x):8.3f}{float(y):8.3f}{float(z):8.3f}{float(occupancy):6.2f}{0:6.2f}"
            f"          {element:>2s}"
        )
    return "\n".join([*lines, "END", ""])


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def poscar(atoms: Atoms, species: str, counts: str) -> str:
    """A POSCAR with names of species of one's own."""
    rows = [" ".join(f"{x:.10f}" for x in row) for row in atoms.cell.array]
    places = [" ".join(f"{x:.10f}" for x in row) for row in atoms.get_scaled_positions()]
    return "\n".join(["made", "1.0", *rows, species, counts, "Direct", *places, ""])


# What is right, and passes without a word: the text, and the atoms that it means.

GOOD = {
    "corundum by name.cif": (cif(HEXAGONAL, CORUNDUM, group("R -3 c")), "Al12O18"),
    "corundum trigonal.cif": (
        cif(HEXAGONAL, CORUNDUM, "_symmetry_cell_setting trigonal", group("R -3 c")),
        "Al12O18",
    ),
    "corundum H setting.cif": (cif(HEXAGONAL, CORUNDUM, group("R -3 c :H")), "Al12O18"),
    "corundum by number.cif": (cif(HEXAGONAL, CORUNDUM, "_space_group_IT_number 167"), "Al12O18"),
    "corundum rhombohedral.cif": (
        cif(
            (5.1284, 5.1284, 5.1284, 55.287, 55.287, 55.287),
            ["Al1 Al 0.3522 0.3522 0.3522", "O1 O 0.5563 0.9437 0.25"],
            group("R -3 c"),
        ),
        "Al4O6",
    ),
    "diamond origin 1.cif": (
        cif((3.567, 3.567, 3.567, 90, 90, 90), ["C1 C 0 0 0"], group("F d -3 m :1")),
        "C8",
    ),
    "diamond origin 2.cif": (
        cif((3.567, 3.567, 3.567, 90, 90, 90), ["C1 C 0.125 0.125 0.125"], group("F d -3 m :2")),
        "C8",
    ),
    "spinel with an origin that its formula tells.cif": (
        cif(
            (8.08, 8.08, 8.08, 90, 90, 90),
            ["Mg1 Mg 0.125 0.125 0.125", "Al1 Al 0.5 0.5 0.5", "O1 O 0.2625 0.2625 0.2625"],
            "_chemical_formula_sum 'Al2 Mg O4'",
            "_cell_formula_units_Z 8",
            group("F d -3 m"),
        ),
        "Al16Mg8O32",
    ),
    "four digits.cif": (cif(WURTZITE, ZINC_OXIDE, group("P 63 m c")), "O2Zn2"),
    "uncertainties.cif": (
        cif(
            ("3.2500(3)", "3.2500(3)", "5.207(1)", 90, 90, 120),
            ["Zn1 Zn2+ 0.33333 0.66667 0 1.0", "O1 O2- 0.33333 0.66667 0.3820(12) 1.000(3)"],
            group("P 63 m c"),
            "_chemical_formula_sum 'O1 Zn1'",
            "_cell_formula_units_Z 2",
            "_exptl_crystal_density_diffrn 5.67",
            columns="label type_symbol fract_x fract_y fract_z occupancy",
        ),
        "O2Zn2",
    ),
    "operators and no name.cif": (
        cif(
            (4.0, 5.0, 6.0, 90, 100, 90),
            ["S1 S 0.1 0.2 0.3"],
            OPERATIONS + "'x, y, z'\n'-x, y+1/2, -z+1/2'\n-x,-y,-z\n'x, 1/2-y, .5+z'",
        ),
        "S4",
    ),
    "non-standard setting.cif": (
        cif((4.0, 5.0, 6.0, 90, 100, 90), ["S1 S 0.1 0.2 0.3"], group("P 1 21/n 1")),
        "S4",
    ),
    "name without quotes.cif": (
        cif(CUBIC, ROCK_SALT, "_symmetry_space_group_name_H-M F m -3 m"),
        "Cl4Na4",
    ),
    "labels only.cif": (
        cif(CUBIC, ["Na1 0 0 0", "Cl1 .5 .5 .5"], group("Fm-3m"), columns="label fract_x fract_y "
            "fract_z"),
        "Cl4Na4",
    ),
    "high symmetry as P1.cif": (
        cif((3.567,) * 3 + (90,) * 3, [f"C{i} C {x}" for i, x in enumerate((
            "0 0 0", "0 .5 .5", ".5 0 .5", ".5 .5 0", ".25 .25 .25", ".25 .75 .75", ".75 .25 .75",
            ".75 .75 .25"))], group("P 1"), OPERATIONS + "x,y,z"),
        "C8",
    ),
    "full names of an mmCIF.cif": (
        "data_water\nloop_\n_atom_site.id\n_atom_site.type_symbol\n_atom_site.label_atom_id\n"
        "_atom_site.label_alt_id\n_atom_site.Cartn_x\n_atom_site.Cartn_y\n_atom_site.Cartn_z\n"
        "_atom_site.occupancy\n1 O O . 0 0 0.119 1.0\n2 H H1 . 0 0.763 -0.477 1.0\n"
        "3 H H2 . 0 -0.763 -0.477 1.0\n",
        "H2O",
    ),
    "molecule.xyz": (WATER, "H2O"),
    "atomic numbers.xyz": (WATER.replace("O ", "8 ").replace("H ", "1 "), "H2O"),
    "molecule.pdb": (
        pdb("O - 0 0 0.119 1 O", "H1 - 0 0.763 -0.477 1 H", "H2 - 0 -0.763 -0.477 1 H"),
        "H2O",
    ),
    "occupancies never filled.pdb": (
        pdb("O - 0 0 0.119 0 O", "H1 - 0 0.763 -0.477 0 H", "H2 - 0 -0.763 -0.477 0 H"),
        "H2O",
    ),
    "box.pdb": (
        pdb("O - 7 7 7.119 1 O", "H1 - 7 7.763 6.523 1 H", "H2 - 7 6.237 6.523 1 H",
            cell="   15.000   15.000   15.000  90.00  90.00  90.00 P 1           1"),
        "H2O",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_good_file_is_read_without_a_word(name: str, tmp_path: Path) -> None:
    text, formula = GOOD[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        atoms = mf.read_structure(written(tmp_path, name, text))
    assert atoms.get_chemical_formula() == formula


DENSE = {
    "hydrogen": molecule("H2"),
    "hydrogen, fcc at 1.0 Å": bulk("H", "fcc", a=1.0 * np.sqrt(2)),
    "diamond at 0.6 of its volume": bulk("C", "diamond", a=3.567 * 0.6 ** (1 / 3)),
    "palladium hydride": bulk("PdH", "rocksalt", a=4.09),
    "lithium hydride": bulk("LiH", "rocksalt", a=4.08),
    "sodium chloride": bulk("NaCl", "rocksalt", a=5.64),
    "caesium chloride": bulk("CsCl", "cesiumchloride", a=4.12),
    "ice X": crystal(["O", "H"], [(0, 0, 0), (0.25, 0.25, 0.25)], spacegroup=224, setting=1,
                     cellpar=(2.78, 2.78, 2.78, 90, 90, 90)),
    "osmium": bulk("Os"),
    "left-handed cell": Atoms("C2", cell=-np.eye(3) * 3, pbc=True,
                              scaled_positions=[(0, 0, 0), (0.4, 0.4, 0.4)]),
    "dummy cell of a molecule": Atoms("OH2", positions=molecule("H2O").positions, cell=[1, 1, 1]),
    "slab": Atoms("C2", [(0, 0, 0), (1.23, 0.71, 0)], pbc=(True, True, False),
                  cell=[(2.46, 0, 0), (1.23, 2.13, 0), (0, 0, 0)]),
    "one atom": Atoms("He"),
}  # fmt: skip


@pytest.mark.parametrize("name", DENSE)
def test_sound_matter_is_no_finding(name: str) -> None:
    """Hydrides, hydrogen under pressure, ionic crystals, what is periodic in part."""
    record = structure_record(DENSE[name])
    assert record.findings == ()
    contact = record.shortest_contact
    assert contact is None or contact.ratio > 0.75


def test_published_structures_are_read_without_a_word() -> None:
    folder = shared_file("heatcapacity")
    paths = [*folder.glob("structures/*.cif"), *folder.glob("relaxed/*.xyz")]
    assert len(paths) >= 12
    for path in paths:
        record = read(path).record
        assert record.findings == ()
        assert record.shortest_contact is not None
        assert record.shortest_contact.ratio > 0.8


@pytest.mark.parametrize("name", ["quartz", "sodalite", "MOF-5", "ethanol", "benzene"])
def test_structures_of_the_package_are_no_finding(name: str) -> None:
    assert structure_record(mf.example_structure(name)).findings == ()


# What is told: the text, the atoms, and words of the sentence.

TOLD = {
    "two digits.cif": (
        cif(WURTZITE, ["Zn1 Zn 0.33 0.67 0", "O1 O 0.33 0.67 0.382"], group("P 63 m c")),
        "O2Zn2",
        "Zn1, O1 are rounded, up to 0.019 Å from special positions: 12 images .* 4 atoms",
    ),
    "three digits.cif": (
        cif(WURTZITE, ["Zn1 Zn 0.333 0.667 0", "O1 O 0.333 0.667 0.382"], group("P 63 m c")),
        "O2Zn2",
        "Zn1, O1 are rounded, up to 0.0019 Å",
    ),
    "capitals.cif": (
        cif(CUBIC, ["NA1 0 0 0", "CL1 .5 .5 .5"], group("Fm-3m"), columns="label fract_x fract_y "
            "fract_z"),
        "Cl4Na4",
        "labels in capitals .* NA1 as Na, CL1 as Cl",
    ),
    "all atoms and all operations.cif": (
        cif(CUBIC, ["Na1 Na 0 0 0", "Na2 Na 0 .5 .5", "Cl1 Cl 0.5 0.5 0.5"], group("F m -3 m")),
        "Cl4Na4",
        r"4 atoms are listed more than once \(sites Na2\)",
    ),
    "both faces of the cell.cif": (
        cif(CUBIC, ["Na1 Na 0 0 0", "Na2 Na 1 0 0", "Cl1 Cl 0.5 0.5 0.5"]),
        "ClNa",
        r"1 atoms are listed more than once \(sites Na2\)",
    ),
    "no formula units.cif": (
        cif(CUBIC, ROCK_SALT, group("F m -3 m"), "_chemical_formula_sum 'Na Cl'",
            "_cell_formula_units_Z 2"),
        "Cl4Na4",
        "states 2 formula units of Na Cl in the cell, but its atoms make 4",
    ),
    "oxygen missing.cif": (
        cif(HEXAGONAL, [CORUNDUM[0], "O1 O 0 0 0"], group("R -3 c"),
            "_chemical_formula_sum 'Al2 O3'"),
        "Al12O6",
        "states the formula Al2 O3, but its atoms are Al12 O6",
    ),
    "another density.cif": (
        cif(CUBIC, ROCK_SALT, group("F m -3 m"), "_exptl_crystal_density_diffrn 1.08"),
        "Cl4Na4",
        "states a density of 1.08 g/cm³, but cell and atoms give 2.16",
    ),
    "asymmetric unit as P1.cif": (
        cif(HEXAGONAL, CORUNDUM, group("R -3 c"), OPERATIONS + "x,y,z"),
        "AlO",
        "states the space group R -3 c, but its atoms have only",
    ),
    "unknown origin.cif": (
        cif((8.0, 8.0, 8.0, 90, 90, 90), ["C1 C 0 0 0"], group("F d -3 m")),
        "C8",
        "does not state the origin choice of F d -3 m.* 8 atoms; the other one would give 16",
    ),
    "site without atoms.cif": (
        cif(CUBIC, ["Na1 Na 0 0 0 1", "Cl1 Cl 0.5 0.5 0.5 1", "Q1 O 0.25 0.25 0.25 0"],
            group("F m -3 m"), columns="label type_symbol fract_x fract_y fract_z occupancy"),
        "Cl4Na4",
        "sites of zero occupancy are left out: Q1",
    ),
    "two snapshots.cif": (
        cif(CUBIC, ROCK_SALT, group("F m -3 m"), name="a")
        + cif((5.7, 5.7, 5.7, 90, 90, 90), ROCK_SALT, group("F m -3 m"), name="b"),
        "Cl4Na4",
        "holds 2 structures of the same sites, a, b: the last one is read",
    ),
    "filler.pdb": (
        pdb("O - 0 0 0.119 1 O", "H1 - 0 0.763 -0.477 1 H", "H2 - 0 -0.763 -0.477 1 H",
            cell="    1.000    1.000    1.000  90.00  90.00  90.00 P 1           1"),
        "H2O",
        "1 x 1 x 1 Å is a placeholder",
    ),
    "filler.extxyz": (
        '3\nLattice="1 0 0 0 1 0 0 0 1" Properties=species:S:1:pos:R:3\n'
        + WATER.split("\n", 2)[2],
        "H2O",
        "1 x 1 x 1 Å is a placeholder",
    ),
    "frames.xyz": (WATER + WATER, "H2O", "holds 2 structures: the last one is read"),
    "short.xyz": ("2\n\nC 0 0 0\nC 0.8 0 0\n", "C2", r"0.8 Å apart, 0.53 of the sum"),
}  # fmt: skip


@pytest.mark.parametrize("name", TOLD)
def test_finding_is_told(name: str, tmp_path: Path) -> None:
    text, formula, sentence = TOLD[name]
    with pytest.warns(StructureWarning, match=sentence) as caught:
        atoms = mf.read_structure(written(tmp_path, name, text))
    assert len(caught) == 1
    assert name in str(caught[0].message)
    assert atoms.get_chemical_formula() == formula


# What is refused: the text, and words of the sentence.

REFUSED = {
    "half occupied.cif": (
        cif(CUBIC, ["Na1 Na 1.0 0 0 0", "Cl1 Cl 0.5 0.47 0.5 0.5"], group("F m -3 m"),
            columns="label type_symbol occupancy fract_x fract_y fract_z"),
        r"partly occupied sites Cl1 \(0.5\); .* ordered supercell",
    ),
    "mixed.cif": (
        cif(CUBIC, ["Na1 Na 0.7 0 0 0", "K1 K 0.3 0 0 0", "Cl1 Cl 1 .5 .5 .5"], group("F m -3 m"),
            columns="label type_symbol occupancy fract_x fract_y fract_z"),
        r"partly occupied sites Na1 \(0.7\), K1 \(0.3\)",
    ),
    "mixed without occupancies.cif": (
        cif(CUBIC, [*ROCK_SALT, "K1 K 0 0 0"], group("F m -3 m")),
        "the site has mixed elements",
    ),
    "disorder groups.cif": (
        cif(CUBIC, ["Na1 Na 0 0 0 .", "Cl1 Cl .5 .5 .5 1", "Cl2 Cl .4 .4 .4 2"],
            columns="label type_symbol fract_x fract_y fract_z disorder_group"),
        "alternative positions of Cl1, Cl2",
    ),
    "alternatives.pdb": (
        pdb("O A 0 0 0.119 0.6 O", "O B 0 0.2 0.3 0.4 O", "H1 - 0 0.763 -0.477 1 H"),
        "alternative positions of LIG 1 O, LIG 1 O",
    ),
    "half.pdb": (pdb("O - 0 0 0 0.5 O", "C - 1.2 0 0 1 C"), r"partly occupied .* O \(0.5\)"),
    "unknown coordinates.cif": (
        cif(CUBIC, ["Na1 Na 0 0 0", "H7 H ? ? ?"], group("P 1")),
        "coordinates of sites H7 are not numbers",
    ),
    "two materials.cif": (
        cif(CUBIC, ROCK_SALT, group("F m -3 m"), name="salt")
        + cif(HEXAGONAL, CORUNDUM, group("R -3 c"), name="ruby"),
        "holds 2 different structures, salt, ruby: keep the one that is meant",
    ),
    "other elements than the formula.cif": (
        cif(CUBIC, ["N1 N 0 0 0", "C1 C .5 .5 .5"], group("F m -3 m"),
            "_chemical_formula_sum 'Na4 Cl4'"),
        "states the formula Na4 Cl4, but its atoms are C4 N4",
    ),
    "hydrogen missing.cif": (
        cif(CUBIC, ["O1 O 0 0 0"], group("P 1"), "_chemical_formula_sum 'H2 O'"),
        "its hydrogen atoms are missing",
    ),
    "unknown group.cif": (cif(CUBIC, ROCK_SALT, group("F q -7 z")), "F q -7 z is not known"),
    "group of another cell.cif": (
        cif((5.0, 6.0, 7.0, 90, 90, 90), ROCK_SALT, group("F m -3 m")),
        "F m -3 m does not fit the cell",
    ),
    "operations that are no group.cif": (
        cif(CUBIC, ROCK_SALT, OPERATIONS + "x,y,z\n'y,z,x'"),
        "2 symmetry operations do not form a group",
    ),
    "no volume.cif": (
        cif((5, 5, 5, 90, 90, 180), ROCK_SALT, group("P 1")), "has no volume",
    ),
    "no cell.cif": (
        "data_a\nloop_\n_atom_site_label\n_atom_site_fract_x\n_atom_site_fract_y\n"
        "_atom_site_fract_z\nNa1 0 0 0\n",
        "fractional coordinates but no complete cell",
    ),
    "no element.cif": (
        cif(CUBIC, ["Q1 Q 0 0 0"], group("P 1")), r"elements of sites Q1 \(Q\) are unknown",
    ),
    "not a CIF.cif": (
        "data_a\nloop_\n_atom_site_label\n_atom_site_fract_x\nNa1 0 Cl1\n", "it is not a CIF",
    ),
    "no lattice.extxyz": (
        WATER.replace("\n\n", '\nProperties=species:S:1:pos:R:3 pbc="T T T"\n'),
        "periodic along a, b, c but has no lattice vector there: give the cell",
    ),
    "copy one lattice vector away.extxyz": (
        '3\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3\n'
        "Na 0 0 0\nCl 2 2 2\nNa 4 0 0\n",
        r"atoms 0 and 2 \(Na\) are copies, a lattice vector \(4 Å\) apart: remove one",
    ),
    "listed twice.xyz": (WATER.replace("3\n", "4\n") + "O 0 0 0.119\n", "one atom, listed twice"),
    "flat cell.extxyz": (
        '1\nLattice="4 0 0 8 0 0 0 0 4" Properties=species:S:1:pos:R:3\nNa 0 0 0\n',
        "the cell has no volume",
    ),
    "no numbers.xyz": (WATER.replace("0.119", "nan"), "coordinates of atoms 0 are not finite"),
    "infinite.xyz": (WATER.replace("0.119", "inf"), "coordinates of atoms 0 are not finite"),
    "cell of 1.1 A.extxyz": (
        '3\nLattice="1.1 0 0 0 1.1 0 0 0 1.1" Properties=species:S:1:pos:R:3\n'
        + WATER.split("\n", 2)[2].replace("O", "Cl").replace("H", "C"),
        r"atoms 1 \(C\) and 2 \(C\) are .* less than the 0.4 of any matter",
    ),
    "no room.extxyz": (
        '2\nLattice="2 0 0 0 2 0 0 0 1.1" Properties=species:S:1:pos:R:3\nCs 0 0 0\nCs 1 1 0.5\n',
        "2 atoms have no room in a cell of 4.4 Å³, 100 g/cm³",
    ),
    "no elements.vasp": (
        "made\n1.0\n4 0 0\n0 4 0\n0 0 4\n1 1\nDirect\n0 0 0\n.5 .5 .5\n",
        "it does not name elements",
    ),
    "cut off.xyz": (WATER.replace("3\n", "30\n"), "line 1 says 30 atoms, but the file has fewer"),
    "too long.xyz": (WATER.replace("3\n", "2\n"), "line 5 should be a number of atoms"),
    "dummy.xyz": ("2\n\nX 0 0 0\nO 0 0 2\n", "atoms 0 have no element"),
    "element unknown.xyz": ("1\n\nQq 0 0 0\n", "'Qq'"),
    "empty.cif": ("", "it is empty"),
    "blank.xyz": ("\n\n", "it is empty"),
    "no suffix that tells": ("hello", "neither name nor content determines its format"),
    "words.xyz": ("hello", "line 1 should be a number of atoms, but is 'hello'"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_file_is_refused(name: str, tmp_path: Path) -> None:
    text, sentence = REFUSED[name]
    path = written(tmp_path, name, text)
    with pytest.raises(StructureError, match=sentence) as caught:
        mf.read_structure(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert isinstance(caught.value, ValueError)


# Kinds of files that need more than a text.


def test_binary_junk_is_refused(tmp_path: Path) -> None:
    for name in "junk.cif", "junk.xyz", "junk.vasp", "junk.traj", "junk":
        path = tmp_path / name
        path.write_bytes(bytes(range(256)) * 8)
        with pytest.raises(StructureError, match=f"^{path}: "):
            mf.read_structure(path)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StructureError, match=r"there is no file .*quartz, sodalite"):
        mf.read_structure(tmp_path / "none.cif")
    with pytest.raises(StructureError, match="there is no file"):
        mf.read_structure(tmp_path)


ODD_NAMES = (
    *("with space.xyz", "[bold]x.xyz", "Ångström ≤.xyz", "100%d.xyz", "water@0.xyz"),
    *("a*b?.xyz", "[0-9].xyz", "-", "-.xyz", "postgresql.xyz", "no suffix", "two.dots.xyz", "Ω"),
    *("upper.XYZ", "'quoted'.xyz", "{0}.xyz", "mysql"),
)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_file_name_is_a_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ASE takes some of these for a frame of a file, a pattern, standard input, a database."""
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(WATER)
    assert read(name).record.formula == "H2O"
    assert read(name).record.file == name


def test_compressed_and_windows_files_are_read(tmp_path: Path) -> None:
    text = cif(CUBIC, ROCK_SALT, group("F m -3 m"))
    (tmp_path / "salt.cif.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "windows.cif").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    (tmp_path / "latin.cif").write_bytes(b"# \xc5ngstr\xf6m\n" + text.encode())
    for name in "salt.cif.gz", "windows.cif", "latin.cif":
        assert read(tmp_path / name).record.formula == "Cl4Na4"


def test_sites_of_rounded_file_are_those_of_the_exact_one(tmp_path: Path) -> None:
    """Two digits at 1/3, 2/3: the atoms lie at 1/3 and 2/3 to rounding."""
    sites = ["Zn1 Zn 0.33 0.67 0", "O1 O 0.33 0.67 0.382"]
    rounded = read(written(tmp_path, "a.cif", cif(WURTZITE, sites, group("P 63 m c")))).atoms
    third, two_thirds = f"{1 / 3:.15f}", f"{2 / 3:.15f}"
    sites = [f"Zn1 Zn {third} {two_thirds} 0", f"O1 O {third} {two_thirds} 0.382"]
    exact = read(written(tmp_path, "b.cif", cif(WURTZITE, sites, group("P 63 m c")))).atoms
    distances = get_distances(rounded.positions, exact.positions, cell=exact.cell, pbc=True)[1]
    np.testing.assert_allclose(distances.min(0), 0, atol=1e-12)


@pytest.mark.parametrize(
    ("number", "sites"),
    [
        (225, [("Na", 0, 0, 0), ("Cl", 0.5, 0.5, 0.5)]),
        (227, [("C", 0, 0, 0)]),
        (194, [("Mg", 1 / 3, 2 / 3, 0.25)]),
        (136, [("Ti", 0, 0, 0), ("O", 0.3053, 0.3053, 0)]),
        (62, [("S", 0.1, 0.25, 0.3), ("O", 0.31, 0.02, 0.6)]),
        (14, [("C", 0.11, 0.22, 0.33)]),
        (61, [("O", 0.1, 0.2, 0.3)]),
    ],
)
def test_atoms_of_a_group_are_those_that_ase_makes(
    number: int, sites: list[tuple[str, float, float, float]], tmp_path: Path
) -> None:
    lengths = {225: (5, 5, 5), 227: (5, 5, 5), 194: (3.2, 3.2, 5.2), 136: (4.6, 4.6, 2.96)}.get(
        number, (5.0, 6.0, 7.0)
    )
    angles = {194: (90, 90, 120), 14: (90, 101, 90)}.get(number, (90, 90, 90))
    made = crystal(
        [s[0] for s in sites],
        [s[1:] for s in sites],
        spacegroup=number,
        cellpar=[*lengths, *angles],
    )
    rows = [f"{s}{i} {s} {x:.12f} {y:.12f} {z:.12f}" for i, (s, x, y, z) in enumerate(sites)]
    text = cif((*lengths, *angles), rows, f"_space_group_IT_number {number}")
    if number == 227:
        text = text.replace("_space_group_IT_number 227", group("F d -3 m :1"))
    ours = read(written(tmp_path, "a.cif", text)).atoms
    assert len(ours) == len(made)
    distances = get_distances(ours.positions, made.positions, cell=made.cell, pbc=True)[1]
    nearest = distances.argmin(1)
    assert sorted(nearest) == list(range(len(made)))
    np.testing.assert_allclose(distances.min(1), 0, atol=1e-9)
    np.testing.assert_array_equal(ours.numbers, made.numbers[nearest])


SETTINGS = list(gemmi.spacegroup_table())


@pytest.mark.parametrize(
    "setting",
    [
        pytest.param(group, marks=() if number % 16 == 0 else pytest.mark.slow)
        for number, group in enumerate(SETTINGS)
    ],
    ids=lambda group: group.xhm(),
)
def test_every_setting_of_a_space_group_is_read(setting: gemmi.SpaceGroup) -> None:
    """By its name, by Hall's symbol, by its operations: spglib finds the group again."""
    operations = list(setting.operations())
    turns = np.array([operation.rot for operation in operations]) / gemmi.Op.DEN
    vectors = np.diag([9.0, 11.0, 13.0]) + np.random.default_rng(0).normal(size=(3, 3), scale=0.7)
    metric = np.einsum("mji,jk,mkl->il", turns, vectors @ vectors.T, turns) / len(turns)
    cell = tuple(Cell(np.linalg.cholesky(metric)).cellpar().round(7))
    sites = [
        "H1 H 0.1234 0.0567 0.1789",
        "Li1 Li 0.3711 0.2213 0.0831",
        "B1 B 0.2177 0.4319 0.3456",
        "Be1 Be 0.0412 0.1913 0.4123",
    ]
    listed = OPERATIONS + "\n".join(f"'{operation.triplet()}'" for operation in operations)
    hall = f"_space_group_name_Hall '{setting.hall}'"
    for line in group(setting.xhm()), hall, listed:
        found = read_cif(cif(cell, sites, line))
        assert len(found.atoms) == 4 * len(operations)
        assert found.findings == ()
        crystal = found.atoms.cell.array, found.atoms.get_scaled_positions(), found.atoms.numbers
        assert spglib.get_symmetry_dataset(crystal, symprec=1e-3).number == setting.number


def test_site_that_is_split_is_not_taken_for_a_rounded_one(tmp_path: Path) -> None:
    """Two images 0.09 Å apart of coordinates with four digits: no rounding makes them so."""
    split = ["C1 C 0.0045 0 0", "O1 O 0.5 0.5 0.5"]
    path = written(tmp_path, "split.cif", cif((10,) * 3 + (90,) * 3, split, group("P m m m")))
    with pytest.raises(StructureError, match=r"0\.09 Å apart, 0\.059 of the sum"):
        read(path)


def test_pdb_of_an_asymmetric_unit_has_all_atoms_of_the_cell(tmp_path: Path) -> None:
    cell = "    5.640    5.640    5.640  90.00  90.00  90.00 F m -3 m     4"
    text = pdb("NA - 0 0 0 1 NA", "CL - 2.82 2.82 2.82 1 CL", cell=cell)
    atoms = read(written(tmp_path, "salt.pdb", text)).atoms
    assert atoms.get_chemical_formula() == "Cl4Na4"


def test_molecule_across_the_border_of_its_cell_stays_whole(tmp_path: Path) -> None:
    sites = ["O1 O 0 0 0.01", "H1 H 0 0.08 -0.05", "H2 H 0 -0.08 -0.05"]
    text = cif((10, 10, 10, 90, 90, 90), sites, group("P 1"))
    atoms = read(written(tmp_path, "a.cif", text)).atoms
    assert atoms.get_distances(0, [1, 2], mic=False).max() < 1.1


# The record.


def test_record_says_what_was_read(tmp_path: Path) -> None:
    text = cif(
        CUBIC,
        ["Na1 Na 0 0 0 0.995(3)", "Cl1 Cl 0.5 0.5 0.5 1"],
        "_chemical_formula_sum 'Cl Na'",
        "_exptl_crystal_density_diffrn 2.165",
        group("F m -3 m"),
        columns="label type_symbol fract_x fract_y fract_z occupancy",
    )
    path = written(tmp_path, "salt.cif", text)
    record = read(path).record
    assert record.findings == ()
    data = json.loads(json.dumps(record.as_dict()))
    assert data.pop("shortest_contact") == {
        "first": 0,
        "second": 7,
        "symbols": ["Na", "Cl"],
        "distance_A": pytest.approx(2.82),
        "ratio": pytest.approx(2.82 / (1.66 + 1.02)),
    }
    assert data == {
        "file": str(path),
        "format": "cif",
        "formula": "Cl4Na4",
        "atoms": 8,
        "pbc": [True, True, True],
        "density_g_per_cm3": pytest.approx(4 * 58.44 / 6.02214076e23 / (5.64e-8) ** 3, rel=1e-4),
        "constraints": [],
        "occupancies": {"Na1": 0.995},
        "isotopes": [],
        "stated_formula": "Cl Na",
        "stated_density_g_per_cm3": 2.165,
        "stated_space_group": "F m -3 m",
        "found_space_group": "Fm-3m (225)",
        "findings": [],
    }


def test_record_of_atoms_is_that_of_their_file(tmp_path: Path) -> None:
    atoms = bulk("NaCl", "rocksalt", a=5.64)
    atoms.set_constraint(FixAtoms([1]))
    ase.io.write(tmp_path / "a.traj", atoms)
    ours = structure_record(atoms)
    assert ours.constraints == ("FixAtoms on 1 atoms",)
    theirs = read(tmp_path / "a.traj").record
    assert dataclasses.replace(theirs, file=None, format=None) == ours


@pytest.mark.parametrize("bad", ["nan", "mass", "volume", "overlap", "none", "filler"])
def test_bad_atoms_are_refused(bad: str) -> None:
    atoms = bulk("NaCl", "rocksalt", a=5.64)
    if bad == "nan":
        atoms.positions[1, 0] = np.nan
    elif bad == "mass":
        atoms.set_masses([23, 0])
    elif bad == "volume":
        atoms.set_cell([[1, 0, 0], [1, 0, 0], [0, 0, 1]])
    elif bad == "overlap":
        atoms.positions[1] = atoms.positions[0] + 0.5
    elif bad == "filler":
        atoms.set_cell(np.eye(3))
    else:
        atoms = Atoms()
    with pytest.raises(StructureError):
        structure_record(atoms)


def test_mixed_sites_that_ase_makes_whole_are_refused(tmp_path: Path) -> None:
    """ASE keeps the element of the larger share, which no contact and no formula tells."""
    path = written(tmp_path, "mixed.cif", REFUSED["mixed.cif"][0])
    atoms = ase.io.read(path)
    assert atoms.get_chemical_formula() == "Cl4Na4"
    with pytest.raises(StructureError, match=r"partly occupied sites Na \(0\.7\), K \(0\.3\)"):
        structure_record(atoms)
    full = written(tmp_path, "full.cif", GOOD["uncertainties.cif"][0])
    assert structure_record(ase.io.read(full)).findings == ()


# The files that people have, as they lie in the folder of data.

AWKWARD = {
    "al_straddles.extxyz": ("Al8", None),
    "carbon_suboxide_bent.xyz": ("C3O2", None),
    "corundum_good.cif": ("Al12O18", None),
    "corundum_trigonal.cif": ("Al12O18", None),
    "d2o.xyz": ("H2O", None),
    "nacl_uppercase.cif": ("Cl4Na4", None),
    "quartz_4digits.vasp": ("O6Si3", None),
    "water_box.extxyz": ("H2O", None),
    "water_cryst1.pdb": ("H2O", "is a placeholder"),
    "water_moving.extxyz": ("H2O", None),
    "zno_2digits.cif": ("O2Zn2", "12 images that nearly coincide are taken as 4 atoms"),
    "zno_4digits.cif": ("O2Zn2", None),
}


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_file_is_the_right_material(name: str) -> None:
    formula, finding = AWKWARD[name]
    record = read(shared_file("awkward", name)).record
    assert record.formula == formula
    if finding is None:
        assert record.findings == ()
    else:
        assert len(record.findings) == 1
        assert finding in record.findings[0]


def test_half_occupied_chlorine_is_refused() -> None:
    with pytest.raises(
        StructureError, match=r"half_occupied.cif: partly occupied sites Cl1 \(0.5\)"
    ):
        mf.read_structure(shared_file("awkward", "half_occupied.cif"))


def test_every_awkward_file_is_known_here() -> None:
    if not (folder := shared_folder() / "awkward").is_dir():
        pytest.skip("no folder of data")
    assert {path.name for path in folder.iterdir()} == {*AWKWARD, "half_occupied.cif"}
