"""Training finds what it can, repeats itself, resumes exactly, and is shared by processes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing
from ase import Atoms
from energies import MODELS, crystal, load, mace_torch_module
from helpers import assert_close
from models import build, molecule
from small_jobs import train_in_group, train_until_killed
from torch import Tensor

import mace_functional as mf
from mace_functional.training import (
    FineTuned,
    LabelledStructure,
    LossWeights,
    finetune,
    labelled_by,
    training_run,
)
from mace_functional.training.data_parallel import shares
from mace_functional.training.trained_weights import chosen_weights


def structures(n: int = 6) -> list[Atoms]:
    """Rattled crystals and molecules."""
    found = []
    for seed in range(n):
        atoms = molecule() if seed % 3 == 2 else crystal()
        atoms.rattle(0.08, seed=seed)
        found.append(atoms)
    return found


@pytest.fixture(scope="module")
def model() -> mf.MaceModel:
    return mf.load_model(build())


@pytest.fixture(scope="module")
def data(model) -> list[LabelledStructure]:
    """Labels of the model with other readouts and messages."""
    generator = torch.Generator().manual_seed(3)
    names = chosen_weights(model, ["readouts*", "interactions.*.linear.weight"])
    changed = {k: model.params[k] for k in names}
    changed = {
        k: p + 0.1 * torch.randn(p.shape, generator=generator).to(p) for k, p in changed.items()
    }
    return labelled_by(model.with_params({**model.params, **changed}), structures())


def train(model: Any, data: list[LabelledStructure], **options: Any) -> FineTuned:
    return finetune(model, data, **{"epochs": 4, "batch_size": 2, "validation": 0.3, **options})


def assert_same_weights(one: FineTuned, other: FineTuned, tolerance: float = 0.0) -> None:
    assert one.weights == other.weights
    for name in one.weights:
        error = (one.potential.params[name] - other.potential.params[name]).abs().max()
        assert error <= tolerance


def without_times(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in history]


@pytest.mark.parametrize(
    ("kind", "trained"), [("forces", ["sigma", "epsilon"]), ("products", ["epsilon"])]
)
def test_training_finds_the_parameters_of_a_function(kind, trained):
    """Those of argon, from forces alone and from Hessian products alone."""

    def lennard_jones(near: Any, params: dict[str, Tensor]) -> Tensor:
        s6 = (params["sigma"] / near.distances) ** 6
        return near.sum(2 * params["epsilon"] * (s6**2 - s6) * (1 - (near.distances / 8) ** 2) ** 4)

    true = {"sigma": 3.4, "epsilon": 0.0104}
    argon = mf.FunctionPotential(lennard_jones, cutoff=8.0, params=true)
    atoms = [Atoms("Ar4", [[0, 0, 0], [3.9, 0, 0], [0, 3.7, 0.2], [0.3, 0, 4.0]]) for _ in range(4)]
    for seed, one in enumerate(atoms):
        one.rattle(0.1, seed=seed)
    labelled = labelled_by(argon, atoms)
    start = argon.with_params({"sigma": 3.4 if kind == "products" else 3.5, "epsilon": 0.012})
    loss = LossWeights(**{"energy": 0, "forces": 0, "stress": 0, "products": 0, kind: 1e3})
    options = {"validation": 0, "epochs": 200, "batch_size": 4, "average": None, "rate": 1e-2}
    found = train(start, labelled, loss=loss, trainable=trained, **options)
    assert found.weights == tuple(trained)
    assert float(found.potential.params["sigma"]) == pytest.approx(3.4, abs=1e-3)
    assert float(found.potential.params["epsilon"]) == pytest.approx(0.0104, abs=1e-5)


def test_errors_fall_and_the_best_epoch_is_kept(model, data):
    names = ["readouts*", "interactions.*.linear.weight"]
    found = train(model, data, epochs=12, rate=0.03, trainable=names, average=0.8)
    losses = [record["validation"]["loss"] for record in found.history]
    assert [record["epoch"] for record in found.history] == list(range(13))
    assert min(losses) < 0.25 * losses[0]
    assert losses[found.best_epoch] == min(losses)
    assert found.history[-1]["rate"] == pytest.approx(0, abs=1e-12)
    assert found.potential.settings == model.settings
    moved = {k for k, p in found.potential.params.items() if (p != model.params[k]).any()}
    assert moved == set(found.weights) == set(chosen_weights(model, names))


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_the_parameters_of_mace_torch(name):
    theirs = {k for k, p in mace_torch_module(name).named_parameters() if p.numel()}
    assert set(load(name).weights) == theirs


def test_the_same_seed_gives_the_same_result_and_another_a_different_one(model, data):
    one, other = train(model, data, epochs=2), train(model, data, epochs=2)
    assert_same_weights(one, other)
    assert without_times(one.history) == without_times(other.history)
    third = train(model, data, seed=1, epochs=1)
    assert third.history[0] != one.history[0]


def nothing(params: Any) -> Tensor:
    """An objective that changes nothing."""
    return 0 * params["readouts.0.linear.weight"].sum()


class Killed(BaseException):
    """What ends a process without any handler."""


@pytest.mark.parametrize("step", [3, pytest.param(2, marks=pytest.mark.slow)])
def test_a_training_killed_in_an_epoch_resumes_to_the_same_weights(
    model, data, step, tmp_path, monkeypatch
):
    monkeypatch.setattr(training_run, "SAVE_SECONDS", 0.0)
    files = {"checkpoint": tmp_path / "state.pt", "log": tmp_path / "log.jsonl"}
    replay = labelled_by(model, [crystal()], directions=1)
    expected = train(model, data, replay=replay, objectives={"none": nothing})
    calls = 0

    def kill(params: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > step:
            raise Killed
        return nothing(params)

    with pytest.raises(Killed):
        train(model, data, replay=replay, objectives={"none": kill}, **files)
    assert (tmp_path / "state.pt").exists()
    calls = -1000
    found = train(model, data, replay=replay, objectives={"none": kill}, **files)
    assert calls == -1000 + 4 * 2 - step
    assert_same_weights(found, expected)
    assert without_times(found.history) == without_times(expected.history)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert without_times(lines) == without_times(expected.history)
    again = train(model, data, replay=replay, objectives={"none": kill}, **files)
    assert_same_weights(again, expected)


def test_a_training_ended_by_sigkill_in_an_epoch_resumes_to_the_same_weights(model, data, tmp_path):
    options: dict[str, Any] = {"epochs": 3, "batch_size": 2, "validation": 0.3}
    expected = train(model, data, objectives={"none": nothing}, **options)
    torch.save((model, data), tmp_path / "model-and-data.pt")
    with pytest.raises(torch.multiprocessing.ProcessExitedException, match="SIGKILL"):
        torch.multiprocessing.spawn(train_until_killed, (str(tmp_path), 3, options), nprocs=1)
    path = tmp_path / "state.pt"
    assert torch.load(path, weights_only=True)["training"]["steps"] == 3
    found = train(model, data, objectives={"none": nothing}, checkpoint=path, **options)
    assert_same_weights(found, expected)
    assert without_times(found.history) == without_times(expected.history)


def test_a_checkpoint_of_another_training_is_refused(model, data, tmp_path):
    path = tmp_path / "state.pt"
    train(model, data, epochs=1, checkpoint=path)
    others = {"epochs": 2, "seed": 1, "trainable": "readouts", "batch_size": 3}
    others |= {"rate": 2e-3, "average": None}
    for name, value in others.items():
        with pytest.raises(ValueError, match="belongs to another training"):
            train(model, data, **{"epochs": 1, "checkpoint": path, name: value})
    other = model.with_params({k: 1.01 * p for k, p in model.params.items()})
    with pytest.raises(ValueError, match="belongs to another training"):
        train(other, data, epochs=1, checkpoint=path)
    changed = [replace(data[0], energy=0.0), *data[1:]]
    with pytest.raises(ValueError, match="belongs to another training"):
        train(model, changed, epochs=1, checkpoint=path)
    path.write_text("nothing")
    with pytest.raises(ValueError, match="is no checkpoint of finetune"):
        train(model, data, epochs=1, checkpoint=path)


def test_an_interrupt_saves_the_state(model, data, tmp_path):
    path, calls = tmp_path / "state.pt", 0

    def interrupt(params: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return nothing(params)

    with pytest.raises(KeyboardInterrupt):
        train(model, data, objectives={"none": interrupt}, checkpoint=path)
    assert torch.load(path, weights_only=True)["training"]["steps"] == 3


def test_training_stops_when_validation_no_longer_improves(model, data):
    found = train(model, data, epochs=30, rate=1e-30, average=None, patience=2)
    assert found.ending == "stopped early"
    assert found.history[-1]["epoch"] == found.best_epoch + 2
    assert_same_weights(found, replace(found, potential=model), 1e-12)


def test_reference_energies_are_fitted_first(model, data):
    shifts = {1: 3.0, 6: -20.0, 8: 5.0, 14: 7.0}
    labelled = [
        replace(k, energy=k.energy + sum(shifts.get(int(z), 0.0) for z in k.atoms.numbers))
        for k in labelled_by(model, structures())
    ]
    loss = LossWeights(products=0)
    found = train(model, labelled, fit_references=True, epochs=1, loss=loss, rate=1e-30)
    assert found.history[0]["validation"]["rmse_energy_eV_per_atom"] < 1e-10
    s = mf.from_ase(molecule(), model)
    energies = [
        mf.energy_fn(m, s.graph)(s.positions, s.cell, m.params) for m in (model, found.potential)
    ]
    expected = sum(shifts.get(int(z), 0.0) for z in molecule().numbers)
    assert float(energies[1] - energies[0]) == pytest.approx(expected, abs=1e-8)
    plain = train(model, labelled, epochs=1, loss=loss, rate=1e-30)
    assert plain.history[0]["validation"]["rmse_energy_eV_per_atom"] > 0.1


def test_optimiser_schedule_and_precision_are_the_callers(model, data):
    single = model.to(dtype="float32")
    found = train(
        single,
        data,
        optimizer=lambda weights: torch.optim.SGD(weights, lr=1e-5),
        scheduler=lambda optimizer, steps: torch.optim.lr_scheduler.StepLR(optimizer, 4, gamma=0.5),
        largest_gradient=None,
    )
    assert found.potential.dtype == torch.float32
    rates = [record["rate"] for record in found.history[1:]]
    assert rates == pytest.approx([1e-5, 5e-6, 5e-6, 2.5e-6])
    assert found.history[-1]["loss"] < found.history[1]["loss"]


@pytest.mark.slow
def test_a_replay_set_keeps_what_was_known(model, data):
    """Trained on wrong forces of a molecule, the model forgets less of crystals."""
    crystals = labelled_by(model, [crystal(), *structures(2)])
    (right,) = labelled_by(model, [molecule()], directions=0)
    wrong = [replace(right, forces=3 * right.forces)]
    options = {"epochs": 40, "validation": crystals[1:], "rate": 0.01, "average": None}
    loss = LossWeights(energy=0, stress=0, products=0)
    forgets = train(model, wrong, loss=loss, **options).history[-1]["validation"]
    keeps = train(model, wrong, loss=loss, replay=crystals[:1], **options).history[-1]["validation"]
    assert keeps["rmse_forces_eV_per_A"] < 0.6 * forgets["rmse_forces_eV_per_A"]


def test_replayed_energies_follow_fitted_references(model):
    """Labels of the model itself, all shifted by the same references, leave nothing to learn."""
    shifts = {1: 3.0, 6: -20.0, 8: 5.0, 14: 7.0}
    own = labelled_by(model, structures(), directions=0)
    data = [
        replace(k, energy=k.energy + sum(shifts.get(int(z), 0.0) for z in k.atoms.numbers))
        for k in own
    ]
    options = {"validation": 0, "epochs": 1, "rate": 1e-30, "loss": LossWeights(products=0)}
    found = train(model, data, replay=own, fit_references=True, **options)
    assert found.history[-1]["loss"] < 1e-15


@pytest.mark.slow
def test_two_processes_find_the_weights_of_one(model, data, tmp_path):
    options = {"batch_size": 3, "epochs": 2, "validation": 0.3}
    expected = finetune(model, data, **options)
    torch.save((model, data), tmp_path / "model-and-data.pt")
    torch.multiprocessing.spawn(train_in_group, (str(tmp_path), 2, options), nprocs=2)
    for rank in range(2):
        found = mf.load_model(tmp_path / f"found-{rank}.safetensors")
        for name in expected.weights:
            assert_close(found.params[name], expected.potential.params[name], 1e-9)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_processes_share_structures_of_all_sizes_fairly(count):
    costs = [100.0, 3, 3, 3, 40, 40, 2, 1, 30]
    parts = shares(costs, count)
    assert sorted(k for part in parts for k in part) == list(range(9))
    loads = [sum(costs[k] for k in part) for part in parts]
    assert max(loads) <= max(100, 1.05 * sum(costs) / count)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trainable": ["redout*"]}, "no weights 'redout"),
        ({"trainable": "some"}, "trainable must be"),
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"rate": -1.0}, "rate"),
        ({"validation": 0, "patience": 3}, "patience needs a validation set"),
        ({"validation": 1.5}, "validation"),
        ({"average": 2.0}, "average"),
        ({"loss": LossWeights(energy=0, forces=0, stress=0)}, "no structure has a label"),
    ],
)
def test_options_that_make_no_sense_are_refused(model, options, message):
    labelled = labelled_by(model, structures(3), directions=0)
    with pytest.raises(ValueError, match=message):
        train(model, labelled, **options)


def test_bad_data_are_refused(model):
    with pytest.raises(ValueError, match="no structures to train on"):
        train(model, [])
    with pytest.raises(TypeError, match="must be LabelledStructures"):
        train(model, structures())
    with pytest.raises(TypeError, match="takes a Trainable, not str"):
        train("small", [])
    gold = LabelledStructure(Atoms("Au2", [[0, 0, 0], [0, 0, 2.5]]), energy=0.0, name="gold")
    with pytest.raises(ValueError, match=r"gold: the model does not know the elements Au"):
        train(model, [gold, gold])
    huge = [replace(k, energy=1e300) for k in labelled_by(model, structures(3), directions=0)]
    with pytest.raises(FloatingPointError, match="gradient of step 1 is not finite"):
        train(model.to(dtype="float32"), huge)


def test_sums_train_the_terms_that_have_weights(model, data):
    pair = mf.FunctionPotential(
        lambda near, p: near.sum(p["k"] * (near.distances - 4.0).clamp(max=0) ** 4),
        cutoff=4.0,
        params={"k": 1e-3},
    )
    both = mf.SumPotential(model, pair)
    found = train(both, data, epochs=1, trainable=["1.k"])
    assert found.weights == ("1.k",)
    assert float(found.potential.params[1]["k"]) != 1e-3
    assert found.potential.params[0].keys() == model.params.keys()
    assert np.isfinite(found.history[-1]["loss"])
