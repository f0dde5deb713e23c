"""Models in safetensors files: what comes back, what is refused, and that nothing is run."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from mace import modules
from ase import Atoms
from engine_settings import EVERY_VALUE, MODELS, with_features
from helpers import mostly_slow
from models import build, crystal, molecule
from scipy.spatial.transform import Rotation
from torch.func import grad_and_value

import mace_functional as mf


@pytest.fixture(scope="module")
def model() -> mf.MaceModel:
    """One model for tests that leave it as it is."""
    return mf.load_model(build())


@pytest.fixture
def saved(model, tmp_path) -> Path:
    path = tmp_path / "saved.safetensors"
    mf.save_model(model, path)
    return path


def forces(model: mf.MaceModel, atoms: Atoms) -> torch.Tensor:
    s = mf.from_ase(atoms, model)
    return mf.forces(mf.energy_fn(model, s.graph))(s.positions, s.cell, model.params)


def rewritten(path: Path, header: dict[str, str | None], params: Any = None) -> Path:
    """The file with other entries of the header, without those that are None, or other tensors."""
    with safetensors.safe_open(path, framework="pt") as file:
        entries = file.metadata() | header
    params = safetensors.torch.load_file(path) if params is None else params
    tensors = {name: tensor.contiguous() for name, tensor in params.items()}
    kept = {name: entry for name, entry in entries.items() if entry is not None}
    safetensors.torch.save_file(tensors, path, kept)
    return path


# What comes back.


@pytest.mark.parametrize("name", mostly_slow(MODELS, EVERY_VALUE))
def test_round_trip_gives_the_same_numbers_to_the_last_bit(name, tmp_path):
    module = build(**MODELS[name])
    before = mf.load_model(module, head=module.heads[-1])
    mf.save_model(before, tmp_path / "m.safetensors")
    after = mf.load_model(tmp_path / "m.safetensors")
    assert (after.settings, after.head) == (before.settings, before.head)
    assert list(after.params) == list(before.params)
    assert all(torch.equal(after.params[name], p) for name, p in before.params.items())
    found = []
    for model in before, after:
        s = mf.from_ase(with_features(crystal()), model)
        state = s.positions, s.cell, model.params
        energy = mf.energy_fn(model, s.graph)
        found.append(grad_and_value(energy)(*state))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert found[0][0].norm() > 1e-3


def test_changed_parameters_survive(model, tmp_path):
    torch.manual_seed(5)
    changed = {
        name: p if name.endswith("r_max") else p * (1 + 0.05 * torch.randn_like(p))
        for name, p in model.params.items()
    }
    tuned = dataclasses.replace(model, params=changed)
    mf.save_model(tuned, tmp_path / "tuned.safetensors")
    after = mf.load_model(tmp_path / "tuned.safetensors")
    assert all(torch.equal(after.params[name], p) for name, p in changed.items())
    assert torch.equal(forces(after, molecule()), forces(tuned, molecule()))
    assert (forces(after, molecule()) - forces(model, molecule())).norm() > 1e-2


def test_parameters_that_share_memory_or_require_gradients_are_saved(model, tmp_path):
    base = torch.randn(100, dtype=torch.float64, requires_grad=True)
    changed = {
        name: base[: p.numel()].reshape(p.shape) if name.startswith("readouts") else p
        for name, p in model.params.items()
    }
    changed["products.0.linear.weight"] = model.params["products.0.linear.weight"].flip(0)
    mf.save_model(dataclasses.replace(model, params=changed), tmp_path / "m.safetensors")
    after = mf.load_model(tmp_path / "m.safetensors")
    assert all(torch.equal(after.params[name], p) for name, p in changed.items())


def test_head_of_the_model_is_kept_unless_another_is_asked_for(tmp_path):
    module = build(heads=["PBE", "r2SCAN"])
    mf.save_model(mf.load_model(module, head="r2SCAN"), tmp_path / "m.safetensors")
    assert mf.load_model(tmp_path / "m.safetensors").head == "r2SCAN"
    other = mf.load_model(tmp_path / "m.safetensors", head="PBE")
    assert torch.equal(
        forces(other, molecule()), forces(mf.load_model(module, head="PBE"), molecule())
    )
    with pytest.raises(ValueError, match="no head 'SCAN'; its heads are PBE, r2SCAN"):
        mf.load_model(tmp_path / "m.safetensors", head="SCAN")


def test_weights_are_stored_in_single_precision_on_request(model, tmp_path):
    double, single = tmp_path / "double.safetensors", tmp_path / "single.safetensors"
    mf.save_model(model, double)
    mf.save_model(model, single, dtype=torch.float32)
    for name, stored in safetensors.torch.load_file(single).items():
        coupling = re.search("U_matrix_|_w3j_", name)
        assert stored.dtype == (torch.float64 if coupling else torch.float32)
        assert torch.equal(stored, model.params[name].to(stored.dtype))
    after = mf.load_model(single)
    assert after.dtype == torch.float64
    assert mf.load_model(single, dtype=torch.float32).dtype == torch.float32
    assert 0 < (forces(after, molecule()) - forces(model, molecule())).abs().max() < 1e-5


def test_energy_from_single_precision_weights_is_invariant_to_double_precision(tmp_path):
    model = mf.load_model(build(correlation=3, max_ell=3))
    mf.save_model(model, tmp_path / "m.safetensors", dtype=torch.float32)
    rounded = mf.load_model(tmp_path / "m.safetensors")
    everything = {name: p.float().double() for name, p in model.params.items()}
    rotation = Rotation.random(random_state=1).as_matrix()
    turned = molecule()
    turned.positions @= rotation.T

    def residual(model: mf.MaceModel) -> float:
        difference = forces(model, molecule()) @ torch.tensor(rotation.T) - forces(model, turned)
        return difference.abs().max().item()

    assert residual(rounded) < 1e-14
    assert residual(dataclasses.replace(model, params=everything)) > 1e-12


def test_file_is_read_by_safetensors_and_loads_into_mace_torch(saved, model):
    tensors = safetensors.torch.load_file(saved)
    module = build(seed=1)
    _, unknown = module.load_state_dict(tensors, strict=False)
    assert unknown == []
    again = mf.load_model(module)
    assert torch.equal(forces(again, molecule()), forces(model, molecule()))


def test_nothing_is_unpickled_and_no_module_of_mace_torch_is_made(saved, monkeypatch):
    def forbidden(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a model file must not get here")

    for place, name in (
        (torch, "load"),
        (pickle, "load"),
        (pickle, "loads"),
        (pickle, "Unpickler"),
        (modules.MACE, "__init__"),
    ):
        monkeypatch.setattr(place, name, forbidden)
    assert mf.load_model(saved).head == "Default"


# Writing.


@pytest.mark.parametrize("name", ["m.model", "m", "m.safetensors.old"])
def test_file_of_another_suffix_is_not_written(model, name, tmp_path):
    with pytest.raises(ValueError, match=rf"name the file \*\.safetensors, not {name}"):
        mf.save_model(model, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.int64])
def test_other_dtypes_are_not_written(model, dtype, tmp_path):
    with pytest.raises(ValueError, match=r"dtype must be one of float64, float32, not"):
        mf.save_model(model, tmp_path / "m.safetensors", dtype=dtype)


def test_parameters_that_are_not_the_models_are_not_written(model, tmp_path):
    path = tmp_path / "m.safetensors"
    missing = {k: v for k, v in model.params.items() if k != "scale_shift.scale"}
    for params, message in (
        (missing, r"params lack 'scale_shift\.scale'"),
        (model.params | {"new.weight": torch.ones(2)}, r"no parameters named 'new\.weight'"),
        (
            model.params | {"scale_shift.scale": torch.ones(3)},
            r"'scale_shift\.scale' must have the shape \(\), not \(3,\)",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            mf.save_model(dataclasses.replace(model, params=params), path)
    assert not path.exists()


def test_place_that_cannot_be_written_to_is_named(model, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in "nowhere", "file":
        path = tmp_path / folder / "m.safetensors"
        with pytest.raises(OSError, match=rf"{path} cannot be written \(.+\): choose an existing"):
            mf.save_model(model, path)


def test_old_file_stays_when_writing_fails(model, saved, monkeypatch):
    before = saved.read_bytes()

    def full(self: Path, data: bytes) -> None:
        with self.open("wb") as file:
            file.write(data[:1000])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left on device"):
        mf.save_model(model, saved, dtype=torch.float32)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


# What is refused on reading.


@pytest.mark.parametrize("content", [b"", b"<html>Not found</html>", pickle.dumps([1, 2])])
def test_other_content_is_not_called_a_model_file(content, tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"m\.safetensors is not a safetensors file, or not all"):
        mf.load_model(path)


def test_truncated_file_is_refused(saved):
    saved.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"saved\.safetensors is not .* or not all of it: ."):
        mf.load_model(saved)


@pytest.mark.parametrize("header", [None, {"format": "pt"}])
def test_safetensors_of_something_else_are_refused(header, tmp_path):
    path = tmp_path / "m.safetensors"
    safetensors.torch.save_file({"weight": torch.ones(2)}, path, header)
    with pytest.raises(ValueError, match=r"not of a model: give one that save_model wrote"):
        mf.load_model(path)


def test_newer_version_of_the_format_is_refused(saved):
    with pytest.raises(ValueError, match=r"has version 2 of the format.* install a newer"):
        mf.load_model(rewritten(saved, {"version": "2", "settings": "{}"}))


def settings_with(model: mf.MaceModel, **changes: Any) -> str:
    return json.dumps(dataclasses.asdict(model.settings) | changes)


def test_damaged_headers_are_refused_with_what_is_wrong(model, saved):
    whole = saved.read_bytes()
    for header, message in (
        ({"version": "one"}, "invalid literal for int"),
        ({"settings": "{"}, "JSONDecodeError"),
        ({"settings": "{}"}, "missing .* required positional arguments"),
        ({"settings": settings_with(model, colour="red")}, "KeyError.'colour'"),
        ({"settings": settings_with(model, cutoff="4")}, "'4' is not of type <class 'float'>"),
        ({"settings": settings_with(model, scale_shift=1)}, "1 is not of type <class 'bool'>"),
        ({"tensors": "[]"}, "AttributeError"),
        ({"head": None}, "KeyError.'head'"),
        ({"settings": None}, "KeyError.'settings'"),
    ):
        saved.write_bytes(whole)
        with pytest.raises(ValueError, match=f"the header of {saved} is damaged: .*{message}"):
            mf.load_model(rewritten(saved, header))


def test_unknown_kind_of_block_is_refused(model, saved):
    settings = dataclasses.asdict(model.settings)
    settings["interactions"][0]["kind"] = "Quantum"
    with pytest.raises(ValueError, match=r"'Quantum' is not of type .*RealAgnosticResidual"):
        mf.load_model(rewritten(saved, {"settings": json.dumps(settings)}))


def test_tensors_that_are_not_the_models_are_refused(model, saved):
    whole, name = saved.read_bytes(), "scale_shift.scale"
    for params, message in (
        ({k: v for k, v in model.params.items() if k != name}, rf"lacks the tensors {name}"),
        (model.params | {"extra": torch.ones(2)}, "has unknown tensors extra"),
        (model.params | {name: torch.ones(3)}, rf"{name} of .* has the shape \(3,\), not \(\)"),
    ):
        saved.write_bytes(whole)
        with pytest.raises(ValueError, match=message):
            mf.load_model(rewritten(saved, {}, params))


def test_file_that_may_not_be_read_is_named(saved, monkeypatch):
    def refuse(path: Path, **options: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("mace_functional.mace.model_file.safe_open", refuse)
    with pytest.raises(PermissionError, match=r"Permission denied: .*saved\.safetensors"):
        mf.load_model(saved)
