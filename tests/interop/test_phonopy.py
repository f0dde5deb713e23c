"""Phonons in phonopy, and phonopy's here."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.units import _amu, _e, _eps0
from in_mace_torch import in_mace_torch
from mace.calculators import MACECalculator
from models import float64_default

import mace_functional as mf
from mace_functional.interop.finite_displacements import finite_displacements
from mace_functional.interop.phonopy import (
    commensurate_points,
    from_phonopy,
    to_phonopy,
    write_phonopy,
)
from mace_functional.phonons import phonons_of
from mace_functional.units import FREQUENCY_UNITS

phonopy = pytest.importorskip("phonopy")

SALT = bulk("NaCl", "rocksalt", a=5.64)
OFF_GRID = [0.13, 0.42, 0.29]

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*Point group symmetries of supercell and primitive", "ignore:Half-grid shift"
)


@pytest.fixture(scope="module")
def salt(model):
    return phonons_of(model, SALT)


@pytest.fixture(scope="module")
def quartz(model):
    return phonons_of(model, mf.example_structure("quartz"))


def in_thz(ours, q):
    return mf.frequencies(ours.dynamical_matrix(torch.as_tensor(np.array(q))), unit="THz").numpy()


def theirs_in_thz(theirs, q):
    """Phonopy's frequencies with our constants of nature, which are newer."""
    return theirs.get_frequencies(q) * FREQUENCY_UNITS["THz"] / theirs.unit_conversion_factor


def largest_difference(theirs, ours):
    return max(
        np.abs(theirs_in_thz(theirs, q) - in_thz(ours, q)).max()
        for q in commensurate_points(theirs)
    )


def phase_at_atoms(matrix, atoms, q):
    """The dynamical matrix with phases at atoms, from one with phases at cells."""
    phases = np.exp(2j * np.pi * atoms.get_scaled_positions(wrap=False) @ q).repeat(3)
    return phases.conj()[:, None] * matrix * phases


@pytest.mark.parametrize(
    ("name", "supercell", "points"),
    [
        ("salt", (2, 2, 2), 8),
        ("salt", [[-1, 1, 1], [1, -1, 1], [1, 1, -1]], 4),
        pytest.param("quartz", (2, 1, 1), 2, marks=pytest.mark.slow),
    ],
)
def test_frequencies_are_equal_at_commensurate_points(name, supercell, points, request):
    ours = request.getfixturevalue(name)
    theirs = to_phonopy(ours, supercell)
    assert len(commensurate_points(theirs)) == points
    assert largest_difference(theirs, ours) < 1e-6


def test_dynamical_matrix_is_equal_but_for_the_phases_of_atoms(salt):
    """On three cells along each vector, where D is complex."""
    theirs = to_phonopy(salt, (3, 1, 1))
    q = np.array([1 / 3, 0, 0])
    matrix = salt.dynamical_matrix(torch.as_tensor(q)).numpy()
    assert np.abs(matrix.imag).max() > 1e-3
    expected = phase_at_atoms(matrix, SALT, q)
    np.testing.assert_allclose(theirs.get_dynamical_matrix_at_q(q), expected, atol=1e-10)


def test_atoms_outside_of_the_cell_are_the_same_crystal(model, salt):
    outside = SALT.copy()
    outside.positions[1] += 2 * outside.cell[0] - outside.cell[2]
    ours = phonons_of(model, outside)
    theirs = to_phonopy(ours, (3, 1, 1))
    assert largest_difference(theirs, ours) < 1e-6
    assert largest_difference(theirs, salt) < 1e-6


def test_methods_of_phonopy_work(salt):
    theirs = to_phonopy(salt, (2, 2, 2))
    theirs.run_mesh([4, 4, 4])
    theirs.run_thermal_properties(temperatures=[300.0])
    (capacity,) = theirs.get_thermal_properties_dict()["heat_capacity"]
    assert 0.9 * 49.9 < capacity < 49.9  # 6 k_B for a cell, when hot


def test_finite_displacements_with_mace_torch_converge_to_derivatives(model, salt):
    """Phonopy's own displacements, of which the error is quadratic in the distance."""
    with float64_default():
        calculator = MACECalculator(
            models=in_mace_torch(model), device="cpu", default_dtype="float64"
        )
        errors = [
            largest_difference(finite_displacements(calculator, SALT, (2, 2, 2), distance), salt)
            for distance in (0.1, 0.03, 0.01)
        ]
    assert errors[0] > 4 * errors[1] > 16 * errors[2]
    assert errors[2] < 2e-3


def test_file_is_read_back(salt, tmp_path):
    path = tmp_path / "phonopy_params.yaml"
    write_phonopy(path, salt, (2, 2, 2))
    assert phonopy.load(path).force_constants.shape == (2, 16, 3, 3)
    read = from_phonopy(path)
    inside = SALT.copy()
    inside.wrap()
    np.testing.assert_allclose(read.atoms.positions, inside.positions, atol=1e-12)
    np.testing.assert_allclose(read.masses, SALT.get_masses(), rtol=1e-7)  # six decimals
    for q in np.zeros(3), np.array([0.5, 0.0, 0.5]):
        matrices = [
            phase_at_atoms(one.dynamical_matrix(torch.as_tensor(q)).numpy(), one.atoms, q)
            for one in (read, salt)
        ]
        np.testing.assert_allclose(*matrices, rtol=1e-7, atol=1e-13)
    assert not list(tmp_path.glob(".partial*"))


