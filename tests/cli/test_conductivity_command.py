"""`mace-functional conductivity`, as a user would call it."""

from __future__ import annotations

import json
import sys

import ase.io
import numpy as np
import pytest
from ase.build import bulk, graphene, molecule
from ase.constraints import FixAtoms

from mace_functional.cli import main

pytest.importorskip("phono3py")

import h5py

from mace_functional.anharmonic import conductivity_of, from_phono3py

SMALL = ["--supercell", 2, 2, 2, "--phonon-supercell", 2, 2, 2]


def run(*words: object) -> int:
    return main(["conductivity", *map(str, words), "--model", "embedded"])


@pytest.mark.filterwarnings("ignore:frequencies from the supercell")
def test_a_crystal_is_relaxed_and_all_files_hold_its_conductivity(tmp_path, capsys):
    file, out, kappa, figure = (tmp_path / n for n in ("si.xyz", "o.json", "o.hdf5", "o.png"))
    ase.io.write(file, bulk("Si", "diamond", a=5.5))
    files = ["--json", out, "--hdf5", kappa, "--phono3py", tmp_path / "p", "--figure", figure]
    boltzmann = ["--mesh", 4, 4, 4, "--method", "direct", "--wigner", "--isotopes"]
    temperatures = ["--temperatures", 300, 500]
    assert run(file, *SMALL, *files, *boltzmann, *temperatures, "--boundary", 1) == 0
    results = json.loads(out.read_text())
    assert results["relaxation"]["converged"]
    found = results["conductivity"]
    constants = from_phono3py(tmp_path / "p")
    options = {"method": "direct", "wigner": True, "isotopes": True, "boundary": 1.0}
    expected = conductivity_of(constants, [300.0, 500.0], mesh=(4, 4, 4), **options)
    np.testing.assert_allclose(found["kappa_W_per_mK"], expected.kappa, rtol=0.01, atol=1e-3)
    assert found["supercell_atoms"] == 16
    assert found["third_derivatives"] == 28
    assert found["third_order_relative_error"] < 1e-8
    assert found["imaginary_modes"] == 0
    assert found["cumulative"]["temperature_K"] == 300
    sums = found["cumulative"]["mean_free_paths_nm"]["xx_yy_zz_W_per_mK"]
    assert sums[-1] == pytest.approx(np.diag(found["populations_W_per_mK"][0]))
    with h5py.File(kappa) as read:
        np.testing.assert_allclose(read["kappa"][:, 0], np.array(found["kappa_W_per_mK"])[:, 0, 0])
    assert figure.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    for words in ("16 atoms, all pairs: 28 derivatives", "4 x 4 x 4 mesh", "xx", "direct solution"):
        assert words in printed
    assert " yz " not in printed


@pytest.mark.parametrize(
    ("atoms", "words", "message"),
    [
        (molecule("H2O"), [], "is not periodic in three directions"),
        (graphene(vacuum=6), [], "is not periodic in three directions"),
        (bulk("Si"), ["--supercell", "2,2"], "--supercell takes three positive integers"),
        (bulk("Si"), ["--temperatures", "0"], "--temperatures must be"),
        (bulk("Si"), ["--boundary", "-1"], "--boundary must be"),
        (bulk("Si"), ["--mesh", "3,3,3", "--mesh-spacing", "0.3"], "exclude each other"),
        (bulk("Si"), ["--phono3py", "FILE"], "is a file: name a folder"),
        (bulk("Si"), ["--phono3py", "no/such/folder"], "there is no folder"),
        (bulk("Si"), ["--no-relax", "--fmax", "0.1"], "--fmax needs --relax"),
        (bulk("Si"), ["--figure", "x.gif"], "--figure takes a file name with"),
    ],
)
def test_bad_input_gets_a_sentence(atoms, words, message, tmp_path, capsys):
    file = tmp_path / "atoms.traj"
    ase.io.write(file, atoms)
    assert run(file, *(str(file) if word == "FILE" else word for word in words)) == 2
    assert message in capsys.readouterr().err


def test_held_atoms_and_a_missing_extra_are_refused(tmp_path, capsys, monkeypatch):
    atoms = bulk("Si")
    atoms.set_constraint(FixAtoms([0]))
    ase.io.write(tmp_path / "held.traj", atoms)
    assert run(tmp_path / "held.traj") == 2
    assert "conductivity" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "phono3py", None)
    assert run("quartz") == 2
    assert "pip install 'mace_functional[anharmonic]'" in capsys.readouterr().err
