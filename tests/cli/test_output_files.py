"""Files that subcommands write: held by their format, or refused before anything is computed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene, molecule
from ase.constraints import FixCartesian

from mace_functional.cli import main
from mace_functional.cli.output_files import check_outputs, check_structure_file, write_structure

FORMATS = ["xyz", "extxyz", "traj", "json", "db", "cif", "vasp", "gen", "res", "xsf", "pdb", "cfg"]
FORMATS += ["html", "png", "pov", "foo", "npz", "lammpsdata", "turbomole", "", "in", "cube", "gz"]
TURNED = bulk("NaCl", "rocksalt", a=5.64)
DEUTERATED = molecule("H2O")
DEUTERATED.set_masses([15.999, 2.014, 1.008])
STRUCTURES = {
    "molecule": molecule("H2O"),
    "molecule in a box": molecule("H2O", vacuum=5.0),
    "isotopes": DEUTERATED,
    "slab": graphene(vacuum=None, size=(1, 1, 1)),
    "crystal": Atoms("NaCl", [[0, 0, 0], [2.8, 0.1, 0.2]], cell=np.diag([5, 5.5, 6]), pbc=True),
    "crystal in turned axes": TURNED,
}


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.filterwarnings("ignore")
def test_format_gives_the_structure_back_or_is_refused(suffix, name, tmp_path):
    atoms, path = STRUCTURES[name], tmp_path / f"structure.{suffix}"
    refused = None
    try:
        check_structure_file("--output", path, atoms)
    except ValueError as error:
        refused = str(error)
    if refused is not None:
        assert f"--output {path}" in refused
        assert suffix not in ("xyz", "extxyz", "traj")
        assert not (name.startswith("crystal") and suffix in ("cif", "vasp"))
        return
    assert suffix not in ("foo", "html", "png", "pov", "npz", "pdb", "")
    write_structure(path, atoms)
    found = ase.io.read(path)
    assert found.get_chemical_symbols() == atoms.get_chemical_symbols()
    assert found.pbc.tolist() == atoms.pbc.tolist()
    np.testing.assert_allclose(found.get_masses(), atoms.get_masses(), atol=1e-3)
    np.testing.assert_allclose(found.cell.cellpar(), atoms.cell.cellpar(), atol=1e-5)
    np.testing.assert_allclose(
        found.get_all_distances(mic=True), atoms.get_all_distances(mic=True), atol=2e-6
    )
    assert [path.name] == os.listdir(tmp_path)


def test_turned_axes_are_refused_where_something_is_held_along_them(tmp_path):
    atoms = TURNED.copy()
    with pytest.raises(ValueError, match="rotates the axes"):
        check_structure_file("--output", tmp_path / "o.cif", atoms, may_turn=False)
    check_structure_file("--output", tmp_path / "o.vasp", atoms, may_turn=False)
    atoms.set_constraint(FixCartesian([0], [True, False, False]))
    ase.io.write(tmp_path / "salt.traj", atoms)
    words = ["relax", tmp_path / "salt.traj", "--model", "embedded", "--output", tmp_path / "o.cif"]
    assert main([str(word) for word in words]) == 2


@pytest.mark.parametrize(
    ("option", "name", "message"),
    [
        ("--json", "folder", "is a folder"),
        ("--json", "", "is a folder"),
        ("--json", "no/such/o.json", "there is no folder"),
        ("--json", "quartz.vasp", "would replace the input"),
        ("--json", "/dev/null", "not a file but a device"),
        ("--json", "/proc/o.json", "cannot be written"),
        ("--json", "a" * 300, "File name too long"),
        ("--figure", "o.gif", ".png, .pdf, .svg"),
        ("--figure", "same", ".png, .pdf, .svg"),
        ("--relaxed", "o.foo", "cannot be written and read in this format"),
        ("--relaxed", "o.json", "--json o.json would replace the file of --relaxed"),
    ],
)
def test_file_that_cannot_be_written_is_refused_before_anything_is_computed(
    option, name, message, tmp_path, monkeypatch, capsys
):
    def forbidden(*args, **kwargs):
        raise AssertionError("the options are bad")

    monkeypatch.setattr("mace_functional.cli.loaded_models.load_model", forbidden)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    ase.io.write("quartz.vasp", bulk("NaCl", "rocksalt", a=5.64))
    words = ["thermo", "quartz.vasp", "--model", "embedded", "--relax", option, name]
    words += ["--json", "o.json"] if option == "--relaxed" else []
    assert main(words) == 2
    assert message in capsys.readouterr().err
    assert sorted(os.listdir()) == ["folder", "quartz.vasp"]


def test_two_options_may_not_name_one_file(tmp_path):
    path = tmp_path / "o.json"
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(ValueError, match=r"--npz .* would replace the file of --json"):
        check_outputs({"--json": path, "--npz": tmp_path / "link"})


@pytest.mark.parametrize(
    "file", ["[bold]water.xyz", "[", "a[/x].xyz", ":smile:.xyz", "[link=x].xyz"]
)
def test_names_are_no_markup(file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / file if file != "[" else tmp_path / "[" / "x].xyz"
    path.parent.mkdir(exist_ok=True, parents=True)
    ase.io.write(str(path), molecule("H2"), format="extxyz")
    name = str(path.relative_to(tmp_path))
    words = ["--model", "embedded", "--json", f"{name}.json"]
    assert main(["thermo", name, *words]) == 0
    assert f"wrote {name}.json" in capsys.readouterr().err.replace("\n", "")
    assert json.loads((tmp_path / f"{name}.json").read_text())["file"] == name
    assert main(["thermo", name, "--model", "[/x]"]) == 2
    assert "[/x]" in capsys.readouterr().err


@pytest.mark.parametrize("atoms", [Atoms("Ar"), bulk("Si")[:1]], ids=["free", "crystal"])
def test_single_atom_has_no_vibrations_at_gamma(atoms, tmp_path, capsys):
    path = tmp_path / "one.extxyz"
    ase.io.write(path, atoms)
    assert main(["thermo", str(path), "--model", "embedded"]) == 2
    expected = "use a mesh" if atoms.pbc.any() else "single atom, which has no vibrations"
    assert expected in capsys.readouterr().err


def test_reader_that_leaves_ends_the_program_quietly_with_its_files_written(tmp_path):
    program = "import sys; from mace_functional.cli import main; sys.exit(main())"
    words = ["thermo", "ethanol", "--model", "embedded", "--json", "o.json"]
    run = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
    )
    run.stdout.close()
    error = run.stderr.read().decode()
    assert run.wait() == 141, error
    assert "BrokenPipe" not in error
    assert json.loads((tmp_path / "o.json").read_text())["formula"] == "C2H6O"
