"""Thermodynamics and displacements on a mesh, against phonopy and supercells; animations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, graphene
from springs import chain, phonopy_of, salt, silicon, spring_phonons

import mace_functional as mf
from mace_functional.phonons import (
    Mesh,
    animate,
    mean_square_displacements,
    mesh_convergence,
    mesh_modes,
    mesh_thermo,
    modes_at_q,
    participation_ratios,
    phonons_of,
)
from mace_functional.units import EV_PER_MOLECULE, K_B

TEMPERATURES = [0.0, 10.0, 77.0, 300.0, 1200.0]


def modes_of(atoms, size, **options):
    return mesh_modes(spring_phonons(atoms), Mesh.of(atoms, size), **options)


@pytest.mark.parametrize("atoms", [salt(), silicon()])
@pytest.mark.parametrize("size", [(2, 2, 2), (5, 5, 5)])
def test_thermodynamics_are_those_of_phonopy(atoms, size):
    reference = phonopy_of(atoms)
    reference.run_mesh(size, is_gamma_center=True)
    reference.run_thermal_properties(temperatures=TEMPERATURES, exclude_gamma_acoustic=True)
    expected = reference.get_thermal_properties_dict()
    found = mesh_thermo(modes_of(atoms, size), TEMPERATURES).thermo
    for name, unit in (("heat_capacity", 1.0), ("entropy", 1.0), ("free_energy", 1e-3)):
        values = EV_PER_MOLECULE * unit * getattr(found, name)
        # phonopy has other digits of the constants.
        scale = abs(expected[name]).max()
        np.testing.assert_allclose(values, expected[name], rtol=0, atol=3e-6 * scale)


def test_embedded_model_on_a_mesh_is_a_supercell_at_gamma():
    model, atoms = mf.load_model("embedded"), bulk("NaCl", "rocksalt", a=5.64)
    modes = mesh_modes(phonons_of(model, atoms), Mesh.of(atoms, (2, 2, 2)))
    found = mesh_thermo(modes, TEMPERATURES)
    large = atoms.repeat(2)
    gamma = mf.gamma_modes(model, large)
    expected = mf.harmonic_thermo(gamma, TEMPERATURES)
    assert not found.imaginary_modes
    assert found.thermo.n_imaginary == 0
    torch.testing.assert_close(
        found.specific_heat_capacity,
        expected.specific_heat_capacity(large.get_masses()),
        rtol=0,
        atol=1e-9,
    )
    for name in "entropy", "free_energy", "internal_energy":
        value = 8 * getattr(found.thermo, name)
        torch.testing.assert_close(value, getattr(expected, name), rtol=1e-9, atol=1e-12)


def test_soft_acoustic_modes_are_not_taken_for_rigid_motions():
    atoms = salt()
    modes = modes_of(atoms, (2, 2, 2))
    # An optical mode at Gamma much below what rounding leaves of a translation.
    softened = modes.eigenvalues.clone()
    softened[0, 3] = 1e-14
    thermo = mesh_thermo(replace(modes, eigenvalues=softened), 300.0).thermo
    assert thermo.n_modes == 15
    assert thermo.n_zero == 0


def test_convergence_is_a_row_for_each_mesh():
    crystal = spring_phonons(salt())
    meshes = [Mesh.of(salt(), (n, n, n)) for n in (1, 4, 8, 12)]
    rows = mesh_convergence(crystal, meshes, 300.0)
    assert [row.size for row in rows] == [(n, n, n) for n in (1, 4, 8, 12)]
    assert [row.n_q for row in rows] == [len(mesh.q) for mesh in meshes]
    heat = np.array([row.specific_heat_capacity for row in rows])
    assert (np.diff(abs(heat - heat[-1])[:3]) < 0).all()
    last = mesh_thermo(modes_of(salt(), (12, 12, 12)), 300.0)
    assert heat[-1] == pytest.approx(float(last.specific_heat_capacity))
    assert rows[-1].entropy == pytest.approx(float(last.thermo.entropy))
    assert rows[-1].free_energy == pytest.approx(float(last.thermo.free_energy))
    (row,) = mesh_convergence(chain((1.0,), spring=-1.0), [unstable().mesh], 300.0)
    assert row.n_imaginary == 2


def unstable():
    crystal = chain((1.0,), spring=-1.0)
    return mesh_modes(crystal, Mesh.of(crystal.atoms, (4, 1, 1)))


def test_imaginary_modes_are_reported_with_their_waves():
    with pytest.warns(UserWarning, match="2 imaginary modes"):
        found = mesh_thermo(unstable(), 300.0)
    assert [mode.q.tolist() for mode in found.imaginary_modes] == [[0.5, 0, 0], [0.25, 0, 0]]
    assert found.imaginary_modes[0].frequency == pytest.approx(
        -mf.units.frequency_factor("cm-1") * 2
    )
    vector = found.imaginary_modes[0].eigenvector
    torch.testing.assert_close(vector.abs(), torch.tensor([[1.0, 0, 0]]).double())
    with pytest.warns(UserWarning, match="2 imaginary modes are left out"):
        assert (mean_square_displacements(unstable(), 300.0) == 0).all()


@pytest.mark.parametrize("atoms", [salt(), silicon(), bulk("Mg")])
def test_displacements_are_those_of_phonopy(atoms):
    size = (4, 4, 4)
    reference = phonopy_of(atoms)
    reference.run_mesh(size, with_eigenvectors=True, is_mesh_symmetry=False, is_gamma_center=True)
    reference.run_thermal_displacement_matrices(
        temperatures=TEMPERATURES, exclude_gamma_acoustic=True
    )
    expected = reference.get_thermal_displacement_matrices_dict()["thermal_displacement_matrices"]
    found = mean_square_displacements(modes_of(atoms, size), TEMPERATURES)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_displacements_with_symmetry_are_those_without():
    atoms = bulk("TiO", "wurtzite", a=3.2, c=5.1)
    crystal = spring_phonons(atoms)
    reduced = mesh_modes(crystal, Mesh.of(atoms, (3, 3, 2)))
    whole = mesh_modes(crystal, Mesh.of(atoms, (3, 3, 2), symmetry=False))
    assert len(reduced.mesh.q) < len(whole.mesh.q)
    found, expected = (mean_square_displacements(modes, 300.0) for modes in (reduced, whole))
    assert found.shape == (4, 3, 3)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert (found[:, 0, 0] - found[:, 2, 2]).abs().max() > 1e-4 * found.max()


def test_hot_atoms_obey_equipartition():
    """Classically, k T is the mean of m omega^2 u^2 for each mode."""
    spring, mass, temperature = 2.0, 7.0, 1e5
    crystal = chain((mass,), spring)
    modes = mesh_modes(crystal, Mesh.of(crystal.atoms, (2, 1, 1)))
    found = mean_square_displacements(modes, temperature)
    # The wave at the zone boundary alone, of weight 1/2 and omega^2 = 4 spring / mass.
    expected = 0.5 * K_B * temperature / (4 * spring)
    assert float(found[0, 0, 0]) == pytest.approx(expected, rel=1e-3)
    assert found[0].abs().sum() == found[0, 0, 0]


def test_participation_ratios():
    vectors = torch.zeros(3, 4, 3, dtype=torch.complex128)
    vectors[0, 2] = torch.tensor([0.6, 0.8j, 0])
    vectors[1, :, 1] = 0.5
    vectors[2, :2, 0] = 1j / 2**0.5
    torch.testing.assert_close(
        participation_ratios(vectors), torch.tensor([0.25, 1.0, 0.5], dtype=torch.float64)
    )


@pytest.mark.parametrize(
    ("temperatures", "options", "message"),
    [
        (-1.0, {}, "temperatures must be finite and not negative"),
        ([300.0, np.nan], {}, "temperatures must be finite"),
        (300.0, {"eigenvectors": False}, "displacements need eigenvectors"),
    ],
)
def test_bad_displacements_are_explained(temperatures, options, message):
    with pytest.raises(ValueError, match=message):
        mean_square_displacements(modes_of(salt(), (2, 2, 2), **options), temperatures)


@pytest.mark.parametrize(
    ("q", "repeats"),
    [((0, 0, 0), (1, 1, 1)), ((0.5, 0, 0.25), (2, 1, 4)), ((1 / 3, 0, 0), (3, 1, 1))],
)
def test_frames_accelerate_as_the_springs_of_the_supercell_pull(q, repeats):
    atoms, mode = salt(), 4
    crystal = spring_phonons(atoms)
    frames = animate(crystal, q, mode, amplitude=0.2, frames=8)
    large = atoms.repeat(repeats)
    assert len(frames) == 8
    assert len(frames[0]) == len(large)
    moved = np.array([frame.positions - large.positions for frame in frames])
    # Between the frames too: u(t) = a cos + b sin from two of them.
    fine = np.linspace(0, 2 * np.pi, 721)[:, None, None]
    largest = np.linalg.norm(moved[0] * np.cos(fine) + moved[2] * np.sin(fine), axis=2).max()
    assert largest == pytest.approx(0.2, rel=1e-5)
    hessian = supercell_hessian(large)
    values, _ = modes_at_q(crystal, torch.tensor(q, dtype=torch.float64))
    for u in moved:
        pull = (hessian @ u.ravel()).reshape(-1, 3) / large.get_masses()[:, None]
        np.testing.assert_allclose(pull, float(values[mode]) * u, rtol=0, atol=1e-10)
    # The wave runs along +q: a quarter of a period later it is where it was a step earlier.
    np.testing.assert_allclose(moved[4], -moved[0], rtol=0, atol=1e-12)
    info = frames[3].info
    assert (info["mode"], tuple(info["q"])) == (mode, pytest.approx(q))
    assert info["frequency_THz"] > 0


def supercell_hessian(large: Atoms) -> np.ndarray:
    """Of a supercell of any size, from its own springs."""
    matrix = spring_phonons(large).dynamical_matrix(torch.zeros(3).double()).real.numpy()
    root = np.sqrt(large.get_masses()).repeat(3)
    return matrix * np.outer(root, root)


def test_waves_run_along_q():
    crystal = chain((1.0,))
    first, later = animate(crystal, (0.25, 0, 0), 2, frames=4)[:2]
    rest = crystal.atoms.repeat((4, 1, 1)).positions
    before, after = first.positions - rest, later.positions - rest
    np.testing.assert_allclose(np.roll(before, 1, axis=0), after, rtol=0, atol=1e-12)


def test_animations_are_written_and_read(tmp_path):
    import ase.io

    frames = animate(spring_phonons(salt()), (0.5, 0.5, 0), 0, frames=3, supercell=(2, 4, 1))
    assert len(frames[0]) == 16
    ase.io.write(tmp_path / "mode.extxyz", frames)
    read = ase.io.read(tmp_path / "mode.extxyz", index=":")
    np.testing.assert_allclose(read[1].positions, frames[1].positions, atol=1e-7)


def test_molecules_are_animated_at_gamma_alone():
    water = Atoms("OH2", [[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]])
    crystal = replace(spring_phonons(salt()), atoms=water, masses=torch.tensor(water.get_masses()))
    matrix = torch.diag(torch.arange(1.0, 10)).to(torch.complex128)
    crystal = replace(crystal, dynamical_matrix=lambda q: matrix)
    frames = animate(crystal, (0, 0, 0), 8, frames=2)
    assert len(frames[0]) == 3
    assert (modes_at_q(crystal, torch.zeros(3))[0][:6] == 0).all()
    with pytest.raises(ValueError, match="not periodic"):
        animate(crystal, (0.5, 0, 0), 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"q": (0, 0)}, r"shape \(3,\)"),
        ({"mode": 6}, "have the modes 0 to 5, not 6"),
        ({"mode": -1}, "have the modes 0 to 5"),
        ({"amplitude": 0.0}, "amplitude must be positive"),
        ({"frames": 0}, "at least one frame"),
        ({"q": (0.1234, 0, 0)}, "does not repeat within 24 cells"),
        ({"supercell": "large"}, "'commensurate' or three positive integers"),
        ({"supercell": (1, 2)}, "'commensurate' or three positive integers"),
        ({"supercell": (1, 2, 0)}, "'commensurate' or three positive integers"),
    ],
)
def test_bad_animations_are_explained(options, message):
    with pytest.raises(ValueError, match=message):
        animate(spring_phonons(salt()), **{"q": (0, 0, 0), "mode": 3} | options)


def test_graphene_has_mean_square_displacements_without_symmetry_out_of_plane():
    modes = mesh_modes(spring_phonons(graphene(a=2.9)), Mesh.of(graphene(a=2.9), (4, 4, 1)))
    found = mean_square_displacements(modes, 300.0)
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)
    assert float(found[0, 0, 0]) == pytest.approx(float(found[0, 1, 1]))


def test_frequencies_have_one_default_unit_wherever_they_come_from():
    modes = modes_of(salt(), (2, 2, 2))
    thermo = mf.harmonic_thermo(modes, 300.0)
    expected = mesh_thermo(modes, 300.0).thermo
    torch.testing.assert_close(thermo.heat_capacity, expected.heat_capacity)
    bands = mf.band_structure(spring_phonons(salt()), modes.mesh.q)
    torch.testing.assert_close(bands.frequencies, modes.frequencies)
    assert bands.unit == mf.density_of_states(modes).unit == "cm-1"
    soft = unstable()
    assert soft.imaginary_modes[0].frequency == soft.frequencies.min()
