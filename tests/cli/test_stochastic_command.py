"""`thermo --stochastic`: what the library computes, and options that contradict it."""

from __future__ import annotations

import json

import ase.io
import pytest
from ase.build import bulk
from helpers import assert_close

import mace_functional as mf
from mace_functional.cli import main

SALT = bulk("NaCl", "rocksalt", a=5.6) * (2, 2, 2)


def test_results_are_those_of_the_library(tmp_path, capsys):
    file, out, passes = (tmp_path / name for name in ("salt.xyz", "out.json", "passes.npz"))
    ase.io.write(file, SALT, format="extxyz")
    words = ["thermo", file, "--model", "embedded", "--stochastic", "--temperatures", 300, 1000]
    words += ["--rel-error", 0.02, "--entropy-error", 0.2, "--max-products", 47, "--seed", 3]
    assert main([str(word) for word in (*words, "--json", out, "--checkpoint", passes)]) == 0
    printed = capsys.readouterr().out
    results = json.loads(out.read_text())
    found = mf.stochastic_thermo(
        mf.load_model("embedded"),
        ase.io.read(file),
        [300.0, 1000.0],
        rel_error=0.02,
        entropy_error=0.2,
        max_products=47,
        seed=3,
    )
    assert results["vectors_per_pass"] == found.n_vectors > 0
    assert results["hessian_vector_products"] == found.n_products
    assert_close(results["heat_capacity_J_per_molK"], found.molar_heat_capacity, 1e-6)
    assert_close(results["heat_capacity_J_per_gK"], found.specific_heat_capacity, 1e-6)
    assert_close(results["entropy_error_J_per_molK"], 96485.33212 * found.entropy_error, 1e-6)
    assert f"{found.n_products} Hessian-vector products" in printed
    assert "± one standard error" in printed
    assert passes.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stochastic", "--mesh", "2", "2", "2"], "--mesh needs all modes"),
        (["--stochastic", "--cp"], "--cp needs all modes"),
        (["--stochastic", "--free", "0"], "--free needs all modes"),
        (["--stochastic", "--gas-pressure", "2"], "--gas-pressure needs all modes"),
        (["--rel-error", "0.1"], "--rel-error needs --stochastic"),
        (["--seed", "0"], "--seed needs --stochastic"),
        (["--checkpoint", "x.npz"], "--checkpoint needs --stochastic"),
        (["--stochastic", "--rel-error", "0"], "--rel-error must be"),
    ],
)
def test_contradicting_options_are_refused(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["thermo", "quartz", "--model", "embedded", *words]) == 2
    assert message in capsys.readouterr().err
