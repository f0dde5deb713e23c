"""Hessians of frameworks with foundation models, beside mace-torch's."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.io import read
from conftest import shared_file
from mace.calculators import MACECalculator

import mace_functional as mf

REAL = [
    pytest.param("MACE-MP-0_small", "RSM0004"),
    pytest.param("MACE-MP-0_small", "RSM0010", marks=pytest.mark.slow),
    pytest.param("MACE-DAC-1", "RSM0004", marks=pytest.mark.slow),
    pytest.param("MACE-DAC-1", "RSM0010", marks=pytest.mark.slow),
]


def real(model: str, structure: str) -> tuple[str, Atoms]:
    file = shared_file("weights", f"{model}.model")
    atoms = read(shared_file("heatcapacity", "structures", f"{structure}.cif"))
    atoms.rattle(0.03, seed=2)
    return str(file), atoms


@pytest.mark.parametrize(("weights", "structure"), REAL)
@pytest.mark.usefixtures("float64_default_dtype")
def test_hessian_of_a_framework_equals_central_differences_of_the_forces_of_mace_torch(
    weights, structure
):
    file, atoms = real(weights, structure)
    model = mf.load_model(file)
    s = mf.from_ase(atoms, model)
    where = [0, len(atoms) - 1]
    found = mf.hessian(mf.energy_fn(model, s.graph), indices=where)(
        s.positions, s.cell, model.params
    )
    atoms.calc = MACECalculator(model_paths=file, device="cpu", default_dtype="float64")
    step = 2.5e-4
    for atom, axis in ((0, 1), (1, 2)):
        forces = []
        for k in (1, -1, 2, -2):
            atoms.positions = s.positions.numpy()
            atoms.positions[where[atom], axis] += k * step
            forces.append(atoms.get_forces()[where])
        slope = (8 * (forces[0] - forces[1]) - (forces[2] - forces[3])) / (12 * step)
        np.testing.assert_allclose(found[:, :, atom, axis], -slope, rtol=0, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(("weights", "structure"), [p.values for p in REAL])
@pytest.mark.usefixtures("float64_default_dtype")
def test_hessian_of_a_framework_equals_mace_torch(weights, structure):
    file, atoms = real(weights, structure)
    model = mf.load_model(file)
    s = mf.from_ase(atoms, model)
    found = mf.hessian(mf.energy_fn(model, s.graph))(s.positions, s.cell, model.params)
    calculator = MACECalculator(model_paths=file, device="cpu", default_dtype="float64")
    expected = calculator.get_hessian(atoms).reshape(found.shape)
    assert np.abs(expected).max() > 10
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
