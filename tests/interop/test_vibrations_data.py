"""Hessians in ASE's VibrationsData, and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import units
from ase.build import bulk, molecule
from ase.constraints import FixAtoms
from ase.vibrations import Vibrations

import mace_functional as mf
from mace_functional.interop.vibrations_data import from_vibrations_data, to_vibrations_data
from mace_functional.phonons import phonons_of

SALT = bulk("NaCl", "rocksalt", a=5.64)


@pytest.fixture(scope="module")
def water():
    atoms = molecule("H2O")
    atoms.set_masses([18.0, 2.0, 2.0])
    return atoms


def hessian_of(model, atoms):
    s = mf.from_ase(atoms, model)
    return mf.hessian(mf.energy_fn(model, s.graph))(s.positions, s.cell, model.params)


def test_hessian_goes_there_and_back(model, water):
    hessian = hessian_of(model, water)
    for shape in (3, 3, 3, 3), (9, 9):
        data = to_vibrations_data(hessian.reshape(shape), water)
        np.testing.assert_array_equal(data.get_hessian(), hessian)
        np.testing.assert_array_equal(data.get_atoms().get_masses(), water.get_masses())
    back = from_vibrations_data(data, unit="meV")
    expected = mf.gamma_modes(model, water, unit="meV")
    torch.testing.assert_close(back.frequencies, expected.frequencies)
    assert (back.unit, back.n_rigid, back.largest_force) == ("meV", 6, None)


def test_ase_finds_the_same_frequencies(model):
    data = to_vibrations_data(phonons_of(model, SALT))
    ours = mf.gamma_modes(model, SALT).frequencies
    theirs = data.get_frequencies()
    np.testing.assert_allclose(theirs[3:].real, ours, rtol=1e-6)
    assert np.abs(theirs[:3]).max() < 1e-2
    energies = data.get_energies()[3:].real
    np.testing.assert_allclose(energies / units.invcm, ours, rtol=1e-6)


def test_ase_finite_differences_become_normal_modes(model, tmp_path):
    atoms = molecule("H2O")
    atoms.calc = mf.MaceCalculator(model)
    vibrations = Vibrations(atoms, name=tmp_path / "vib", delta=0.002)
    vibrations.run()
    modes = from_vibrations_data(vibrations.get_vibrations())
    expected = mf.gamma_modes(model, atoms).frequencies
    torch.testing.assert_close(modes.frequencies, expected, rtol=1e-3, atol=0)


def test_constraints_leave_no_atom_out(model, water):
    held = water.copy()
    held.set_constraint(FixAtoms([0]))
    assert len(to_vibrations_data(hessian_of(model, water), held).get_indices()) == 3


def test_what_does_not_fit_is_refused(model, water):
    hessian = hessian_of(model, water)
    with pytest.raises(ValueError, match="needs its structure"):
        to_vibrations_data(hessian)
    with pytest.raises(ValueError, match="does not fit 2 atoms"):
        to_vibrations_data(hessian, SALT)
    with pytest.raises(ValueError, match="leave out atoms"):
        to_vibrations_data(phonons_of(model, SALT), SALT)
    with pytest.raises(ValueError, match="does not fit 2 atoms"):
        to_vibrations_data(hessian, water, indices=[1, 2])
    with pytest.raises(ValueError, match="leave out atoms"):
        to_vibrations_data(phonons_of(model, SALT), indices=[0])
