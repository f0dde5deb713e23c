"""Gamma alone and meshes on the command line: what is printed, what is kept, what is refused."""

from __future__ import annotations

import json

import pytest
from ase.build import bulk

import mace_functional as mf
from mace_functional.cli import main
from mace_functional.phonons import converged_mesh_thermo, mesh_size, phonons_of
from mace_functional.units import EV_PER_MOLECULE, K_B


@pytest.fixture
def salt(tmp_path):
    path = tmp_path / "salt.cif"
    bulk("NaCl", "rocksalt", a=5.64).write(path)
    return path


def thermo(file, *words):
    out = file.with_suffix(".json")
    code = main(["thermo", str(file), "--model", "embedded", "--json", str(out), *words])
    assert code == 0
    return json.loads(out.read_text())


def test_thermo_says_how_much_gamma_alone_leaves_out(salt, capsys):
    found = thermo(salt, "--temperatures", "100", "300")
    missing = found["missing_at_gamma"]
    assert missing["acoustic_modes"] == 3
    assert missing["at_most_J_per_molK"] == pytest.approx(3 * K_B * EV_PER_MOLECULE)
    about, known = missing["about_J_per_gK"][1], found["heat_capacity_J_per_gK"][1]
    assert about == pytest.approx(0.417, abs=0.002)
    assert missing["share"][1] == pytest.approx(about / (about + known), rel=1e-6)
    assert missing["share"][1] == pytest.approx(0.507, abs=0.003)
    assert len(missing["acoustic_edges_cm-1"]) == 3
    assert missing["no_estimate_because"] is None
    words = " ".join(capsys.readouterr().out.split())
    assert "sampling Gamma alone" in words
    assert "Gamma alone leaves out 3 acoustic modes per cell: about" in words
    assert f"about {missing['about_J_per_gK'][1]:.4f} J/(g K) at 300 K" in words
    assert f"300 K, {100 * missing['share'][1]:.1f} % of the total" in words
    assert "at most 0.4268; average over a mesh with --mesh auto" in words
    assert "missing" in words


def test_thermo_of_a_molecule_leaves_nothing_out(tmp_path, capsys):
    file = tmp_path / "ethanol.xyz"
    mf.example_structure("ethanol").write(file)
    assert thermo(file)["missing_at_gamma"] is None
    assert "Gamma" not in capsys.readouterr().out


def test_mesh_auto_is_refined_until_the_heat_capacity_has_converged(salt, capsys):
    found = thermo(salt, "--mesh", "auto", "--mesh-tolerance", "0.01", "--temperatures", "300")
    atoms = bulk("NaCl", "rocksalt", a=5.64)
    expected = converged_mesh_thermo(
        phonons_of(mf.load_model("embedded"), atoms), [300.0], tolerance=0.01
    )
    assert tuple(found["mesh"]["size"]) == expected.size
    convergence = found["mesh_convergence"]
    assert convergence["converged"]
    assert [tuple(m["size"]) for m in convergence["meshes"]] == [s.size for s in expected.steps]
    assert found["heat_capacity_J_per_gK"] == pytest.approx([0.82], abs=0.01)
    assert found["missing_at_gamma"] is None
    words = " ".join(capsys.readouterr().out.split())
    assert "2 x 2 x 2 mesh: 8 wave vectors, 3 inequivalent: Cv" in words
    assert "converged to 0.01" in words


def test_options_of_a_mesh_leave_the_file_alone(salt, capsys):
    out = salt.with_suffix(".json")
    words = ["--model", "embedded", "--temperatures", "300", "--json", str(out)]
    assert main(["thermo", *words, "--mesh-spacing", "1.0", str(salt)]) == 0
    atoms = bulk("NaCl", "rocksalt", a=5.64)
    assert tuple(json.loads(out.read_text())["mesh"]["size"]) == mesh_size(atoms, 1.0)
    assert main(["thermo", *words, "--mesh", "2", "2", "2", str(salt)]) == 0
    assert json.loads(out.read_text())["mesh"]["size"] == [2, 2, 2]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--mesh", "auto", "--mesh-spacing", "0.2"], "exclude each other"),
        (["--mesh-tolerance", "0.1"], "needs --mesh auto"),
        (["--mesh-spacing", "0"], "--mesh-spacing must be a finite number above zero"),
        (["--mesh-spacing", "1e-7"], "choose a larger spacing"),
        (["--mesh", "fine"], "three positive integers"),
        (["--mesh", "auto", "--mesh-tolerance", "-1"], "above zero"),
        (["--mesh", "auto", "--free", "0"], "--mesh needs all atoms free"),
    ],
)
@pytest.mark.parametrize("subcommand", ["thermo", "screen"])
def test_bad_options_of_a_mesh_are_refused(salt, tmp_path, capsys, subcommand, words, reason):
    more = [] if subcommand == "thermo" else ["--output", str(tmp_path / "out")]
    if subcommand == "screen" and ("--free" in words or "1e-7" in words):
        return
    assert main([subcommand, str(salt), "--model", "embedded", *more, *words]) == 2
    assert reason in " ".join(capsys.readouterr().err.split())


def test_molecule_has_no_mesh(tmp_path, capsys):
    file = tmp_path / "ethanol.xyz"
    mf.example_structure("ethanol").write(file)
    assert main(["thermo", str(file), "--model", "embedded", "--mesh", "auto"]) == 2
    assert "a mesh needs a crystal" in capsys.readouterr().err


@pytest.mark.usefixtures("screens_in_a_thread")
def test_screen_prints_what_gamma_lacks_or_the_mesh(salt, tmp_path, capsys):
    words = ["screen", str(salt), "--model", "embedded", "--no-relax"]
    words += ["--temperatures", "300", "--output", str(tmp_path / "out")]
    assert main([*words, "--no-report"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "salt" in line)
    assert "Γ" in line
    assert " 50." in line
    assert main([*words, "--no-report", "--mesh", "auto", "--mesh-tolerance", "0.02"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "salt" in line)
    assert "x" in line.split()[3]
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert (settings["mesh"], settings["mesh_tolerance"]) == ("auto", 0.02)
    assert settings["mesh_temperature"] == 200
