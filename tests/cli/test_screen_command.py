"""The screen subcommand of the command line."""

from __future__ import annotations

import json

import ase.io
import pytest
from ase import Atoms
from ase.build import bulk

import mace_functional as mf
from mace_functional.cli import main

pytestmark = pytest.mark.usefixtures("screens_in_a_thread")


@pytest.fixture(autouse=True)
def in_a_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def call(*words):
    return main(["screen", *map(str, words), "--model", "embedded", "--output", "out"])


def test_table_and_files_are_what_the_library_gives(tmp_path, capsys):
    ase.io.write("salt.extxyz", bulk("NaCl", "rocksalt", a=5.64))
    ase.io.write("gold.xyz", Atoms("Au"))
    (tmp_path / "dft.csv").write_text("name,cv_250K,cv\nsalt,0.8,0.5\n")
    words = ["--no-relax", "--mesh", 2, 2, 2, "--temperatures", 250, 290]
    references = ["--reference", "dft.csv", "--compare", "cv_250K", "cv@290"]
    assert call("salt.extxyz", "ethanol", "gold.xyz", *words, *references) == 3
    printed = capsys.readouterr()
    salt, ethanol, gold = json.loads((tmp_path / "out" / "table.json").read_text())
    atoms = ase.io.read("salt.extxyz")
    lattice = mf.phonons_of(mf.load_model("embedded"), atoms)
    modes = mf.mesh_modes(lattice, mf.Mesh.of(atoms, (2, 2, 2)))
    capacity = mf.mesh_thermo(modes, 290.0).specific_heat_capacity
    assert salt["heat_capacity_290K_J_per_gK"] == pytest.approx(float(capacity), rel=1e-9)
    assert salt["reference_cv_relative_error"] == pytest.approx(float(capacity) / 0.5 - 1)
    assert ethanol["formula"] == "C2H6O"
    assert ethanol["converged"] is None
    assert "does not know the elements Au" in gold["failure"]
    assert f"{float(capacity):.4f}" in printed.out
    assert "Cv 290 K" in printed.out
    assert "gold failed" in printed.out
    assert "structures: 2 of 3 done, 1 failed" in printed.err
    assert "table.csv" in printed.err.replace("\n", "")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "ethanol" in page
    assert "cv_250K" in page


def test_settings_are_those_of_the_options(tmp_path, capsys):
    words = ["--fixed-cell", "--fmax", 0.01, "--max-steps", 2, "--dtype", "float32", "--no-report"]
    assert call("ethanol", *words, "--memory", 1.5, "--cp") == 0
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["model"] == "embedded"
    assert settings["dtype"] == "float32"
    assert (settings["cell"], settings["relax"], settings["mesh"]) == (False, True, None)
    assert (settings["fmax"], settings["max_steps"]) == (0.01, 2)
    (row,) = json.loads((tmp_path / "out" / "table.json").read_text())
    assert row["gradients"] <= 2
    assert settings["cp"] is True
    printed = capsys.readouterr().out
    assert "ethanol has no Cp: a molecule" in printed
    assert "Cv 300 K        Cp" in printed
    assert not (tmp_path / "out" / "report.html").exists()


def test_large_structures_are_sampled_with_standard_errors(tmp_path, capsys):
    ase.io.write("salt.extxyz", bulk("NaCl", "rocksalt", a=5.6) * (2, 2, 2))
    ase.io.write("cell.extxyz", bulk("NaCl", "rocksalt", a=5.6))
    words = ["--no-relax", "--no-report", "--mesh", 2, 2, 2, "--temperatures", 300, 1000]
    words += ["--stochastic-above", 2, "--rel-error", 1e-4, "--entropy-error", 0.2]
    assert call("salt.extxyz", "cell.extxyz", *words, "--max-products", 47, "--seed", 3) == 0
    printed = capsys.readouterr().out
    salt, cell = json.loads((tmp_path / "out" / "table.json").read_text())
    with pytest.warns(UserWarning, match="the largest relative standard error"):
        found = mf.stochastic_thermo(
            mf.load_model("embedded"),
            ase.io.read("salt.extxyz"),
            [300.0, 1000.0],
            rel_error=1e-4,
            entropy_error=0.2,
            max_products=47,
            seed=3,
        )
    value, error = found.specific_heat_capacity[0], found.heat_capacity_error[0]
    error = 96485.33212 * error / found.mass
    assert salt["heat_capacity_300K_J_per_gK"] == pytest.approx(float(value), rel=1e-9)
    assert salt["heat_capacity_error_300K_J_per_gK"] == pytest.approx(float(error), rel=1e-6)
    assert salt["mesh"] is None
    assert cell["mesh"] == "2x2x2"
    for words in (
        f"{float(value):.4f} ± {float(error):.4f}",
        "random vectors",
        "1 structure: more than 2 atoms, so Γ of the given cell and no mesh",
        "salt is less accurate than asked for: standard errors up to",
    ):
        assert words in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.cif"], "there is no file or folder missing.cif"),
        (["ethanol", "--fmax", 0], "--fmax must be a finite number above"),
        (["ethanol", "--temperatures", -3], "temperatures"),
        (["ethanol", "--mesh", 2, 2, 0], "mesh"),
        (["ethanol", "--head", "b"], "no head 'b'"),
        (["ethanol", "--reference", "dft.csv"], "need each other"),
        (["ethanol", "--reference", "dft.csv", "--compare", "cv"], "has no temperature"),
        (["ethanol", "--reference", "dft.csv", "--compare", "cv@300"], "none of the structures"),
        (["ethanol", "--devices", "cuda:99"], "there is no device cuda:99"),
        (["ethanol", "--devices", "cpu", "cpu", "--workers", 2], "name a device"),
        (["ethanol", "--dask", "local", "--workers", 0], "workers"),
        (["ethanol", "--rel-error", 0.1], "--rel-error needs --stochastic-above"),
        (["ethanol", "--seed", 0], "--seed needs --stochastic-above"),
        (["ethanol", "--stochastic-above", -1], "--stochastic-above must be"),
    ],
)
def test_bad_input_is_explained(words, message, tmp_path, capsys):
    (tmp_path / "dft.csv").write_text("name,cv\nsalt,0.5\n")
    assert call(*words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_exit_code_says_whether_all_structures_have_a_result(capsys):
    ase.io.write("salt.extxyz", bulk("NaCl", "rocksalt", a=5.64))
    ase.io.write("gold.xyz", Atoms("Au"))
    quick = "--no-relax", "--no-report"
    assert call("salt.extxyz", *quick) == 0
    assert "structures: 1 of 1 done, 0 failed" in capsys.readouterr().err
    assert call("gold.xyz", *quick) == 3
    assert "structures: 0 of 1 done, 1 failed" in capsys.readouterr().err
    assert call("gold.xyz", "--fmax", "nan", "--no-report") == 2
    with pytest.raises(SystemExit) as end:
        main(["screen", "--help"])
    assert end.value.code == 0
    assert "3 if some or all failed" in " ".join(capsys.readouterr().out.split())
