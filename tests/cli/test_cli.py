"""The command line, as a user would call it."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from conftest import shared_file
from helpers import mostly_slow
from models import build

import mace_functional as mf
from mace_functional.cli import main
from mace_functional.cli.thermo_command import VIBRATIONS_ONLY
from mace_functional.structure.examples import STRUCTURES

CRYSTAL = bulk("Si", "diamond", a=4.4) + Atoms("O", [[2.2, 2.1, 1.9]])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "random.model"
    torch.save(build(seed=3), path)
    return path


@pytest.fixture
def crystal(tmp_path):
    path = tmp_path / "crystal.cif"
    ase.io.write(path, CRYSTAL)
    return path


def test_thermo_writes_what_the_library_computes(checkpoint, crystal, tmp_path, capsys):
    out = tmp_path / "out.json"
    words = ["thermo", crystal, "--model", checkpoint, "--temperatures", 0, 300, "--json", out]
    assert main([str(word) for word in words]) == 0
    results = json.loads(out.read_text())
    atoms = ase.io.read(crystal)
    modes = mf.gamma_modes(mf.load_model(checkpoint), atoms)
    with pytest.warns(UserWarning, match="imaginary"):
        thermo = mf.harmonic_thermo(modes, [0.0, 300.0])
    np.testing.assert_allclose(results["frequencies_cm-1"], modes.frequencies, atol=1e-6)
    np.testing.assert_allclose(
        results["heat_capacity_J_per_gK"],
        thermo.specific_heat_capacity(atoms.get_masses().tolist()),
        rtol=1e-9,
    )
    assert results["heat_capacity_J_per_gK"][0] == 0 < results["heat_capacity_J_per_gK"][1]
    assert results["rigid_motions_removed"] == 3
    assert results["part_of_thermodynamics"] is None
    assert results["imaginary_modes"] == modes.n_imaginary > 0
    assert results["acoustic_sum_residual_eV_per_A2"] < 1e-10
    printed = capsys.readouterr().out
    assert "J/(g K)" in printed
    assert "300.00" in printed
    assert "imaginary modes, left out of the sums" in printed


def test_thermo_with_cp_writes_what_the_library_computes(tmp_path, capsys):
    path, out = tmp_path / "silicon.cif", tmp_path / "out.json"
    model = mf.load_model("embedded")
    ase.io.write(path, mf.relax(model, bulk("Si", "diamond", a=5.46), symmetry=True).atoms)
    words = ["thermo", path, "--model", "embedded", "--cp", "--temperatures", 100, 300]
    assert main([str(word) for word in [*words, "--json", out]]) == 0
    results = json.loads(out.read_text())
    atoms = ase.io.read(path)
    expected = mf.thermal_expansion(model, atoms, [100, 300], mesh=(1, 1, 1))
    cp = results["heat_capacity_at_constant_pressure_J_per_gK"]
    np.testing.assert_allclose(cp, expected.specific_cp, rtol=1e-9)
    np.testing.assert_allclose(results["heat_capacity_J_per_gK"], expected.specific_cv, rtol=1e-9)
    np.testing.assert_allclose(results["thermal_expansion_per_K"], expected.expansion, atol=1e-12)
    printed = capsys.readouterr().out
    assert f"{cp[1]:.4f}" in printed
    assert "thermal expansion at 300 K" in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_cp_of_a_molecule_is_refused(capsys):
    assert main(["thermo", "ethanol", "--model", "embedded", "--cp"]) == 2
    assert "--cp needs a crystal" in capsys.readouterr().err


def test_thermo_of_a_molecule_removes_rotations_too(checkpoint, tmp_path, capsys):
    path, out = tmp_path / "water.xyz", tmp_path / "out.json"
    ase.io.write(path, molecule("H2O"))
    words = ["thermo", path, "--model", checkpoint, "--relax", "--fmax", "0.0005", "--json", out]
    assert main([str(word) for word in words]) == 0
    results = json.loads(out.read_text())
    assert results["rigid_motions_removed"] in (5, 6)
    assert results["largest_stress_GPa"] is None
    assert results["relaxation"]["converged"]
    assert results["relaxation"]["cell_relaxed"] is False
    assert results["largest_force_eV_per_A"] <= 0.0005
    assert results["part_of_thermodynamics"] == VIBRATIONS_ONLY
    assert VIBRATIONS_ONLY in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("words", "functional"), [([], "pbe"), (["revPBE"], "revPBE")])
def test_dispersion_is_that_of_the_functional_named(words, functional, tmp_path):
    pytest.importorskip("tad_dftd3")
    out = tmp_path / "out.json"
    arguments = ["thermo", "benzene", "--model", "embedded", "--json", out, "--dispersion", *words]
    assert main([str(word) for word in arguments]) == 0
    results = json.loads(out.read_text())
    atoms = mf.example_structure("benzene")
    model = mf.load_model("embedded", dispersion=functional)
    atoms.calc = mf.MaceCalculator(model)
    assert results["energy_eV"] == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    assert results["dispersion"] == functional
    frequencies = mf.gamma_modes(model, atoms).frequencies
    np.testing.assert_allclose(results["frequencies_cm-1"], frequencies, atol=1e-6)


def test_relaxation_is_written_and_continued(checkpoint, crystal, tmp_path, capsys):
    relaxed, out = tmp_path / "relaxed.extxyz", tmp_path / "out.json"
    words = [
        *("thermo", str(crystal), "--model", str(checkpoint), "--relax", "--max-steps", "3"),
        *("--relaxed", str(relaxed), "--json", str(out)),
    ]
    main(words)
    first = json.loads(out.read_text())
    assert first["relaxation"]["steps"] == 3
    assert not first["relaxation"]["converged"]
    np.testing.assert_allclose(ase.io.read(relaxed).positions, first["positions_A"], atol=1e-7)
    main(words)
    second = json.loads(out.read_text())
    assert "continuing from" in capsys.readouterr().err.replace("\n", " ")
    assert second["energy_eV"] < first["energy_eV"]

    ase.io.write(relaxed, molecule("H2O"))
    assert main(words) == 2
    assert "another structure" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "known"), [("Quartz", "quartz"), ("ETHANOL", "ethanol")])
def test_structure_and_model_that_come_with_the_package_are_known_by_name(
    name, known, tmp_path, monkeypatch, capsys
):
    (tmp_path / name).mkdir()  # a folder is no structure
    monkeypatch.chdir(tmp_path)
    assert main(["thermo", name, "--model", "embedded", "--json", "out.json"]) == 0
    results = json.loads((tmp_path / "out.json").read_text())
    assert (results["file"], results["model"]) == (name, "embedded")
    atoms = mf.example_structure(known)
    modes = mf.gamma_modes(mf.load_model("embedded"), atoms)
    np.testing.assert_allclose(results["frequencies_cm-1"], modes.frequencies, atol=1e-6)
    assert results["numbers"] == atoms.numbers.tolist()


def test_file_goes_before_a_structure_of_its_name(checkpoint, tmp_path, monkeypatch):
    ase.io.write(tmp_path / "ethanol", molecule("H2O"), format="extxyz")
    monkeypatch.chdir(tmp_path)
    assert main(["thermo", "ethanol", "--model", str(checkpoint), "--json", "out.json"]) == 0
    assert json.loads((tmp_path / "out.json").read_text())["formula"] == "H2O"


@pytest.mark.parametrize("name", mostly_slow(["f.png", "f.PDF", "f.svg"], ["f.PDF"]))
def test_figure_is_drawn(name, checkpoint, crystal, tmp_path):
    words = ["thermo", crystal, "--model", checkpoint, "--figure", tmp_path / name]
    assert main([str(word) for word in words]) == 0
    start = {"f.png": b"\x89PNG", "f.PDF": b"%PDF", "f.svg": b"<?xml"}[name]
    assert (tmp_path / name).read_bytes().startswith(start)
    assert not list(tmp_path.glob(".partial*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["thermo", "missing.cif", "--model", "MODEL"], "there is no file missing.cif"),
        (["thermo", "qartz", "--model", "MODEL"], "package: quartz, sodalite, MOF-5, ethanol, ben"),
        (["thermo", "BAD", "--model", "MODEL"], "it is not a CIF"),
        (["thermo", "FILE", "--model", "smal"], "did you mean 'small'"),
        (["thermo", "FILE", "--model", "FILE"], "not a mace-torch checkpoint"),
        (["thermo", "FILE", "--model", "MODEL", "--temperatures", "-3"], "temperatures"),
        (["thermo", "FILE", "--model", "MODEL", "--relaxed", "x.xyz"], "--relaxed needs --relax"),
        (["thermo", "FILE", "--model", "MODEL", "--json", "no/such/x.json"], "there is no folder"),
        (
            ["thermo", "FILE", "--model", "MODEL", "--figure", "x.gif"],
            ".png, .pdf, .svg, not x.gif",
        ),
        (["thermo", "FILE", "--model", "MODEL", "--figure", "no/x.pdf"], "there is no folder"),
        (["thermo", "FILE", "--model", "MODEL", "--head", "b"], "no head 'b'"),
        (
            ["thermo", "FILE", "--model", "MODEL", "--fmax", "0"],
            "--fmax must be a finite number above",
        ),
        (["thermo", "GOLD", "--model", "MODEL"], "does not know the elements Au"),
    ],
)
def test_bad_input_is_explained(checkpoint, crystal, tmp_path, capsys, words, message):
    (tmp_path / "bad.cif").write_text("nonsense")
    ase.io.write(tmp_path / "gold.xyz", Atoms("Au2", [[0, 0, 0], [0, 0, 2.6]]))
    names = {
        "FILE": crystal,
        "MODEL": checkpoint,
        "BAD": tmp_path / "bad.cif",
        "GOLD": tmp_path / "gold.xyz",
    }
    assert main([str(names.get(word, word)) for word in words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_bad_figure_is_refused_before_anything_is_computed(checkpoint, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("the options are bad")

    monkeypatch.setattr("mace_functional.cli.loaded_models.load_model", forbidden)
    for figure in "f.gif", "f", "no/such/f.png":
        assert main(["thermo", "quartz", "--model", str(checkpoint), "--figure", figure]) == 2


def test_the_program_is_installed_and_explains_itself():
    run = subprocess.run(
        [sys.executable, "-c", "from mace_functional.cli import main; main(['--help'])"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "thermo" in run.stdout


def test_help_begins_with_a_line_that_runs(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    (line,) = re.findall(
        r"^  mace-functional (thermo .* --model .*)$", capsys.readouterr().out, re.M
    )
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 0
    with pytest.raises(SystemExit):
        main(["thermo", "--help"])
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in STRUCTURES)


def test_version(capsys):
    with pytest.raises(SystemExit) as done:
        main(["--version"])
    assert done.value.code == 0
    assert capsys.readouterr().out == f"mace-functional {mf.__version__}\n"


@pytest.mark.slow
def test_heat_capacity_of_a_relaxed_framework(tmp_path):
    """RSM0010 with MACE-MP-0 small: 0.7329 J/(g K) at 300 K by mace-torch and ASE."""
    out = tmp_path / "out.json"
    structure = shared_file("heatcapacity", "structures", "RSM0010.cif")
    weights = shared_file("weights", "MACE-MP-0_small.model")
    words = ["thermo", structure, "--model", weights, "--relax", "--json", out]
    assert main([str(word) for word in words]) == 0
    results = json.loads(out.read_text())
    room = results["temperatures_K"].index(300.0)
    assert results["heat_capacity_J_per_gK"][room] == pytest.approx(0.7329, abs=0.002)
    assert results["rigid_motions_removed"] == 3
    assert results["imaginary_modes"] == 0


def test_a_molecule_whose_images_feel_dispersion_is_told_to_be_nearly_free(tmp_path, capsys):
    # Along the axes of the box, where D3 has a minimum by rotation.
    atoms = [[7, 7, 7.119], [7, 7.763, 6.523], [7, 6.237, 6.523]]
    water = Atoms("OH2", atoms, cell=[15, 15, 15], pbc=True)
    path = tmp_path / "water.extxyz"
    water.write(path)
    line = ["thermo", str(path), "--model", "embedded", "--relax", "--fixed-cell"]
    assert main([*line, "--fmax", "1e-5", "--dispersion"]) == 0
    assert "below 5 cm-1" in " ".join(capsys.readouterr().out.split())
    assert main([*line, "--fmax", "1e-5"]) == 0
    assert "below 5 cm-1" not in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ([], "add --relax"),
        (["--relax", "--max-steps", "1"], "allow more steps (--max-steps)"),
        (["--relax", "--fmax", "5"], "lower --fmax"),
    ],
)
def test_advice_for_a_structure_with_forces_is_nothing_that_was_done(
    options, advice, tmp_path, capsys
):
    water = molecule("H2O")
    water.rattle(0.05, seed=1)
    path = tmp_path / "water.xyz"
    water.write(path)
    assert main(["thermo", str(path), "--model", "embedded", *options]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert f"not relaxed, so frequencies are not reliable: {advice}" in out
