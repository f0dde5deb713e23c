"""`mace-functional elastic`, as a user would call it."""

from __future__ import annotations

import json

import ase.io
import numpy as np
import pytest
from ase.build import bulk, graphene, molecule
from ase.constraints import FixAtoms

import mace_functional as mf
from mace_functional.cli import main


def run(*words: object) -> int:
    return main(["elastic", *map(str, words), "--model", "embedded"])


def test_a_crystal_is_relaxed_and_its_constants_are_those_of_the_library(tmp_path, capsys, model):
    file, out = tmp_path / "si.xyz", tmp_path / "out.json"
    ase.io.write(file, bulk("Si", "diamond", a=5.5))
    assert run(file, "--json", out, "--directions", 1, 0, 0, 1, 1, 1) == 0
    results = json.loads(out.read_text())
    found = results["elasticity"]
    atoms = mf.relax(model, ase.io.read(file)).atoms
    expected = mf.elastic_constants(model, atoms)
    np.testing.assert_allclose(found["stiffness"], expected.stiffness, atol=1e-3)
    np.testing.assert_allclose(found["clamped_stiffness"], expected.clamped_stiffness, atol=1e-3)
    speeds = expected.sound_velocities([[1, 0, 0], [1, 1, 1]])
    np.testing.assert_allclose(found["sound_velocities_km_per_s"], speeds, rtol=1e-4)
    assert found["debye_temperature_K"] == pytest.approx(expected.debye_temperature, rel=1e-4)
    assert found["hill"]["bulk"] == pytest.approx(float(expected.hill.bulk), rel=1e-4)
    assert found["unit"] == "GPa"
    assert found["warnings"] == []
    assert results["relaxation"]["converged"]
    printed = capsys.readouterr().out
    for words in ("relaxed ions", "clamped ions", "Voigt", "Debye temperature", "stable", "1 1 1"):
        assert words in printed


def test_a_slab_and_a_cell_under_stress(tmp_path):
    file, out, figure = (tmp_path / name for name in ("c.traj", "out.json", "young.png"))
    ase.io.write(file, graphene(a=2.6, vacuum=6))
    with pytest.warns(UserWarning, match="the cell carries a stress"):
        assert run(file, "--no-relax", "--json", out, "--figure", figure) == 0
    found = json.loads(out.read_text())["elasticity"]
    assert found["unit"] == "N/m"
    assert np.shape(found["stiffness"]) == (3, 3)
    assert "debye_temperature_K" not in found
    assert "the cell carries a stress" in found["warnings"][0]
    assert figure.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("atoms", "words", "message"),
    [
        (molecule("H2O"), [], "is a molecule, periodic in no direction"),
        (graphene(vacuum=6), ["--pressure", "1"], "--pressure is for crystals"),
        (bulk("Si"), ["--pressure", "1", "--fixed-cell"], "needs a cell that can relax"),
        (bulk("Si"), ["--directions", "1,0"], "directions are three numbers each"),
        (bulk("Si"), ["--directions", "0,0,0"], "directions are three numbers each"),
        (bulk("Si"), ["--no-relax", "--fmax", "0.1"], "--fmax needs --relax"),
    ],
)
def test_bad_input_gets_a_sentence(atoms, words, message, tmp_path, capsys):
    file = tmp_path / "atoms.traj"
    ase.io.write(file, atoms)
    assert run(file, *words) == 2
    assert message in capsys.readouterr().err


def test_held_atoms_are_refused(tmp_path, capsys):
    atoms = bulk("Si")
    atoms.set_constraint(FixAtoms([0]))
    ase.io.write(tmp_path / "held.traj", atoms)
    assert run(tmp_path / "held.traj") == 2
    assert "elastic" in capsys.readouterr().err
