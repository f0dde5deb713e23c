"""`mace-functional finetune`, as a user would call it."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

import mace_functional as mf
from mace_functional.cli import finetune_command, main
from mace_functional.training import LabelledStructure, labelled_by, read_labelled, training_run

QUICK = ["--epochs", 2, "--batch-size", 3, "--rate", 3e-3]

UNWEIGHTED = ["--energy-weight", "0", "--forces-weight", "0"]


def run(*words: object) -> int:
    return main(["finetune", *map(str, words), "--model", "embedded"])


def salt(seed: int) -> Atoms:
    atoms = bulk("NaCl", "rocksalt", a=5.7)
    atoms.rattle(0.1, seed=seed)
    return atoms


def write(path: Path, labels: list[LabelledStructure]) -> None:
    """Write labels with the keys of mace-torch."""
    frames = []
    for labelled in labels:
        atoms = labelled.atoms.copy()
        atoms.info |= {"REF_energy": labelled.energy, "REF_stress": labelled.stress}
        atoms.arrays["REF_forces"] = labelled.forces
        if labelled.curvature is not None:
            atoms.info["REF_hessian"] = labelled.curvature.products.ravel()
        frames.append(atoms)
    ase.io.write(path, frames)


@pytest.fixture(scope="module")
def labels(model) -> list[LabelledStructure]:
    """Labels of the embedded model with other readouts."""
    generator = torch.Generator().manual_seed(0)
    changed = {
        k: p + 0.1 * torch.randn(p.shape, generator=generator).to(p)
        for k, p in model.params.items()
        if k.startswith("readouts.") and k in model.weights
    }
    teacher = model.with_params({**model.params, **changed})
    return labelled_by(teacher, map(salt, range(5)), directions=None)


@pytest.fixture
def folder(labels, tmp_path, monkeypatch) -> Path:
    """The working directory, with labelled structures in data.extxyz and held.extxyz."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data.extxyz", labels[:3])
    write(tmp_path / "held.extxyz", labels[3:])
    return tmp_path


def assert_same_weights(one: Any, other: Any, tolerance: float = 0.0) -> None:
    for name in one.weights:
        assert (one.params[name] - other.params[name]).abs().max() <= tolerance


def trained(model: mf.MaceModel, **options: Any) -> mf.training.FineTuned:
    """What the library finds for `QUICK`."""
    quick = {"epochs": 2, "batch_size": 3, "rate": 3e-3, "validation": read_labelled("held.extxyz")}
    return mf.finetune(model, read_labelled("data.extxyz"), **{**quick, **options})


def test_a_model_is_trained_and_written_for_both_programs(folder, model, capsys):
    outputs = ["--json", "o.json", "--log", "o.jsonl", "--figure", "o.png"]
    assert run("data.extxyz", *QUICK, "--validation", "held.extxyz", "--output", "t", *outputs) == 0
    expected = trained(model)
    found = mf.load_model("t.safetensors")
    assert_same_weights(found, expected.potential)
    assert_same_weights(mf.load_model("t.model"), found)
    results = json.loads(Path("o.json").read_text())
    errors = [record["validation"] for record in results["history"]]
    assert errors == [record["validation"] for record in expected.history]
    assert results["labels"] == {
        "structures": 3,
        **dict.fromkeys(("energies", "forces", "stresses", "Hessians"), 3),
    }
    assert results["best_epoch"] == expected.best_epoch
    assert len(Path("o.jsonl").read_text().splitlines()) == 3
    assert Path("o.png").read_bytes().startswith(b"\x89PNG")
    assert not Path("t.checkpoint").exists()
    printed, written = capsys.readouterr()
    for shown in ("meV/atom", "meV/Å", "GPa", "eV/Å²", "2 of held.extxyz"):
        assert shown in printed
    for error in errors[0], errors[expected.best_epoch]:
        assert f"{1000 * error['rmse_forces_eV_per_A']:#.4g}" in printed
    assert "t.safetensors and t.model" in written


def test_an_interrupted_training_goes_on_by_the_same_command(folder, model, monkeypatch, capsys):
    words = ["data.extxyz", *QUICK, "--validation", "held.extxyz", "--output", "t"]
    take, taken = training_run.TrainingRun._take, []

    def interrupted(self: Any, epoch: int, step: int) -> None:
        if len(taken) == 1:
            raise KeyboardInterrupt
        taken.append(step)
        take(self, epoch, step)

    with monkeypatch.context() as patch:
        patch.setattr(training_run.TrainingRun, "_take", interrupted)
        assert run(*words) == 130
    assert Path("t.checkpoint").exists()
    assert "the same command goes on" in " ".join(capsys.readouterr().err.split())
    assert run(*words[:1], "--epochs", 3, *words[3:]) == 2
    assert "belongs to another training" in capsys.readouterr().err
    assert run(*words) == 0
    assert_same_weights(mf.load_model("t.safetensors"), trained(model).potential)
    assert run(*words) == 2
    assert "is there already, t.safetensors and t.model" in capsys.readouterr().err


