"""The phonons subcommand of the command line, and thermodynamics on a mesh."""

from __future__ import annotations

import json

import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk

import mace_functional as mf
from mace_functional.cli import main
from mace_functional.interop.phonopy import from_phonopy
from mace_functional.phonons import Mesh, phonons_of
from mace_functional.support.defaults import MESH_SPACING

pytest.importorskip("phonopy")

SALT = bulk("NaCl", "rocksalt", a=5.64)


@pytest.fixture
def salt(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ase.io.write("salt.extxyz", SALT)


@pytest.fixture(scope="module")
def lattice():
    return phonons_of(mf.load_model("embedded"), SALT)


def call(*words):
    return main(["phonons", "salt.extxyz", "--model", "embedded", *map(str, words)])


@pytest.mark.usefixtures("salt")
def test_results_are_those_of_the_library(lattice, tmp_path, capsys):
    words = ["--path", "GXK,GL", "--points", 20, "--mesh", 3, 3, 3, "--unit", "cm-1"]
    outputs = ["--json", "o.json", "--npz", "o.npz", "--phonopy", "o.yaml", "--figure", "o.png"]
    assert call(*words, *outputs, "--supercell", 2, 2, 2, "--temperatures", 0, 300) == 0
    results = json.loads((tmp_path / "o.json").read_text())
    for part in results["bands"], results["mesh"]:
        for q, frequencies in zip(part["q"], part["frequencies"], strict=True):
            matrix = lattice.dynamical_matrix(torch.tensor(q, dtype=torch.float64))
            np.testing.assert_allclose(mf.frequencies(matrix), frequencies, atol=1e-3)
    assert [name for _, name in results["bands"]["labels"]] == ["Γ", "X", "K", "Γ", "L"]
    assert results["mesh"]["size"] == [3, 3, 3]
    assert sum(results["mesh"]["weights"]) == pytest.approx(1)
    assert set(results["density_of_states"]["per_element"]) == {"Na", "Cl"}
    assert results["diagnostics"]["acoustic_sum_residual_eV_per_A2"] < 1e-10
    assert results["unit"] == "cm-1"

    with np.load("o.npz") as arrays:
        frequencies, vectors = arrays["mesh_frequencies"], arrays["mesh_eigenvectors"]
        q = arrays["mesh_q"][-1]
    np.testing.assert_allclose(frequencies, results["mesh"]["frequencies"])
    matrix = lattice.dynamical_matrix(torch.as_tensor(q)).numpy()
    last = vectors[-1, -1].reshape(-1)
    rayleigh = (last.conj() @ matrix @ last).real
    ours = mf.frequencies(torch.tensor([[rayleigh]]))
    assert float(ours) == pytest.approx(frequencies[-1, -1], rel=1e-9)

    read = from_phonopy("o.yaml")
    q = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    torch.testing.assert_close(
        mf.frequencies(read.dynamical_matrix(q)), mf.frequencies(lattice.dynamical_matrix(q))
    )
    assert (tmp_path / "o.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob(".partial*"))
    printed = capsys.readouterr()
    assert "acoustic-sum-rule residual" in printed.out
    assert "imaginary modes on the path: none" in printed.out
    assert "wrote o.json and o.npz and o.yaml and o.png" in printed.err.replace("\n", " ")


@pytest.mark.usefixtures("salt")
def test_heat_capacity_on_a_mesh_is_that_of_phonopy(capsys):
    """With its mesh, which holds Gamma, and its sums; both leave the acoustic modes out there."""
    assert (
        call(
            "--path",
            "GX",
            "--mesh",
            3,
            3,
            3,
            "--phonopy",
            "o.yaml",
            "--json",
            "o.json",
            "--supercell",
            3,
            3,
            3,
            "--temperatures",
            100,
            300,
        )
        == 0
    )
    import phonopy

    theirs = phonopy.load("o.yaml")
    theirs.run_mesh([3, 3, 3], is_gamma_center=True)
    theirs.run_thermal_properties(temperatures=[100, 300], cutoff_frequency=1e-2)
    expected = theirs.get_thermal_properties_dict()
    for arguments in [], ["thermo"]:
        if arguments:
            words = ["thermo", "salt.extxyz", "--model", "embedded", "--mesh", "3", "3", "3"]
            assert main([*words, "--temperatures", "100", "300", "--json", "o.json"]) == 0
        with open("o.json") as file:
            results = json.load(file)
        np.testing.assert_allclose(
            results["heat_capacity_J_per_molK"], expected["heat_capacity"], rtol=1e-4
        )
        np.testing.assert_allclose(results["entropy_J_per_molK"], expected["entropy"], rtol=1e-4)
        assert results["mesh"]["size"] == [3, 3, 3]


@pytest.mark.usefixtures("salt")
def test_mesh_that_is_not_given_is_fine(tmp_path):
    assert call("--path", "GX", "--points", 2, "--json", "o.json") == 0
    size = json.loads((tmp_path / "o.json").read_text())["mesh"]["size"]
    steps = 2 * np.pi * np.linalg.norm(SALT.cell.reciprocal(), axis=1) / size
    assert (steps <= MESH_SPACING).all()
    assert (steps > 0.9 * MESH_SPACING).all()


@pytest.mark.usefixtures("salt")
def test_finite_differences_are_seen_to_converge(tmp_path, capsys):
    words = ["--path", "GX", "--points", 2, "--mesh", 1, 1, 1, "--json", "o.json"]
    assert call(*words, "--compare-finite-differences", "--displacements", 0.1, 0.03) == 0
    coarse, fine = json.loads((tmp_path / "o.json").read_text())["finite_displacements"]
    assert coarse["wave_vectors"] == 8
    assert fine["displacement_A"] == 0.03
    assert 0 < 5 * fine["largest_difference"] < coarse["largest_difference"] < 30
    printed = capsys.readouterr().out
    assert "phonopy's displacements in 2 x 2 x 2 cells" in printed
    assert f"{coarse['largest_difference']:.2e}" in printed


def test_one_atom_is_compared_where_it_has_vibrations(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ase.io.write("salt.extxyz", bulk("Al", "fcc", a=4.05))
    words = ["--path", "GX", "--points", 2, "--mesh", 1, 1, 1, "--json", "o.json"]
    assert call(*words, "--compare-finite-differences", "--displacements", 0.01) == 0
    (row,) = json.loads((tmp_path / "o.json").read_text())["finite_displacements"]
    assert 0 < row["largest_difference"] < 1


def test_imaginary_modes_are_reported_with_their_wave_vector(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ase.io.write("salt.extxyz", bulk("NaCl", "rocksalt", a=7.6))
    assert call("--path", "GX", "--points", 4, "--mesh", 2, 2, 2, "--json", "o.json") == 0
    results = json.loads((tmp_path / "o.json").read_text())
    found = results["mesh"]["imaginary"]
    assert len(found) == sum(f < 0 for row in results["mesh"]["frequencies"] for f in row) > 0
    worst = found[0]
    row = results["mesh"]["q"].index(worst["q"])
    assert worst["frequency"] == min(map(min, results["mesh"]["frequencies"]))
    assert worst["frequency"] == results["mesh"]["frequencies"][row][0]
    q = ", ".join(f"{x:.4f}" for x in worst["q"])
    printed = capsys.readouterr().out
    assert f"imaginary modes on the mesh, left out of the sums: {len(found)}" in printed
    assert f"{worst['frequency']:.2f} cm-1 at q = ({q})" in printed


@pytest.mark.usefixtures("salt")
def test_modes_on_the_mesh_are_kept_and_continued(tmp_path, monkeypatch, capsys):
    words = ["--path", "GX", "--points", 2, "--mesh", 3, 3, 3, "--method", "replicas"]
    words += ["--checkpoint", "modes.npz", "--json", "o.json"]
    real, calls = mf.phonons.solved_modes.modes_at_q, []

    def interrupted(*arguments):
        if len(calls) == 5:  # three on the path, two on the mesh
            raise KeyboardInterrupt
        calls.append(arguments)
        return real(*arguments)

    monkeypatch.setattr("mace_functional.phonons.solved_modes.modes_at_q", interrupted)
    assert call(*words) == 130
    assert "interrupted" in capsys.readouterr().err
    assert not (tmp_path / "o.json").exists()
    with np.load("modes.npz") as kept:
        assert len(kept["eigenvalues"]) == 2
    monkeypatch.setattr("mace_functional.phonons.solved_modes.modes_at_q", real)
    assert call(*words) == 0
    count = len(Mesh.of(SALT, (3, 3, 3)).q)
    assert len(json.loads((tmp_path / "o.json").read_text())["mesh"]["q"]) == count


@pytest.mark.usefixtures("salt")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--path", "GXY"], "unknown special points ['Y']: this lattice has G, K, L, U, W, X"),
        (["--points", "1"], "--points must be a whole number from 2 to"),
        (["--mesh", "2", "2", "0"], "three positive integers"),
        (["--supercell", "2", "2", "2"], "--supercell needs"),
        (["--phonopy", "o.yaml", "--supercell", "2", "2", "0"], "three positive integers"),
        (["--compare-finite-differences", "--displacements", "0"], "from 1e-06 to 1 in Å"),
        (["--npz", "no/o.npz"], "there is no folder"),
        (["--figure", "o.gif"], ".png, .pdf, .svg"),
        (["--temperatures", "-1"], "temperatures"),
    ],
)
def test_bad_options_are_refused_before_anything_is_computed(words, message, monkeypatch, capsys):
    def forbidden(*args, **kwargs):
        raise AssertionError("the options are bad")

    monkeypatch.setattr("mace_functional.cli.loaded_models.load_model", forbidden)
    assert call(*words) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize("subcommand", [["phonons"], ["thermo", "--mesh", "2", "2", "2"]])
def test_molecules_have_no_wave_vectors(subcommand, capsys):
    assert main([subcommand[0], "ethanol", "--model", "embedded", *subcommand[1:]]) == 2
    assert "not periodic" in capsys.readouterr().err


@pytest.mark.usefixtures("salt")
def test_thermodynamics_on_a_mesh_are_drawn(tmp_path):
    words = ["thermo", "salt.extxyz", "--model", "embedded", "--mesh", "3", "3", "3"]
    assert main([*words, "--figure", "o.png"]) == 0
    assert (tmp_path / "o.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.filterwarnings("error::UserWarning:mace_functional")
@pytest.mark.parametrize("subcommand", ["phonons", "thermo"])
def test_structure_far_from_rest_is_pointed_out(subcommand, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    atoms = SALT.copy()
    atoms.positions[1] += 0.3
    ase.io.write("salt.extxyz", atoms)
    words = [subcommand, "salt.extxyz", "--model", "embedded", "--mesh", "1", "1", "1"]
    assert main(words) == 0
    assert "not relaxed, so frequencies are not reliable: add --relax" in capsys.readouterr().out
