"""The model that comes with the package: whatever its weights are."""

from __future__ import annotations

import urllib.request
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from in_mace_torch import in_mace_torch
from mace.calculators import MACECalculator
from models import float64_default
from scipy.spatial.transform import Rotation

import mace_functional as mf
from mace_functional.structure.examples import STRUCTURES


def rattled(name: str) -> Atoms:
    atoms = mf.example_structure(name)
    atoms.rattle(0.05, seed=1)
    return atoms


def forces(model: mf.MaceModel, atoms: Atoms) -> np.ndarray:
    s = mf.from_ase(atoms, model)
    return mf.forces(mf.energy_fn(model, s.graph))(s.positions, s.cell, model.params).numpy()


def test_it_is_loaded_from_the_package_without_a_network_or_a_cache(tmp_path, monkeypatch):
    def no_network(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the embedded model must not be looked for on the network")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for dtype in torch.float64, torch.float32:
        assert {p.dtype for p in mf.load_model("embedded", dtype=dtype).params.values()} == {dtype}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", STRUCTURES)
def test_it_knows_the_elements_of_the_structures_that_come_with_the_package(model, name):
    assert set(mf.example_structure(name).numbers) <= set(model.atomic_numbers)


def test_forces_turn_with_the_molecule_to_double_precision(model):
    rotation = Rotation.random(random_state=1).as_matrix()
    turned = rattled("ethanol")
    turned.positions @= rotation.T
    expected = forces(model, rattled("ethanol")) @ rotation.T
    np.testing.assert_allclose(forces(model, turned), expected, rtol=0, atol=1e-11)


def test_its_tensors_give_the_same_energy_and_forces_in_mace_torch(model):
    module = in_mace_torch(model)
    assert mf.load_model(module).settings == model.settings
    ours = mf.MaceCalculator(model)
    with float64_default():
        theirs = MACECalculator(models=module, device="cpu", default_dtype="float64")
        for name in "ethanol", "quartz":
            atoms = rattled(name)
            ours.calculate(atoms)
            theirs.calculate(atoms)
            assert ours.results["energy"] == pytest.approx(theirs.results["energy"], abs=1e-10)
            expected = theirs.results["forces"]
            assert np.abs(expected).max() > 1e-4
            np.testing.assert_allclose(ours.results["forces"], expected, rtol=0, atol=1e-10)