def test_options_are_those_of_the_library(folder, model):
    ase.io.write("old.xyz", [bulk("ZnO", "zincblende", a=4.6)])
    words = ["--replay", "old.xyz", "--fit-references", "--trainable", "readouts.0.*", "--seed", 1]
    loss = ["--products-weight", 0, "--forces-weight", 10, "--average", 0]
    assert run("data.extxyz", *QUICK, "--validation", 0.34, "--output", "t", *words, *loss) == 0
    expected = trained(
        model,
        validation=0.34,
        replay=labelled_by(model, [bulk("ZnO", "zincblende", a=4.6)], directions=1),
        fit_references=True,
        trainable=["readouts.0.*"],
        seed=1,
        average=None,
        loss=mf.training.LossWeights(products=0, forces=10),
    )
    found = mf.load_model("t.safetensors")
    assert_same_weights(found, expected.potential)
    changed = {k for k, p in found.params.items() if (p != model.params[k]).any()}
    assert changed == {"readouts.0.linear.weight", "atomic_energies_fn.atomic_energies"}


def test_with_dispersion_the_model_below_it_is_trained_and_written(folder, model, capsys):
    pytest.importorskip("tad_dftd3")
    words = ["--dispersion", "pbe", "--trainable", "readouts.*", "--fit-references"]
    assert run("data.extxyz", *QUICK, "--validation", 0, "--output", "t", *words) == 0
    both = mf.load_model("embedded", dispersion="pbe")
    expected = trained(both, validation=0, trainable=["0.readouts.*"], fit_references=True)
    assert_same_weights(mf.load_model("t.safetensors"), expected.potential.potentials[0])
    assert "trained with D3(pbe) on top" in capsys.readouterr().out


def test_a_training_that_finds_nothing_better_says_so(folder, model, capsys):
    words = ["--rate", 1, "--average", 0, "--validation", "held.extxyz", "--output", "t"]
    assert run("data.extxyz", *QUICK, *words) == 0
    assert "which is written unchanged" in " ".join(capsys.readouterr().out.split())
    assert_same_weights(mf.load_model("t.safetensors"), model)


def test_a_process_group_of_one_finds_the_same(folder, model, monkeypatch):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    group = {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    for name, value in group.items():
        monkeypatch.setenv(name, str(value))
    assert run("data.extxyz", *QUICK, "--validation", "held.extxyz", "--output", "t") == 0
    assert not torch.distributed.is_initialized()
    assert_same_weights(mf.load_model("t.safetensors"), trained(model).potential)


def test_only_the_first_process_prints_and_writes(folder, monkeypatch, capsys):
    monkeypatch.setattr(finetune_command, "is_first", lambda: False)
    before = set(folder.iterdir())
    assert run("data.extxyz", *QUICK, "--output", "t", "--checkpoint", folder / "state") == 0
    assert set(folder.iterdir()) - before <= {folder / "state"}
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no.extxyz"], "there is no file no.extxyz"),
        (["data.extxyz", "--output", "t.model"], "--output takes a name without suffix: t for"),
        (["data.extxyz", "--output", "."], "is a folder: name a model in it"),
        (["data.extxyz", "--output", "no/t"], "there is no folder"),
        (["data.extxyz", "--validation", "1.5"], "--validation must be a number from 0 to 0.9"),
        (["data.extxyz", "--validation", "no.extxyz"], "there is no file no.extxyz"),
        (["data.extxyz", "--validation", "0", "--patience", "2"], "--patience needs a validation"),
        (["data.extxyz", "held.extxyz", "--hessians", "h.npz"], "--hessians is for one file"),
        (["data.extxyz", "--epochs", "0"], "--epochs must be"),
        (["data.extxyz", "--energy-weight", "-1"], "--energy-weight must be"),
        (["data.extxyz", "--trainable", "redout.*"], "no weights 'redout.*'"),
        (["data.extxyz", "--json", "data.extxyz"], "would replace the input"),
        (["data.extxyz", "--figure", "o.gif"], "--figure takes a file name with"),
        (["data.extxyz", "--replay", "gold.xyz"], "gold.xyz, structure 0: the model does not know"),
        (["gold.xyz"], "it has no label"),
        (["calculated.extxyz"], "pass --energy-key energy if these are the labels, --energy-key"),
        (["plain.extxyz", *UNWEIGHTED], "no structure has a label whose weight"),
    ],
)
def test_bad_input_gets_a_sentence(words, message, folder, capsys):
    ase.io.write("gold.xyz", bulk("Au"))
    atoms = salt(0)
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.zeros((2, 3)))
    ase.io.write("calculated.extxyz", atoms)
    plain = salt(0)
    plain.info["REF_energy"] = -1.0
    ase.io.write("plain.extxyz", plain)
    before = set(folder.iterdir())
    assert run("--output", "t", *words) == 2
    assert message in capsys.readouterr().err
    assert set(folder.iterdir()) == before
