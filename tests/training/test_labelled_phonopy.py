"""Labelled structures from phonopy's files, against EMT at the structures that were read."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.units import Bohr, Rydberg

from mace_functional.interop.phonopy import ase_atoms, phonopy_atoms
from mace_functional.structure.reading import StructureError
from mace_functional.training import LabelledStructure, read_labelled

phonopy = pytest.importorskip("phonopy")
file_io = pytest.importorskip("phonopy.file_IO")

REPEATS = np.diag([2, 2, 2])


def emt(atoms: Atoms) -> Atoms:
    atoms = atoms.copy()
    atoms.calc = EMT()
    return atoms


def crystal() -> Atoms:
    """Two inequivalent atoms at their sites by symmetry, so that forces are zero."""
    return Atoms("CuAu", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=3.0 * np.eye(3), pbc=1)


def computed(length: float = 1.0, force: float = 1.0, energy: float = 1.0, **settings):
    """Phonopy with EMT's forces and energies of displaced supercells, in the given units."""
    cell = crystal()
    cell.set_cell(cell.cell.array / length, scale_atoms=True)
    calculator = settings.pop("calculator", None)
    ph = phonopy.Phonopy(phonopy_atoms(cell), REPEATS, primitive_matrix="P", calculator=calculator)
    ph.generate_displacements(distance=0.02 / length, **settings)
    displaced = []
    for supercell in ph.supercells_with_displacements:
        atoms = ase_atoms(supercell)
        atoms.set_cell(atoms.cell.array * length, scale_atoms=True)
        displaced.append(emt(atoms))
    ph.forces = np.array([atoms.get_forces() / force for atoms in displaced])
    ph.supercell_energies = np.array([a.get_potential_energy() / energy for a in displaced])
    return ph


def check_displaced(labelled: list[LabelledStructure], count: int, tolerance: float = 1e-9):
    assert len(labelled) == count
    for structure in labelled:
        atoms = emt(structure.atoms)
        assert np.linalg.norm(structure.forces) > 0.01
        np.testing.assert_allclose(structure.forces, atoms.get_forces(), atol=tolerance)
        if structure.energy is not None:
            assert structure.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-6)


def check_curvature(structure: LabelledStructure, columns: int):
    """Products against differences of EMT's forces along a random direction in their span."""
    curvature = structure.curvature
    assert len(curvature.directions) == columns
    u = np.random.default_rng(0).normal(size=columns)
    v, product = (np.tensordot(u, x, 1) for x in (curvature.directions, curvature.products))
    h = 1e-4
    plus, minus = emt(structure.atoms), emt(structure.atoms)
    plus.positions += h * v
    minus.positions -= h * v
    difference = (minus.get_forces() - plus.get_forces()) / (2 * h)
    np.testing.assert_allclose(product, difference, atol=0.02 * abs(difference).max())


@pytest.mark.parametrize("settings", [{}, {"number_of_snapshots": 3, "random_seed": 1}])
def test_displaced_supercells_have_their_forces_and_energies(tmp_path, settings):
    ph = computed(**settings)
    ph.save(tmp_path / "phonopy_params.yaml")
    labelled = read_labelled(tmp_path / "phonopy_params.yaml")
    check_displaced(labelled, len(ph.supercells_with_displacements))
    assert all(s.energy is not None for s in labelled)
    assert labelled[0].name == "phonopy_params.yaml@0"


def test_force_sets_are_found_beside_the_file_not_in_the_working_directory(tmp_path, monkeypatch):
    ph = computed()
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    ph.save(here / "phonopy_disp.yaml", settings={"force_sets": False})
    file_io.write_FORCE_SETS(ph.dataset, filename=str(elsewhere / "FORCE_SETS"))
    monkeypatch.chdir(elsewhere)
    with pytest.raises(StructureError, match="neither forces nor force constants"):
        read_labelled(here / "phonopy_disp.yaml")
    (elsewhere / "FORCE_SETS").rename(here / "FORCE_SETS")
    labelled = read_labelled(here / "phonopy_disp.yaml")
    check_displaced(labelled, len(ph.supercells_with_displacements))
    assert all(s.energy is None for s in labelled)


@pytest.mark.parametrize("compact", [True, False])
@pytest.mark.parametrize("place", ["yaml", "text", "hdf5"])
def test_force_constants_are_the_curvature_of_the_perfect_supercell(tmp_path, compact, place):
    ph = computed()
    ph.produce_force_constants(calculate_full_force_constants=not compact)
    settings = {"force_sets": False, "displacements": False, "force_constants": place == "yaml"}
    ph.save(tmp_path / "phonopy.yaml", settings=settings)
    p2s = ph.primitive.p2s_map
    if place == "text":
        path = str(tmp_path / "FORCE_CONSTANTS")
        file_io.write_FORCE_CONSTANTS(ph.force_constants, filename=path, p2s_map=p2s)
    if place == "hdf5":
        path = str(tmp_path / "force_constants.hdf5")
        file_io.write_force_constants_to_hdf5(ph.force_constants, filename=path, p2s_map=p2s)
    (labelled,) = read_labelled(tmp_path / "phonopy.yaml")
    assert labelled.name == "phonopy.yaml@perfect"
    assert (labelled.energy, labelled.forces) == (None, None)
    check_curvature(labelled, columns=6)


def test_units_of_another_calculator_are_converted(tmp_path):
    ph = computed(length=Bohr, force=Rydberg / Bohr, energy=Rydberg, calculator="qe")
    ph.produce_force_constants()
    ph.save(tmp_path / "phonopy_params.yaml", settings={"force_constants": True})
    perfect, *displaced = read_labelled(tmp_path / "phonopy_params.yaml")
    check_displaced(displaced, len(ph.supercells_with_displacements), tolerance=1e-5)
    check_curvature(perfect, columns=6)
    assert perfect.atoms.cell.lengths() == pytest.approx([6.0, 6.0, 6.0], rel=1e-6)


def test_files_without_labels_are_refused(tmp_path, monkeypatch):
    (tmp_path / "phonopy.yaml").write_text("lattice: 1\n")
    with pytest.raises(StructureError, match=r"phonopy\.yaml: no labels can be read"):
        read_labelled(tmp_path / "phonopy.yaml")
    with pytest.raises(StructureError, match="there is no file"):
        read_labelled(tmp_path / "none.yaml")
    computed().save(tmp_path / "phonopy.yaml")
    with pytest.raises(StructureError, match="leave out hessians"):
        read_labelled(tmp_path / "phonopy.yaml", hessians="h.npz")
    monkeypatch.setitem(sys.modules, "phonopy", None)
    with pytest.raises(ImportError, match=r"mace_functional\[phonons\]"):
        read_labelled(tmp_path / "phonopy.yaml")


def test_primitive_crystal_is_read_with_the_columns_of_its_primitive_cell(tmp_path):
    ph = phonopy.Phonopy(phonopy_atoms(bulk("Cu", cubic=True)), REPEATS, primitive_matrix="F")
    ph.generate_displacements(distance=0.01)
    ph.forces = [emt(ase_atoms(c)).get_forces() for c in ph.supercells_with_displacements]
    ph.produce_force_constants(calculate_full_force_constants=False)
    ph.save(tmp_path / "phonopy.yaml", settings={"force_sets": False, "force_constants": True})
    (labelled,) = read_labelled(tmp_path / "phonopy.yaml")
    check_curvature(labelled, columns=3 * len(ph.primitive))
