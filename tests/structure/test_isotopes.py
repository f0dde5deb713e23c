"""Deuterium and other isotopes: read in every format, kept through all that follows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from conftest import shared_file

import mace_functional as mf
from mace_functional.interop.phonopy import from_phonopy, write_phonopy
from mace_functional.phonons import Mesh, mesh_modes, phonons_of
from mace_functional.screening.record import STRUCTURE
from mace_functional.structure.reading import StructureError, read
from mace_functional.structure.reading.isotopes import HYDROGEN, Isotope

D, T = HYDROGEN["D"], HYDROGEN["T"]
CIF = """data_c
_cell_length_a 8
_cell_length_b 8
_cell_length_c 8
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
O1 O 0 0 0.0149
D1 D 0 0.0954 -0.0596
H2 T 0 -0.0954 -0.0596
"""
PDB = """\
HETATM    1  O   HOH A   1       0.000   0.000   0.119  1.00  0.00           O
HETATM    2  D1  HOH A   1       0.000   0.763  -0.477  1.00  0.00           D
HETATM    3  H2  HOH A   1       0.000  -0.763  -0.477  1.00  0.00           T
END
"""
HEAVY = {
    "a.xyz": "3\n\nO 0 0 0.119\nD 0 0.763 -0.477\nT 0 -0.763 -0.477\n",
    "small.xyz": "3\n\nO 0 0 0.119\nd 0 0.763 -0.477\nt 0 -0.763 -0.477\n",
    "b.extxyz": '3\nProperties=pos:R:3:species:S:1:tag:I:1 pbc="F F F"\n'
    "0 0 0.119 O 1\n0 0.763 -0.477 D 2\n0 -0.763 -0.477 T 3\n",
    "c.cif": CIF,
    "d.pdb": PDB,
    "e.vasp": "heavy water\n1.0\n8 0 0\n0 8 0\n0 0 8\nO D T\n1 1 1\nCartesian\n"
    "0 0 0.119\n0 0.763 -0.477\n0 -0.763 -0.477\n",
    "POSCAR.4": "O D T\n1.0\n8 0 0\n0 8 0\n0 0 8\n1 1 1\nCartesian\n"
    "0 0 0.119\n0 0.763 -0.477\n0 -0.763 -0.477\n",
}  # fmt: skip


@pytest.mark.parametrize("name", HEAVY)
def test_deuterium_and_tritium_are_hydrogen_of_their_mass(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(HEAVY[name])
    reading = read(tmp_path / name)
    assert reading.atoms.get_chemical_formula() == "H2O"
    np.testing.assert_allclose(reading.atoms.get_masses(), [15.999, D, T], atol=1e-3)
    assert reading.record.isotopes == (
        Isotope("H", pytest.approx(D, abs=1e-6), 1),
        Isotope("H", pytest.approx(T, abs=1e-6), 1),
    )
    assert reading.record.findings == ()


def test_heavy_water_file_has_the_mass_of_heavy_water() -> None:
    assert mf.read_structure(shared_file("awkward", "d2o.xyz")).get_masses().sum() == pytest.approx(
        20.0276, abs=1e-3
    )


def test_deuterium_in_a_format_that_ase_reads_without_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.gen").write_text("2 C\nD O\n1 1 0 0 0\n2 2 0 0 1\n")
    with pytest.raises(StructureError, match="ASE does not know 'D' in it: write extended XYZ"):
        mf.read_structure(tmp_path / "a.gen")


@pytest.mark.parametrize("suffix", [".extxyz", ".xyz", ".traj", ".json"])
def test_masses_come_back_from_files(suffix: str, tmp_path: Path) -> None:
    atoms = molecule("H2O")
    atoms.set_masses([17.99916, D, 1.008])
    ase.io.write(tmp_path / f"a{suffix}", atoms)
    again = read(tmp_path / f"a{suffix}")
    np.testing.assert_allclose(again.atoms.get_masses(), atoms.get_masses(), atol=1e-6)
    assert {i.symbol for i in again.record.isotopes} == {"H", "O"}


def test_vibrations_and_relaxation_keep_masses(model: mf.MaceModel, tmp_path: Path) -> None:
    """A stretch falls by the root of the reduced masses, within the coupling to the bend."""
    (tmp_path / "d2o.xyz").write_text(HEAVY["a.xyz"].replace("T", "D"))
    heavy = mf.relax(model, mf.read_structure(tmp_path / "d2o.xyz"), fmax=1e-4).atoms
    assert heavy.get_masses()[1:] == pytest.approx(D)
    light = heavy.copy()
    light.set_masses(None)
    ratio = (
        mf.gamma_modes(model, heavy).frequencies[-1] / mf.gamma_modes(model, light).frequencies[-1]
    )
    assert float(ratio) == pytest.approx(0.735, abs=0.01)


def rock_salt_of_two_isotopes() -> Atoms:
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    masses = atoms.get_masses()
    masses[atoms.symbols.indices()["Cl"][0]] = 36.96590
    atoms.set_masses(masses)
    return atoms


def test_mesh_does_not_exchange_isotopes(model: mf.MaceModel) -> None:
    """Wave vectors are equivalent by operations that keep the masses: sums as without symmetry."""
    lattice = phonons_of(model, rock_salt_of_two_isotopes())
    reduced = mesh_modes(lattice, Mesh.of(lattice.atoms, (2, 2, 2)), eigenvectors=False)
    full = Mesh.of(lattice.atoms, (2, 2, 2), symmetry=False)
    every = mesh_modes(lattice, full, eigenvectors=False)
    assert len(reduced.mesh.q) <= len(every.mesh.q)
    sums = [
        float((modes.mesh.weights[:, None] * modes.frequencies_in("THz") ** 2).sum())
        for modes in (reduced, every)
    ]
    assert sums[0] == pytest.approx(sums[1], rel=1e-9)


def test_phonopy_has_the_masses_and_gives_them_back(model: mf.MaceModel, tmp_path: Path) -> None:
    pytest.importorskip("phonopy")
    lattice = phonons_of(model, rock_salt_of_two_isotopes())
    write_phonopy(tmp_path / "phonopy_params.yaml", lattice, (1, 1, 1))
    again = from_phonopy(tmp_path / "phonopy_params.yaml")
    np.testing.assert_allclose(again.atoms.get_masses(), lattice.atoms.get_masses(), atol=1e-5)
    np.testing.assert_allclose(
        again.gamma_modes().frequencies, lattice.gamma_modes().frequencies, atol=2e-3
    )


def test_screening_keeps_masses_in_results_and_files(tmp_path: Path) -> None:
    (tmp_path / "d2o.xyz").write_text(HEAVY["a.xyz"].replace("T", "D"))
    (tmp_path / "h2o.xyz").write_text(HEAVY["a.xyz"].replace("T", "H").replace("D", "H"))
    with ThreadPoolExecutor(1) as thread:
        found = mf.screen(
            tmp_path,
            tmp_path / "out",
            mf.ScreenSettings("embedded", relax=False),
            executor=thread,
        )
    heavy, light = found.records
    assert heavy.mass == pytest.approx(15.999 + 2 * D, abs=1e-3)
    assert light.mass == pytest.approx(18.015, abs=1e-3)
    kept = read(found.folders[0] / STRUCTURE).atoms
    assert kept.get_masses()[1:] == pytest.approx(D)