@pytest.mark.parametrize("primitive", [np.eye(3), "F"], ids=["cube", "primitive"])
def test_dynamical_matrix_of_phonopy_is_taken_over_anywhere(primitive):
    """With random force constants, in a supercell of a conventional cell."""
    cube = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    unit = phonopy.structure.atoms.PhonopyAtoms(
        numbers=cube.numbers, cell=cube.cell.array, scaled_positions=cube.get_scaled_positions()
    )
    theirs = phonopy.Phonopy(unit, [2, 1, 1], primitive_matrix=primitive)
    shape = (len(theirs.primitive), len(theirs.supercell), 3, 3)
    theirs.force_constants = np.random.default_rng(0).normal(size=shape)
    ours = from_phonopy(theirs)
    matrix = ours.dynamical_matrix(torch.tensor(OFF_GRID, dtype=torch.float64)).numpy()
    matrix = phase_at_atoms((matrix + matrix.conj().T) / 2, ours.atoms, OFF_GRID)
    np.testing.assert_allclose(theirs.get_dynamical_matrix_at_q(OFF_GRID), matrix, atol=1e-12)
    assert ours.diagnostics.asymmetry > 0.01
    assert ours.diagnostics.acoustic_sum_residual == pytest.approx(
        np.abs(theirs.force_constants.sum(1)).max(), rel=1e-12
    )


def test_group_velocities_are_derivatives_of_what_was_read(salt):
    theirs = to_phonopy(salt, (2, 2, 2))
    ours = from_phonopy(theirs)

    def frequencies(q):
        return mf.frequencies(ours.dynamical_matrix(q), unit="THz")

    slopes = torch.func.jacfwd(frequencies)(torch.tensor(OFF_GRID, dtype=torch.float64))
    velocities = slopes.numpy() @ SALT.cell.array  # d nu / d q, THz Å
    np.testing.assert_allclose(
        velocities, theirs.get_group_velocity_at_q(OFF_GRID), rtol=1e-4, atol=1e-4
    )


def test_optical_modes_split_as_in_a_textbook(salt):
    """omega_LO^2 = omega_TO^2 + Z^2 e^2 / (eps_0 eps V mu), Born and Huang (1954), chapter 2."""
    charge, dielectric = 1.1, 2.3
    theirs = to_phonopy(
        salt,
        (2, 2, 2),
        born=np.array([charge, -charge])[:, None, None] * np.eye(3),
        dielectric=dielectric * np.eye(3),
    )
    masses = SALT.get_masses() * _amu
    reduced, volume = masses.prod() / masses.sum(), SALT.get_volume() * 1e-30
    plasma = (charge * _e) ** 2 / (_eps0 * dielectric * volume * reduced)
    theirs.run_qpoints([[0, 0, 0]], nac_q_direction=[0, 0, 1])
    *_, lower, transverse, longitudinal = theirs.get_qpoints_dict()["frequencies"][0]
    assert lower == pytest.approx(transverse, abs=1e-6)
    assert transverse == pytest.approx(in_thz(salt, [0.0, 0.0, 0.0])[-1], rel=1e-6)
    squares = (2e12 * np.pi) ** 2 * (longitudinal**2 - transverse**2)
    assert squares == pytest.approx(plasma, rel=1e-5)


def test_born_charges_are_written_and_left_out_when_read(salt, tmp_path):
    path = tmp_path / "phonopy_params.yaml"
    charges = np.array([1.0, -1.0])[:, None, None] * np.eye(3)
    write_phonopy(path, salt, (1, 1, 1), born=charges, dielectric=2 * np.eye(3))
    np.testing.assert_allclose(phonopy.load(path).nac_params["born"], charges)
    with pytest.warns(UserWarning, match="Born charges are ignored"):
        read = from_phonopy(path)
    gamma = torch.zeros(3, dtype=torch.float64)
    torch.testing.assert_close(read.dynamical_matrix(gamma), salt.dynamical_matrix(gamma))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"supercell": (2, 2)}, "three integers"),
        ({"supercell": (2, 2, 0)}, "three integers"),
        ({"supercell": (2.0, 2.0, 2.0)}, "three integers"),
        ({"supercell": (1, 1, 1), "born": np.zeros((2, 3, 3))}, "give both"),
        ({"supercell": (1, 1, 1), "dielectric": np.eye(3)}, "give both"),
        (
            {"supercell": (1, 1, 1), "born": np.zeros((1, 3, 3)), "dielectric": np.eye(3)},
            r"born must be \(2, 3, 3\)",
        ),
    ],
)
def test_bad_arguments_are_explained(arguments, message, salt):
    with pytest.raises(ValueError, match=message):
        to_phonopy(salt, **arguments)


def test_structures_that_phonopy_has_no_cell_for_are_refused(model):
    with pytest.raises(ValueError, match="cell with three vectors"):
        to_phonopy(phonons_of(model, molecule("H2O")), (1, 1, 1))
    slab = SALT.copy()
    slab.pbc = True, True, False
    with pytest.raises(ValueError, match="not periodic"):
        finite_displacements(mf.MaceCalculator(model), slab, (1, 1, 2), 0.01)


def test_phonopy_without_our_units_or_force_constants_is_refused(salt):
    theirs = to_phonopy(salt, (1, 1, 1))
    other = phonopy.Phonopy(theirs.unitcell, [1, 1, 1], primitive_matrix=np.eye(3), calculator="qe")
    with pytest.raises(ValueError, match="no force constants"):
        from_phonopy(other)
    other.force_constants = theirs.force_constants
    with pytest.raises(ValueError, match="units of 'qe'"):
        from_phonopy(other)


def test_missing_phonopy_is_explained(salt, monkeypatch):
    monkeypatch.setitem(sys.modules, "phonopy", None)
    for call in lambda: to_phonopy(salt, (1, 1, 1)), lambda: from_phonopy("phonopy.yaml"):
        with pytest.raises(ImportError, match=r"pip install 'mace_functional\[phonons\]'"):
            call()
