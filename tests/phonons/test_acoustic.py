"""What Gamma alone leaves out: speeds of sound, estimates and bounds; converged meshes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, graphene
from helpers import mostly_slow
from springs import salt, spring_phonons

import mace_functional as mf
from mace_functional.phonons import (
    AcousticBranches,
    Mesh,
    acoustic,
    acoustic_branches,
    converged_mesh_thermo,
    group_velocities,
    mesh_modes,
    mesh_size,
    mesh_thermo,
    phonons_of,
)
from mace_functional.phonons.mesh_sums import mesh_checkpoint
from mace_functional.phonons.velocities import VELOCITY_UNITS
from mace_functional.units import K_B


@pytest.fixture(scope="module")
def quartz(model):
    """At rest, with its modes at Gamma, acoustic branches and phonons."""
    atoms = mf.relax(model, mf.example_structure("quartz"), fmax=1e-5).atoms
    atoms.calc = None
    modes = mf.gamma_modes(model, atoms)
    return atoms, modes, acoustic_branches(model, atoms, modes), phonons_of(model, atoms)


def rock_salt(a=5.64):
    return bulk("NaCl", "rocksalt", a=a)


@pytest.mark.parametrize("case", ["quartz", "salt under pressure"])
def test_speeds_of_sound_are_the_slopes_of_the_acoustic_branches(model, quartz, case):
    if case == "quartz":
        atoms, modes, _, phonons = quartz
    else:
        atoms = rock_salt(5.45)
        modes, phonons = mf.gamma_modes(model, atoms), phonons_of(model, atoms)
        assert abs(phonons.diagnostics.largest_stress) > 1e-2  # eV/Å³
    stiffness = acoustic._stiffness(model, atoms, modes, None)
    for direction in [0, 0, 1], [1, 1, 0], [1, 2, 3]:
        n = np.array(direction) / np.linalg.norm(direction)
        squares = np.linalg.eigvalsh(np.einsum("a,c,abcd->bd", n, n, stiffness))
        slopes = group_velocities(phonons, [0.0, 0.0, 0.0], direction=n).numpy() @ n
        expected = np.sort(np.abs(slopes[:3]))  # of the rigid motions, which come first
        np.testing.assert_allclose(VELOCITY_UNITS["km/s"] * np.sqrt(squares), expected, rtol=1e-6)


def test_gamma_alone_misses_half_of_the_heat_capacity_of_rock_salt(model):
    atoms = rock_salt()
    modes = mf.gamma_modes(model, atoms)
    branches = acoustic_branches(model, atoms, modes)
    at_gamma = mf.harmonic_thermo(modes, 300.0).heat_capacity
    mesh = mesh_modes(phonons_of(model, atoms), Mesh.of(atoms, (8, 8, 8)), eigenvectors=False)
    whole = mesh_thermo(mesh, 300.0).thermo.heat_capacity
    assert at_gamma < 0.52 * whole
    assert abs(at_gamma + branches.heat_capacity(300.0) - whole) < 0.01 * whole
    assert at_gamma + branches.bound > whole


def test_estimate_closes_the_gap_of_quartz(quartz):
    atoms, modes, branches, phonons = quartz
    at_gamma = mf.harmonic_thermo(modes, 300.0)
    mesh = mesh_modes(phonons, Mesh.of(atoms, (4, 4, 4)), eigenvectors=False)
    whole = mesh_thermo(mesh, 300.0).thermo
    gap = whole.heat_capacity - at_gamma.heat_capacity
    assert gap > 0.15 * whole.heat_capacity
    assert abs(branches.heat_capacity(300.0) - gap) < 0.05 * gap
    missing_entropy = whole.entropy - at_gamma.entropy
    assert abs(branches.thermo(300.0).entropy - missing_entropy) < 0.1 * missing_entropy


def test_missing_heat_lies_between_nothing_and_the_bound(quartz):
    branches = quartz[2]
    assert branches.n_branches == 3
    assert branches.bound == 3 * K_B
    heat = branches.heat_capacity([0.0, 1.0, 50.0, 300.0, 1e4])
    assert heat[0] == 0
    assert (heat.diff() > 0).all()
    torch.testing.assert_close(float(heat[-1]), branches.bound, rtol=1e-4, atol=0)
    # Debye's law, (4 pi^4 / 5) k_B (T / theta)^3 a branch, with theta from the slope at q = 0.
    theta = np.pi / 2 * np.array(branches.edges) * 1.438777  # K cm
    debye = 4 * np.pi**4 / 5 * K_B * ((1.0 / theta) ** 3).sum()
    torch.testing.assert_close(float(heat[1]), debye, rtol=1e-2, atol=0)


def test_molecule_and_held_atoms_miss_nothing(model):
    ethanol = mf.example_structure("ethanol")
    assert acoustic_branches(model, ethanol, mf.gamma_modes(model, ethanol)) == acoustic.NO_BRANCHES
    salt = rock_salt()
    held = mf.gamma_modes(model, salt, indices=[0])
    assert acoustic_branches(model, salt, held) == acoustic.NO_BRANCHES
    assert acoustic.NO_BRANCHES.bound == 0
    assert acoustic.NO_BRANCHES.heat_capacity([0.0, 300.0]).tolist() == [0, 0]


def test_bending_of_a_sheet_and_a_chain_counts_in_full(model):
    sheet = graphene("C2", a=2.468, vacuum=8.0)
    sheet.pbc = (True, True, False)
    sheet = mf.relax(model, sheet, relax_cell=True).atoms
    branches = acoustic_branches(model, sheet, mf.gamma_modes(model, sheet))
    assert branches.n_branches == 3
    assert branches.edges[0] == 0 < branches.edges[1] < branches.edges[2]
    assert K_B < branches.heat_capacity(300.0) < branches.bound
    assert branches.heat_capacity(0.0) == 0
    row = Atoms("C2", [[0, 0, 0], [1.28, 0, 0]], cell=[2.56, 20, 20], pbc=(True, False, False))
    modes = mf.gamma_modes(model, row)
    if not modes.n_imaginary:
        branches = acoustic_branches(model, row, modes)
        assert branches.n_branches == modes.n_rigid
        assert branches.edges is None or branches.heat_capacity(300.0) <= branches.bound


def test_there_is_a_bound_and_no_estimate_where_modes_or_sound_are_imaginary(model, monkeypatch):
    stretched = rock_salt(7.6)
    modes = mf.gamma_modes(model, stretched)
    branches = acoustic_branches(model, stretched, modes)
    assert branches.edges is None
    assert "imaginary" in branches.reason
    assert branches.heat_capacity(300.0) is None
    assert branches.thermo(300.0) is None
    assert branches.bound == 3 * K_B
    salt = rock_salt()
    modes = mf.gamma_modes(model, salt)
    monkeypatch.setattr(acoustic, "_stiffness", lambda *_: -np.eye(9).reshape(3, 3, 3, 3))
    assert acoustic_branches(model, salt, modes).reason == "an acoustic branch is imaginary"


def test_there_is_no_estimate_for_a_structure_that_is_not_at_rest(model):
    atoms = mf.example_structure("quartz")
    atoms.positions[0, 0] += 0.02
    modes = mf.gamma_modes(model, atoms)
    assert modes.n_imaginary == 0
    branches = acoustic_branches(model, atoms, modes)
    assert (branches.edges, branches.reason) == (None, "the structure is not relaxed")


def test_parts_that_no_sound_passes_between_miss_nothing(model, monkeypatch):
    salt = rock_salt()
    monkeypatch.setattr(acoustic, "_stiffness", lambda *_: np.zeros((3, 3, 3, 3)))
    assert acoustic_branches(model, salt, mf.gamma_modes(model, salt)) == acoustic.NO_BRANCHES


def test_average_over_branches_is_that_of_their_density_of_states():
    """Against a sum over many wave vectors, written out."""
    branches = AcousticBranches(3, (50.0, 80.0, 120.0))
    q = np.cbrt((np.arange(20000) + 0.5) / 20000)
    frequencies = np.multiply.outer(np.sin(np.pi / 2 * q), branches.edges)
    expected = mf.harmonic_thermo(torch.as_tensor(frequencies), [30.0, 300.0], unit="cm-1")
    found = branches.thermo([30.0, 300.0])
    torch.testing.assert_close(found.heat_capacity, expected.heat_capacity, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.entropy, expected.entropy, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("temperatures", "tolerance"),
    mostly_slow(
        [(300.0, 1e-3), ([20.0, 300.0], 3e-3), ([0.0], 1e-3)], [(300.0, 1e-3), ([0.0], 1e-3)]
    ),
)
def test_converged_mesh_has_the_error_that_was_asked_for(temperatures, tolerance):
    phonons = spring_phonons(salt())
    found = converged_mesh_thermo(phonons, temperatures, tolerance=tolerance)
    fine = mesh_modes(phonons, Mesh.of(salt(), (20, 20, 20)), eigenvectors=False)
    fine = mesh_thermo(fine, temperatures).thermo.heat_capacity
    fine = fine + (fine > 0) * 3 * K_B / 20**3  # its own acoustic modes at Gamma
    heat = found.result.thermo.heat_capacity
    assert found.converged
    assert heat.shape == fine.shape
    floor = 0.01 * 6 * K_B
    assert ((heat - fine).abs() <= tolerance * fine.clamp(min=floor)).all()
    assert found.size == found.result.modes.mesh.size == found.steps[-1].size
    assert found.steps[0].change is None
    assert all(step.error > tolerance for step in found.steps[:-1])
    assert found.steps[-1].error <= tolerance


def test_mesh_that_may_not_be_refined_says_so():
    with pytest.warns(UserWarning, match=r"error of .* above the tolerance of 1e-05"):
        found = converged_mesh_thermo(
            spring_phonons(salt()), 300.0, tolerance=1e-5, most_wave_vectors=20
        )
    assert not found.converged
    assert found.steps[-1].n_q <= 20
    with pytest.raises(ValueError, match="tolerance must be a finite number above zero"):
        converged_mesh_thermo(spring_phonons(salt()), 300.0, tolerance=0.0)


def test_converged_mesh_of_a_sheet_goes_along_it_alone():
    sheet = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    sheet.pbc = (True, True, False)
    found = converged_mesh_thermo(spring_phonons(sheet), 300.0, tolerance=1e-2)
    assert found.converged
    n = found.size[0]
    assert found.size == (n, n, 1)
    assert found.steps[-1].missing == pytest.approx(3 / n**2 / 24, rel=0.2)


def test_converged_mesh_goes_on_from_what_is_done(tmp_path):
    phonons, path = spring_phonons(salt()), tmp_path / "mesh.npz"
    first = converged_mesh_thermo(phonons, 300.0, tolerance=1e-2, checkpoint=path)
    kept = {mesh_checkpoint(path, step.size) for step in first.steps}
    assert set(tmp_path.iterdir()) == kept
    calls = []

    def counted(q):
        calls.append(q)
        return phonons.dynamical_matrix(q)

    again = mf.phonons.Phonons(counted, phonons.atoms, phonons.masses, phonons.diagnostics)
    second = converged_mesh_thermo(again, 300.0, tolerance=1e-2, checkpoint=path)
    assert len(calls) == len(first.steps)  # one of each mesh, to see that it is the same model
    assert torch.equal(first.result.thermo.heat_capacity, second.result.thermo.heat_capacity)


def test_mesh_size_is_the_coarsest_with_the_spacing():
    atoms = Atoms("H", cell=[2 * np.pi, 4 * np.pi, 40 * np.pi], pbc=(True, True, False))
    assert mesh_size(atoms, 0.25) == (4, 2, 1)
    assert mesh_size(atoms, 0.24) == (5, 3, 1)
    assert mesh_size(atoms, 5.0) == (1, 1, 1)
    with pytest.raises(ValueError, match="spacing of a mesh must be a finite number above zero"):
        mesh_size(atoms, 0.0)
    with pytest.raises(ValueError, match="choose a larger spacing"):
        mesh_size(atoms, 1e-6)
    with pytest.raises(ValueError, match="more than 1000000: use"):
        Mesh.of(atoms, (10**6, 10**6, 1))
