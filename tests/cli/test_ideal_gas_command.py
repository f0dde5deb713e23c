"""The ideal gas of a molecule on the command line: what is printed, kept and refused."""

from __future__ import annotations

import json

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

import mace_functional as mf
from mace_functional.cli import main

WATER = """3

O 0 0 0.119
D 0 0.763 -0.477
H 0 -0.763 -0.477
"""


@pytest.fixture(scope="module")
def water(tmp_path_factory):
    """Half-heavy water, relaxed with the embedded model."""
    folder = tmp_path_factory.mktemp("water")
    path = folder / "water.extxyz"
    (folder / "given.xyz").write_text(WATER)
    atoms = mf.read_structure(folder / "given.xyz")
    relaxed = mf.relax(mf.load_model("embedded"), atoms, fmax=1e-4).atoms
    ase.io.write(path, relaxed)
    return path


def thermo(file, capsys, *words):
    out = file.with_suffix(".json")
    code = main(["thermo", str(file), "--model", "embedded", "--json", str(out), *words])
    assert code == 0
    return json.loads(out.read_text()), " ".join(capsys.readouterr().out.split())


def test_gibbs_energy_of_a_molecule_is_that_of_the_library(water, capsys):
    words = ("--temperatures", "0", "300", "--gas-pressure", "0.5", "--multiplicity", "3")
    results, printed = thermo(water, capsys, *words)
    gas = results["ideal_gas"]
    model, atoms = mf.load_model("embedded"), mf.read_structure(water)
    expected = mf.ideal_gas_thermo(model, atoms, [300.0, 298.15], pressure=0.5, multiplicity=3)
    standard = gas["standard"]
    found = [*gas["gibbs_energy_eV"], standard["gibbs_energy_eV"]]
    np.testing.assert_allclose(found, expected.gibbs_energy, atol=1e-8)
    np.testing.assert_allclose(
        [*gas["entropy_J_per_molK"], standard["entropy_J_per_molK"]],
        expected.molar_entropy,
        rtol=1e-8,
    )
    assert gas["temperatures_K"] == [300.0]
    assert gas["symmetry_number"] == 1
    assert gas["symmetry_number_found"]
    assert gas["top"] == "asymmetric top"
    parts = [k for k in standard if k.endswith("_entropy_J_per_molK")]
    assert sum(standard[k] for k in parts) == pytest.approx(standard["entropy_J_per_molK"])
    assert "Ideal gas at 0.5 bar, per molecule" in printed
    assert "asymmetric top, symmetry number 1 (found), multiplicity 3" in printed
    assert f"G(298.15 K, 0.5 bar) = {standard['gibbs_energy_eV']:.6f} eV" in printed


def test_symmetry_number_and_rotors_are_those_given(water, capsys):
    results, printed = thermo(
        water,
        capsys,
        *("--symmetry-number", "2", "--rotor-cutoff", "3000", "--rotor-energies"),
    )
    gas = results["ideal_gas"]
    atoms = mf.read_structure(water)
    expected = mf.ideal_gas_thermo(
        mf.load_model("embedded"),
        atoms,
        298.15,
        symmetry_number=2,
        rotor_cutoff=3000.0,
        rotor_energies=True,
    )
    assert gas["standard"]["enthalpy_eV"] == pytest.approx(float(expected.enthalpy), abs=1e-8)
    assert gas["rotor_cutoff_cm-1"] == 3000
    assert "symmetry number 2, multiplicity 1" in printed
    assert "S, H and Cp of soft vibrations" in printed
    assert "G(298.15 K, 1 bar)" in printed


def test_structures_without_an_ideal_gas(tmp_path, water, capsys):
    results, printed = thermo(water, capsys, "--free", "1-2")
    assert results["ideal_gas"] is None
    assert "deal gas" not in printed
    stretched = molecule("H2O")
    stretched.positions[1:] *= 1.6
    ase.io.write(tmp_path / "stretched.xyz", stretched)
    results, printed = thermo(tmp_path / "stretched.xyz", capsys)
    assert results["imaginary_modes"] > 0
    assert set(results["ideal_gas"]) == {"refused_because"}
    assert "imaginary modes, so that the structure is no minimum" in printed
    assert "no ideal gas: " in printed


def test_transition_state_of_ammonia(tmp_path, capsys):
    turns = 2 * np.pi / 3 * np.arange(3)
    hydrogens = np.column_stack([np.cos(turns), np.sin(turns), 0 * turns])
    ase.io.write(tmp_path / "planar.xyz", Atoms("NH3", [[0, 0, 0], *hydrogens]))
    results, printed = thermo(tmp_path / "planar.xyz", capsys)
    assert "--transition-state for a saddle point with one" in printed
    results, printed = thermo(tmp_path / "planar.xyz", capsys, "--transition-state")
    gas = results["ideal_gas"]
    assert results["imaginary_modes"] == 1
    assert gas["symmetry_number"] == 6
    assert "transition state: the imaginary mode is left out" in printed
    zero_point = results["zero_point_energy_eV"]
    kinetic = 4 * 8.617333e-5 * 298.15
    vibrations = gas["standard"]["enthalpy_eV"] - results["energy_eV"] - zero_point - kinetic
    assert 0 < vibrations < 0.01


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["water", "--symmetry-number", "0"], "a whole number of at least 1, not 0"),
        (["water", "--gas-pressure", "101325"], "up to 1000 in bar (1e5 Pa)"),
        (["water", "--rotor-energies"], "--rotor-energies needs --rotor-cutoff"),
        (["quartz", "--multiplicity", "2"], "quartz is periodic along 3 directions"),
        (["water", "--free", "0", "--transition-state"], "2 of 3 atoms are fixed"),
    ],
)
def test_options_that_do_not_fit_are_refused(words, message, tmp_path, monkeypatch, capsys):
    (tmp_path / "water").with_suffix(".xyz").write_text(WATER)
    name, *options = words
    monkeypatch.chdir(tmp_path)
    file = "water.xyz" if name == "water" else name
    assert main(["thermo", file, "--model", "embedded", *options]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
