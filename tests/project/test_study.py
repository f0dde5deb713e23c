"""The parts of the heat-capacity study, in a tiny form."""

from __future__ import annotations

import sys
from dataclasses import replace

import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk, make_supercell
from conftest import ROOT
from models import build, crystal

import mace_functional as mf

sys.path.insert(0, str(ROOT))

from benchmarks.study import accuracy, finite_size, published, reference, relaxed, rounding, timing
from benchmarks.study.__main__ import main
from benchmarks.study.plan import TEMPERATURE, Plan

pytestmark = pytest.mark.slow  # it tests benchmarks, not the package


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Plan:
    structures = {"quartz": mf.example_structure("quartz")}
    return Plan(structures, ["embedded"], tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def quartz(plan):
    return plan.relaxed("quartz", "embedded")


def water():
    return mf.example_structure("ethanol")[[2, 3, 0]]


def test_error_of_central_differences_falls_with_the_square_of_the_step():
    found = accuracy.measure(water(), "embedded", steps=(1e-2, 1e-3))
    (_, *coarse), (_, *fine) = found["float64"]
    np.testing.assert_allclose(np.divide(coarse, fine), 100, rtol=0.05)


def test_rounding_in_single_precision_grows_as_the_step_shrinks():
    found = accuracy.measure(water(), "embedded", steps=(1e-4, 1e-6))
    (_, coarse, _), (_, fine, _) = found["float32"]
    assert 10 < fine / coarse < 1000
    assert 0 < found["exact float32"][0] < 1e-2 * coarse


def test_differences_of_mace_torch_forces_are_those_of_ours(tmp_path):
    path, before = tmp_path / "random.model", torch.get_default_dtype()
    torch.save(build(seed=3), path)
    ours, theirs = (
        accuracy.measure(crystal(), str(path), forces, steps=(1e-2,)) for forces in accuracy.FORCES
    )
    np.testing.assert_allclose(ours["float64"], theirs["float64"], rtol=1e-6)
    assert torch.get_default_dtype() == before


def test_mesh_lacks_the_same_modes_as_the_supercell(quartz):
    mesh = finite_size.measure(quartz, "embedded", 2)["heat_capacity"]
    large = make_supercell(quartz, np.diag([2, 2, 2]))
    modes = mf.gamma_modes(mf.load_model("embedded"), large)
    thermo = mf.harmonic_thermo(modes, TEMPERATURE)
    expected = float(thermo.specific_heat_capacity(large.get_masses().tolist()))
    assert mesh == pytest.approx(expected, rel=1e-9)


def test_share_of_dropped_modes_is_what_modes_of_no_frequency_hold(quartz):
    soft = torch.full((3,), 1e-3, dtype=torch.float64)
    held = mf.harmonic_thermo(soft, TEMPERATURE, unit="cm-1").specific_heat_capacity(
        quartz.get_masses()
    )
    mass = quartz.get_masses().sum()
    assert finite_size.dropped_share(mass) == pytest.approx(float(held), rel=1e-9)
    eight = quartz.repeat(2).get_masses().sum()
    assert finite_size.dropped_share(mass, 2) == pytest.approx(
        finite_size.dropped_share(eight), rel=1e-12
    )


def test_growth_with_the_mesh_is_bookkeeping_and_little_else(plan):
    (result,) = finite_size.run(plan)
    for size in (2, 3):
        assert result["mesh"][size]["left_out"] == 3
        formula = 3 * 8.314462618 / result["mass"] * (1 - 1 / size**3)
        assert finite_size.bookkeeping(result, size) == pytest.approx(formula, rel=1e-8)
        assert abs(finite_size.growth(result, size) - formula) < 0.1 * formula
    assert finite_size.translations(result) == finite_size.bookkeeping(result, 2)
    assert "quartz, embedded" in finite_size.tables([result])[0]


def test_imaginary_modes_are_counted_over_the_whole_mesh():
    salt = bulk("NaCl", "rocksalt", a=7.6)  # too large, and so unstable
    found = finite_size.measure(salt, "embedded", 2)
    modes = mf.gamma_modes(mf.load_model("embedded"), salt.repeat(2))
    assert modes.n_imaginary > 0
    assert found["left_out"] == modes.n_imaginary + modes.n_rigid


def test_molecule_has_no_finite_size(tmp_path):
    molecules = Plan({"ethanol": mf.example_structure("ethanol")}, ["embedded"], tmp_path)
    assert list(finite_size.run(molecules)) == []


def test_single_precision_changes_the_heat_capacity_little(quartz):
    found = rounding.measure(quartz, "embedded")
    assert 0 < found["hessian"] < 1e-6
    assert 0 < found["all"] < 1e-5
    assert 0 < found["frequency"] < 0.1
    assert found["imaginary"] == [0, 0]


def test_geometry_that_is_no_minimum_shows_in_its_largest_force(plan, quartz):
    at_rest, published_cell = (
        relaxed.measure(atoms, "embedded") for atoms in (quartz, plan.structures["quartz"])
    )
    assert at_rest["largest_force"] < 1e-4 < published_cell["largest_force"]
    gamma = finite_size.measure(quartz, "embedded", 1)["heat_capacity"]
    assert at_rest["heat_capacity"] == pytest.approx(gamma, rel=1e-9)


def test_reference_finds_the_scale_between_two_sets_of_frequencies(plan, monkeypatch):
    results = list(reference.run(plan))
    rows = results[0]["rows"]
    names = ["quartz", *(f"quartz {copy}" for copy in range(4))]  # a scale needs five
    rows = [replace(rows[0], record=replace(rows[0].record, name=name)) for name in names]
    stiffer = float(reference.heat_capacities(rows[:1], [TEMPERATURE / 1.1])[0, 0])
    known = [replace(r, values=dict.fromkeys(names, stiffer)) for r in published.dft()]
    monkeypatch.setattr(published, "dft", lambda: known)
    monkeypatch.setattr(published, "kinds", lambda: dict.fromkeys(names, "zeo"))
    monkeypatch.setattr(
        published, "medium_d3", lambda: reference.Reference("same", TEMPERATURE, known[0].values)
    )
    _, temperatures, classes = reference.tables([results[0] | {"rows": rows}])
    at_300 = temperatures.splitlines()[4].split("|")[4]
    _, scale, left = map(float, at_300.split("/"))
    assert scale == pytest.approx(1.1, abs=1e-3)
    assert left == 0
    assert "0.0 (5)" in classes


def test_dispersion_changes_the_heat_capacity(plan):
    plain, with_d3 = reference.run(plan)
    heats = [reference.heat_capacities(r["rows"], [TEMPERATURE])[0, 0] for r in (plain, with_d3)]
    assert 1e-4 < abs(heats[1] / heats[0] - 1) < 0.1


def test_slope_of_a_power_law_is_its_exponent():
    sizes = np.array([22, 44, 88])
    assert timing.slope(sizes, 3e-4 * sizes**1.9) == pytest.approx(1.9)


def test_times_of_supercells_are_measured_in_processes_of_their_own(plan):
    results = list(timing.run(plan, [(1, 1, 1)]))
    assert [r["atoms"] for r in results] == [9]
    assert "6N" in timing.tables(results)[0]


def test_what_is_done_is_not_done_again(plan, monkeypatch):
    first = list(rounding.run(plan))

    def measured_again(*args, **kwargs):
        raise AssertionError("this has been measured already")

    monkeypatch.setattr(rounding, "measure", measured_again)
    assert list(rounding.run(plan)) == first


def test_other_structure_of_the_same_name_is_measured_anew(plan, tmp_path):
    count = []

    def measure(atoms, source):
        count.append(len(atoms))
        return {}

    plan = replace(plan, output=tmp_path)
    atoms = plan.structures["quartz"]
    for moved in (0.0, 0.0, 0.1, 0.1):
        there = atoms.copy()
        there.positions[0, 0] += moved
        plan.one("part", measure, "quartz", there, "embedded")
    assert len(count) == 2
    plan.one("part", measure, "quartz", there, "embedded", steps=(1e-2,))
    assert len(count) == 3


def test_interrupted_study_goes_on_where_it_was(plan, tmp_path):
    done = []

    def measure(atoms, source):
        if len(done) == 1 and atoms.info.get("second"):
            raise KeyboardInterrupt
        done.append(len(atoms))
        return {"n": len(atoms)}

    plan = replace(plan, output=tmp_path)
    first, second = water(), mf.example_structure("ethanol")
    second.info["second"] = True
    plan.one("part", measure, "first", first, "embedded")
    with pytest.raises(KeyboardInterrupt):
        plan.one("part", measure, "second", second, "embedded")
    second.info["second"] = False
    results = [
        plan.one("part", measure, name, atoms, "embedded")
        for name, atoms in (("first", first), ("second", second))
    ]
    assert done == [3, 9]
    assert [r["n"] for r in results] == [3, 9]
    assert sorted(p.name for p in (tmp_path / "part").iterdir()) == [
        "first-embedded.json",
        "second-embedded.json",
    ]


def test_file_that_is_no_result_is_refused(plan, tmp_path):
    (tmp_path / "part.json").write_text("{}")
    with pytest.raises(ValueError, match=r"part\.json is not a result of this study: remove it"):
        replace(plan, output=tmp_path).kept("part", {}, dict)


def test_command_writes_results_tables_and_figure(tmp_path, capsys):
    file = tmp_path / "water.xyz"
    ase.io.write(file, water())
    arguments = ["rounding", "--structures", str(file), "--model", "embedded"]
    main([*arguments, "--output", str(tmp_path / "out")])
    out = capsys.readouterr().out
    assert "| water, embedded | 3 |" in out
    assert (tmp_path / "out" / "rounding.md").read_text().strip() == out.strip()
    assert (tmp_path / "out" / "rounding.png").read_bytes().startswith(b"\x89PNG")


def test_command_says_what_is_missing(tmp_path):
    with pytest.raises(SystemExit, match="there is no file or folder nowhere"):
        main(["accuracy", "--structures", "nowhere", "--output", str(tmp_path)])


def test_notebook_is_run_in_full_on_the_results_in_the_folder(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="running notebooks needs nbformat")
    pytest.importorskip("nbclient", reason="running notebooks needs nbclient")
    names = ("MACE_FUNCTIONAL_STUDY", "MACE_FUNCTIONAL_STUDY_RESULTS")
    cell = f"import os\nprint(*(os.environ[name] for name in {names}))"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    nbformat.write(notebook, tmp_path / "study.ipynb")
    monkeypatch.setattr("benchmarks.study.__main__.NOTEBOOK", tmp_path / "study.ipynb")
    main(["notebook", "--output", str(tmp_path / "out")])
    done = nbformat.read(tmp_path / "out" / "study.ipynb", as_version=4)
    assert done.cells[0].outputs[0].text == f"full {tmp_path / 'out'}\n"
