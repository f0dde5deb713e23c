"""Foundation models on the porous materials of the heat-capacity benchmark, against mace-torch."""

from __future__ import annotations

import functools
import itertools

import ase.io
import pytest
import torch
from ase.stress import voigt_6_to_full_3x3_stress
from conftest import shared_file
from helpers import mostly_slow
from mace.calculators import MACECalculator
from models import float64_default
from torch.func import grad_and_value

import mace_functional as mf
from mace_functional.derivatives import strained

MODELS = ["MACE-MP-0_small", "MACE-DAC-1"]
STRUCTURES = "RSM0004", "RSM0011", "13180N3", "AFI", "RSM0010", "RSM0020", "RSM0043", "RSM0062"


@functools.cache
def load(name: str) -> tuple[mf.MaceModel, MACECalculator]:
    path = shared_file("weights", f"{name}.model")
    with float64_default():
        calc = MACECalculator(model_paths=str(path), device="cpu", default_dtype="float64")
    return mf.load_model(path), calc


@pytest.mark.parametrize(
    ("name", "structure"),
    mostly_slow(itertools.product(MODELS, STRUCTURES), list(zip(MODELS, STRUCTURES, strict=False))),
)
def test_energy_forces_and_stress_equal_mace_torch(name, structure):
    model, calc = load(name)
    atoms = ase.io.read(shared_file("heatcapacity", "structures", f"{structure}.cif"))
    s = mf.from_ase(atoms, model)
    unstrained = torch.zeros_like(s.cell)
    (virial, gradient), energy = grad_and_value(
        strained(mf.energy_fn(model, s.graph)), argnums=(0, 1)
    )(unstrained, s.positions, s.cell, model.params)
    with float64_default():
        calc.calculate(atoms)
    forces = torch.tensor(calc.results["forces"])
    stress = torch.tensor(voigt_6_to_full_3x3_stress(calc.results["stress"]))
    assert forces.norm() > 1e-2
    assert stress.norm() > 1e-4
    assert abs(energy.item() - calc.results["energy"]) < 1e-9 * len(atoms)
    assert (gradient + forces).abs().max() < 1e-9
    assert (virial / atoms.get_volume() - stress).abs().max() < 1e-10
