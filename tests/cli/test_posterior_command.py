"""`mace-functional posterior` and `thermo --uncertainty`, as a user would call them."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import pytest
import torch
from ase import Atoms
from ase.build import bulk

import mace_functional as mf
from mace_functional.cli import main
from mace_functional.training import labelled_by
from mace_functional.uncertainty import WeightPosterior, uncertain_thermo


def salt(seed: int) -> Atoms:
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    atoms.rattle(0.1, seed=seed)
    return atoms


@pytest.fixture(scope="module")
def files(model, tmp_path_factory) -> Path:
    """Labels of the embedded model with other readouts: data, and others to calibrate on."""
    folder = tmp_path_factory.mktemp("posterior")
    generator = torch.Generator().manual_seed(0)
    name = "readouts.1.linear_2.weight"
    p = model.params[name]
    changed = p + 0.1 * torch.randn(p.shape, generator=generator).to(p)
    teacher = model.with_params({**model.params, name: changed})
    for kind, seeds in (("data", range(4)), ("held", range(10, 13))):
        frames = []
        for labelled in labelled_by(teacher, map(salt, seeds), directions=0):
            atoms = labelled.atoms.copy()
            atoms.info |= {"REF_energy": labelled.energy, "REF_stress": labelled.stress}
            atoms.arrays["REF_forces"] = labelled.forces
            frames.append(atoms)
        ase.io.write(folder / f"{kind}.extxyz", frames)
    ase.io.write(folder / "salt.cif", bulk("NaCl", "rocksalt", a=5.6))
    return folder


def posterior(files: Path, *more: object) -> int:
    words = ["posterior", files / "data.extxyz", "--model", "embedded", "--output", files / "p.npz"]
    return main([*map(str, words), *map(str, more)])


def test_from_labels_to_error_bars(files, model, capsys):
    held = files / "held.extxyz"
    assert posterior(files, "--calibration", held, "--json", files / "p.json") == 0
    printed = capsys.readouterr().out
    assert "3 structures, calibrated on forces" in printed
    report = json.loads((files / "p.json").read_text())
    assert report["rms_z"]["forces"] == pytest.approx(1)
    assert report["structures"] == 4
    distribution = WeightPosterior.load(files / "p.npz")
    assert list(distribution.names) == report["weights"]

    words = [files / "salt.cif", "--model", "embedded", "--temperatures", 300, "--no-relax"]
    words += ["--uncertainty", files / "p.npz", "--json", files / "thermo.json", "--mesh", 2, 1, 1]
    assert main(["thermo", *map(str, words)]) == 0
    printed = capsys.readouterr().out
    assert "Standard deviations from those of the weights" in printed
    found = json.loads((files / "thermo.json").read_text())["standard_deviations"]
    atoms = ase.io.read(files / "salt.cif")
    expected = uncertain_thermo(model, atoms, distribution, [300.0], mesh=(2, 1, 1)).spread
    assert found["free_energy_eV"] == pytest.approx(expected.free_energy.tolist(), rel=1e-6)
    assert found["heat_capacity_J_per_gK"][0] > 0
    assert found["response"] == "ions"


def test_a_fraction_of_the_data_calibrates_and_names_choose_weights(files, capsys):
    assert posterior(files, "--fraction", 0.5, "--weights", "readouts.1.linear_2*") == 0
    assert "2 structures, calibrated on forces" in capsys.readouterr().out
    assert WeightPosterior.load(files / "p.npz").names == ("readouts.1.linear_2.weight",)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--weights", "nothing"], "no weights 'nothing'"),
        (["--kind", "product"], "no labels 'product' to calibrate on"),
        (["--forces-key", "other"], "no labels 'forces' to calibrate on"),
    ],
)
def test_bad_input_of_the_posterior_is_an_error(files, words, message, capsys):
    assert posterior(files, *words) == 2
    assert message in capsys.readouterr().err


def test_files_of_an_ensemble_give_error_bars(files, model, capsys):
    name = "readouts.1.linear_2.weight"
    generator = torch.Generator().manual_seed(0)
    members, paths = [], [files / f"member-{k}.safetensors" for k in range(3)]
    for path in paths:
        p = model.params[name]
        changed = p + 0.01 * torch.randn(p.shape, generator=generator).to(p)
        members.append(model.with_params({**model.params, name: changed}))
        mf.save_model(members[-1], path)
    words = [files / "salt.cif", "--model", "embedded", "--temperatures", 300, "--no-relax"]
    words += ["--json", files / "thermo.json", "--mesh", 2, 1, 1, "--uncertainty", *paths]
    assert main(["thermo", *map(str, words)]) == 0
    assert "tensors of weights" in capsys.readouterr().out
    found = json.loads((files / "thermo.json").read_text())["standard_deviations"]
    atoms = ase.io.read(files / "salt.cif")
    energies = [
        mf.mesh_thermo(
            mf.mesh_modes(mf.phonons_of(m, atoms), mf.Mesh.of(atoms, (2, 1, 1))), [300.0]
        ).thermo.free_energy[0]
        for m in members
    ]
    assert found["free_energy_eV"][0] == pytest.approx(float(torch.stack(energies).std()), rel=0.05)


def test_error_bars_that_cannot_be_are_an_error(files, capsys):
    assert posterior(files) == 0
    bars = ["--uncertainty", str(files / "p.npz"), "--temperatures", "300"]
    assert main(["thermo", "ethanol", "--model", "embedded", *bars]) == 2
    assert "is for a crystal" in capsys.readouterr().err
    other = mf.load_model("embedded")
    name = "readouts.1.linear_2.weight"
    mf.save_model(
        other.with_params({**other.params, name: 1.01 * other.params[name]}),
        files / "other.safetensors",
    )
    words = [str(files / "salt.cif"), "--model", str(files / "other.safetensors"), "--no-relax"]
    assert main(["thermo", *words, *bars]) == 2
    assert "are not those for which the posterior was made" in capsys.readouterr().err
    bars[1] = str(files / "salt.cif")
    assert main(["thermo", str(files / "salt.cif"), "--model", "embedded", *bars]) == 2
    assert "no file of WeightPosterior.save" in capsys.readouterr().err
