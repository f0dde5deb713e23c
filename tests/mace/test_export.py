"""Models written for mace-torch: its calculator gives our numbers, and they come back."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress
from conftest import shared_file
from engine_settings import MODELS
from helpers import mostly_slow
from mace.calculators import MACECalculator
from models import build, crystal, float64_default

import mace_functional as mf
from mace_functional.mace.mace_torch import export

READOUT = "readouts.0.linear.weight"


def changed(model: mf.MaceModel, name: str = READOUT) -> mf.MaceModel:
    """The model with other weights of one readout."""
    weights = model.params[name]
    noise = torch.randn(weights.shape, generator=torch.Generator().manual_seed(0))
    return dataclasses.replace(model, params=model.params | {name: weights + 0.1 * noise})


def mace_torch(path: Path, **options: str) -> MACECalculator:
    with float64_default():
        return MACECalculator(model_paths=str(path), default_dtype="float64", **options)


def check(calculator: MACECalculator, model: mf.MaceModel, atoms: Atoms, tolerance: float = 1e-9):
    """Energy, forces and stress of mace-torch's calculator against ours."""
    ours = mf.MaceCalculator(model)
    ours.calculate(atoms, ["energy", "forces", "stress"])
    with float64_default():
        calculator.calculate(atoms)
    forces = calculator.results["forces"]
    assert np.abs(forces).max() > 1e-2
    assert abs(ours.results["energy"] - calculator.results["energy"]) < tolerance * len(atoms)
    np.testing.assert_allclose(ours.results["forces"], forces, atol=tolerance)
    np.testing.assert_allclose(
        voigt_6_to_full_3x3_stress(ours.results["stress"]),
        voigt_6_to_full_3x3_stress(calculator.results["stress"]),
        atol=tolerance,
    )


def quartz() -> Atoms:
    atoms = mf.example_structure("quartz")
    atoms.rattle(0.05, seed=0)
    return atoms


def test_embedded_model_is_built_in_mace_torch(tmp_path):
    model = mf.load_model("embedded")
    path = tmp_path / "embedded.model"
    mf.save_mace_torch(model, path)
    check(mace_torch(path), model, quartz())
    back = mf.load_model(path)
    assert back.settings == model.settings
    assert all(torch.equal(tensor, back.params[name]) for name, tensor in model.params.items())


def test_changed_weights_and_precision_are_written(tmp_path):
    model = changed(mf.load_model("embedded"))
    path = tmp_path / "changed.model"
    mf.save_mace_torch(model, path, dtype="float32")
    found = torch.load(path, weights_only=False).state_dict()
    kinds = {tensor.dtype for tensor in found.values() if tensor.is_floating_point()}
    assert kinds == {torch.float32}
    rounded = model.to(dtype="float32").to(dtype="float64")
    check(mace_torch(path), rounded, quartz())
    assert torch.equal(found[READOUT], model.params[READOUT].float())


def test_foundation_model_with_changed_readout_is_written_into_its_module(tmp_path):
    source = shared_file("weights", "MACE-MP-0_small.model")
    model = changed(mf.load_model(source))
    path = tmp_path / "tuned.model"
    mf.save_mace_torch(model, path, source=source)
    check(mace_torch(path), model, quartz())
    back = mf.load_model(path)
    assert all(torch.equal(tensor, back.params[name]) for name, tensor in model.params.items())


@pytest.mark.parametrize("with_source", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_model_with_vectors_is_written(tmp_path, with_source):
    source = shared_file("weights", "MACE-DAC-1.model")
    model = changed(mf.load_model(source))
    path = tmp_path / "tuned.model"
    mf.save_mace_torch(model, path, source=source if with_source else None)
    check(mace_torch(path), model, quartz())


@pytest.mark.parametrize(
    "name", mostly_slow(MODELS, ["unscaled", "two heads, readout with biases", "one layer"])
)
def test_module_of_every_setting_is_built(tmp_path, name):
    """The module that is built has the settings and tensors of the one that mace-torch made."""
    source = build(avg_num_neighbors=3.0, **MODELS[name])
    head = MODELS[name]["heads"][-1] if "heads" in MODELS[name] else None
    model = mf.load_model(source, head=head)
    path = tmp_path / "built.model"
    mf.save_mace_torch(model, path)
    back = mf.load_model(path, head=head)
    assert back.settings == model.settings
    assert all(torch.equal(tensor, back.params[key]) for key, tensor in model.params.items())


def test_source_is_left_as_it_was(tmp_path):
    source = build()
    before = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    model = changed(mf.load_model(source))
    mf.save_mace_torch(model, tmp_path / "tuned.model", source=source, dtype="float32")
    assert all(torch.equal(before[name], tensor) for name, tensor in source.state_dict().items())
    assert source.r_max.dtype == torch.float64
    check(
        mace_torch(tmp_path / "tuned.model"),
        model.to(dtype="float32").to(dtype="float64"),
        crystal(),
    )


def test_state_of_torch_is_left_as_it_was(tmp_path):
    before = torch.get_rng_state(), torch.get_default_dtype()
    mf.save_mace_torch(mf.load_model("embedded"), tmp_path / "embedded.model")
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == torch.get_default_dtype()


def test_settings_that_mace_torch_cannot_build_need_the_source(tmp_path):
    source = build()
    model = mf.load_model(source)
    first, second = model.settings.interactions
    odd = dataclasses.replace(second, avg_num_neighbors=2.0)
    settings = dataclasses.replace(model.settings, interactions=(first, odd))
    other = dataclasses.replace(model, settings=settings)
    with pytest.raises(TypeError, match="differs in interactions: pass as source"):
        mf.save_mace_torch(other, tmp_path / "odd.model")
    with pytest.raises(ValueError, match="has other interactions"):
        mf.save_mace_torch(other, tmp_path / "odd.model", source=source)
    source.interactions[1].avg_num_neighbors = 2.0
    mf.save_mace_torch(mf.load_model(source), tmp_path / "odd.model", source=source)
    assert mf.load_model(tmp_path / "odd.model").settings == settings


def test_wrong_calls_are_refused(tmp_path):
    model = mf.load_model("embedded")
    with pytest.raises(ValueError, match=r"name the file \*\.model"):
        mf.save_mace_torch(model, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="neither a mace-torch checkpoint nor the name"):
        mf.save_mace_torch(model, tmp_path / "a.model", source="unknown")
    with pytest.raises(TypeError, match=r"save_mace_torch\(model, path\)"):
        mf.save_mace_torch(build(), tmp_path / "a.model")
    with pytest.raises(ValueError, match="cutoff"):
        mf.save_mace_torch(model, tmp_path / "a.model", source=build())
    broken = dataclasses.replace(model, params=model.params | {READOUT: torch.zeros(1)})
    with pytest.raises(ValueError, match="shape"):
        mf.save_mace_torch(broken, tmp_path / "a.model")
    with pytest.raises(OSError, match="cannot be written"):
        mf.save_mace_torch(model, tmp_path / "none" / "a.model")
    assert list(tmp_path.iterdir()) == []


def test_file_that_gives_other_numbers_is_not_kept(tmp_path, monkeypatch):
    path = tmp_path / "a.model"
    path.write_text("before")

    def forgetful(module, model, *, built):
        module.load_state_dict(changed(model).params, strict=False)

    monkeypatch.setattr(export, "_set_tensors", forgetful)
    with pytest.raises(ValueError, match=r"energy of the written module .* differs"):
        mf.save_mace_torch(mf.load_model("embedded"), path)
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["a.model"]
