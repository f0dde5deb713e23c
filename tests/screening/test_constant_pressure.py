"""Screenings with heat capacities at constant pressure."""

from __future__ import annotations

import csv
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from pair_crystals import relaxed, xenon
from screened import ROWS, Page, row, written

import mace_functional as mf
from mace_functional.screening.constant_pressure import GRUNEISEN
from mace_functional.screening.findings import FINDINGS
from mace_functional.screening.record import RECORD, STRUCTURE, Record
from mace_functional.screening.run import screen
from mace_functional.screening.screen_settings import ScreenSettings
from mace_functional.screening.table import CSV, JSON

SETTINGS = ScreenSettings("xenon", relax=False, mesh=(2, 2, 2), cp=True)
TEMPERATURES = (0.0, 20.0, 40.0)


def column(kelvin):
    return f"heat_capacity_at_constant_pressure_{kelvin:g}K_J_per_gK"


def screened(structures, folder, settings=SETTINGS, temperatures=TEMPERATURES, retry=False):
    with ThreadPoolExecutor(1) as executor:
        return screen(
            structures,
            folder,
            settings,
            potential=xenon(),
            temperatures=temperatures,
            executor=executor,
            retry=retry,
        )


def strained(name, factor):
    atoms = relaxed(name)
    atoms.set_cell(factor * atoms.cell.array, scale_atoms=True)
    return atoms


def found(screening, number=0):
    line, settings = screening.rows()[number], screening.settings
    return {title: words for title, _, of in FINDINGS if (words := of(line, settings))}


@pytest.fixture(scope="module")
def structures():
    return {
        "hcp": relaxed("hcp"),
        "dimer": Atoms("Xe2", [[0, 0, 0], [0, 0, 3.8]]),
        "large": strained("fcc", 1.12),
        "small": strained("fcc", 0.99),
    }


@pytest.fixture(scope="module")
def screening(structures, tmp_path_factory):
    return screened(structures, tmp_path_factory.mktemp("cp"))


@pytest.fixture(scope="module")
def lines(screening):
    return {line["name"]: line for line in json.loads((screening.folder / JSON).read_text())}


def test_cp_and_expansion_are_those_of_thermal_expansion(structures, lines):
    mesh = mf.Mesh.of(structures["hcp"], (2, 2, 2))
    expected = mf.thermal_expansion(xenon(), structures["hcp"], TEMPERATURES, mesh=mesh)
    for i, t in enumerate(TEMPERATURES):
        line = lines["hcp"]
        cv, cp = line[f"heat_capacity_{t:g}K_J_per_gK"], line[column(t)]
        assert cv == pytest.approx(float(expected.specific_cv[i]), rel=1e-9)
        assert cp == pytest.approx(float(expected.specific_cp[i]), rel=1e-9)
        volumetric = float(expected.volumetric_expansion[i])
        assert line[f"volumetric_expansion_{t:g}K_per_K"] == pytest.approx(volumetric, rel=1e-9)
    assert lines["hcp"][column(40)] > 1.01 * lines["hcp"]["heat_capacity_40K_J_per_gK"] > 0


def test_structures_without_cp_say_why_and_keep_cv(lines):
    for name, reason in {"dimer": "a molecule", "large": "imaginary mode"}.items():
        line = lines[name]
        assert reason in line["no_heat_capacity_at_constant_pressure"]
        assert line["failure"] is None
        assert line[column(40)] is None
        assert line["volumetric_expansion_40K_per_K"] is None
        assert line["heat_capacity_40K_J_per_gK"] > 0


def test_an_error_keeps_cv(monkeypatch, structures, tmp_path):
    def refuses(*args, **options):
        raise MemoryError("three matrices")

    monkeypatch.setattr("mace_functional.screening.constant_pressure.strained_modes", refuses)
    done = screened({"hcp": structures["hcp"]}, tmp_path)
    assert done.records[0].no_cp == "not enough memory: three matrices"
    assert done.records[0].failure is None


def test_what_a_person_should_look_at(screening, lines):
    titles = [set(found(screening, i)) & {"No Cp", "Cp of another cell"} for i in range(4)]
    assert titles == [set(), {"No Cp"}, {"No Cp"}, {"Cp of another cell"}]
    strain = lines["small"]["strain_to_minimum"]
    assert strain == pytest.approx(0.01, rel=0.3)
    assert f"{strain:.1e}" in found(screening, 3)["Cp of another cell"]
    assert lines["hcp"]["strain_to_minimum"] < 1e-6
    assert lines["small"][column(40)] > lines["small"]["heat_capacity_40K_J_per_gK"]


def test_csv_and_page_have_cp_beside_cv(screening, lines):
    with (screening.folder / CSV).open() as file:
        first = next(csv.DictReader(file))
    assert float(first[column(40)]) == lines["hcp"][column(40)]
    page = Page(screening.report())
    for words in "C P (40 K)", "No Cp", "Cp of another cell", f"{lines['hcp'][column(40)]:.4f}":
        assert words in page.text.replace("\N{NO-BREAK SPACE}", " ")
    assert "at constant pressure, to first order" in page.text
    assert f"structures/{screening.folders[0].name}/{GRUNEISEN}" in page.attributes("href")
    assert f"{lines['hcp'][column(40)]:.4f}" in screening._repr_html_()


def test_without_cp_nothing_speaks_of_it(tmp_path):
    page = written(tmp_path, ROWS)
    assert "C P" not in page.text
    assert "Cp" not in page.text
    assert "constant pressure" not in page.text


def test_resumed_with_cp_other_temperatures_cost_nothing(structures, monkeypatch, tmp_path):
    only = {"fcc": relaxed("fcc"), "dimer": structures["dimer"]}
    without = screened(only, tmp_path, replace(SETTINGS, cp=False))
    assert not any("constant_pressure" in name for name in _line(tmp_path))
    cv = _line(tmp_path)["heat_capacity_40K_J_per_gK"]
    having = screened(only, tmp_path)
    assert {r.key for r in without.records}.isdisjoint(r.key for r in having.records)
    assert _line(tmp_path)["heat_capacity_40K_J_per_gK"] == pytest.approx(cv, rel=1e-12)
    cp = _line(tmp_path)[column(40)]

    def forbidden(*args):
        raise AssertionError("nothing has to be computed")

    monkeypatch.setattr("mace_functional.screening.run.evaluate", forbidden)
    again = screened(only, tmp_path, temperatures=[40.0, 41.0])
    assert [r.computed for r in again.records] == [r.computed for r in having.records]
    assert [r.key for r in again.records] == [r.key for r in having.records]
    assert _line(tmp_path)[column(40)] == cp < _line(tmp_path)[column(41)]
    screened(only, tmp_path, replace(SETTINGS, cp=False))
    assert column(40) not in _line(tmp_path)


def _line(folder):
    return json.loads((folder / JSON).read_text())[0]


@pytest.mark.parametrize("damage", ["missing", "not finite", "of another structure"])
def test_damaged_modes_are_made_anew(damage, tmp_path):
    only = {"fcc": relaxed("fcc")}
    first = screened(only, tmp_path)
    cp, path = _line(tmp_path)[column(40)], first.folders[0] / GRUNEISEN
    arrays = dict(np.load(path))
    if damage == "missing":
        path.unlink()
    elif damage == "not finite":
        np.savez(path, **{**arrays, "stiffness": np.inf * arrays["stiffness"]})
    else:
        np.savez(path, **{**arrays, "weights": arrays["weights"][:-1]})
    screened(only, tmp_path)
    assert _line(tmp_path)[column(40)] == pytest.approx(cp, rel=1e-12)
    assert np.isfinite(np.load(path)["stiffness"]).all()


def test_gamma_alone_is_a_mesh_of_one(structures, tmp_path):
    done = screened({"hcp": structures["hcp"]}, tmp_path, replace(SETTINGS, mesh=None))
    mesh = mf.Mesh.of(structures["hcp"], (1, 1, 1))
    expected = mf.thermal_expansion(xenon(), structures["hcp"], [40.0], mesh=mesh)
    assert _line(tmp_path)[column(40)] == pytest.approx(float(expected.specific_cp[0]), rel=1e-9)
    atoms = ase.io.read(done.folders[0] / STRUCTURE)
    np.testing.assert_allclose(atoms.positions, structures["hcp"].positions)


def test_keys_and_records_of_screenings_without_cp_are_as_before(tmp_path):
    off, on = replace(SETTINGS, cp=False, mesh=None), replace(SETTINGS, mesh=None)
    assert not {"cp", "symprec"} & set(off.identity())
    assert {"cp", "symprec"} < set(on.identity())
    record = row("odd", [50.0], no_cp="no minimum", strain_to_minimum=None, seconds_cp=1.5).record
    record.save(tmp_path)
    assert Record.load(tmp_path) == record
    old = {k: v for k, v in json.loads((tmp_path / RECORD).read_text()).items() if "cp" not in k}
    (tmp_path / RECORD).write_text(json.dumps(old))
    assert Record.load(tmp_path).no_cp is None


def test_a_slab_has_a_cp(tmp_path):
    """Two layers of xenon."""
    atoms = relaxed("hcp")
    atoms.cell[2] = [0, 0, 20.0]
    atoms.pbc = [True, True, False]
    settings = replace(SETTINGS, relax=True, fmax=1e-6, mesh=(2, 2, 1))
    done = screened({"layers": atoms}, tmp_path, settings, [20.0])
    assert done.records[0].no_cp is None
    assert torch.isfinite(done.rows()[0].strained.thermal([20.0]).cp).all()
    line = _line(tmp_path)
    assert line[column(20)] > line["heat_capacity_20K_J_per_gK"]


def test_a_cp_that_failed_is_computed_again_alone(monkeypatch, structures, tmp_path):
    def refuses(*args, **options):
        raise MemoryError("three matrices")

    both = {"hcp": structures["hcp"], "dimer": structures["dimer"], "large": structures["large"]}
    settings = replace(SETTINGS, mesh="auto", mesh_tolerance=0.1)
    with monkeypatch.context() as patch:
        patch.setattr("mace_functional.screening.constant_pressure.strained_modes", refuses)
        failed = screened(both, tmp_path, settings)
    assert [record.failure for record in failed.records] == [None] * 3
    kept = screened(both, tmp_path, settings)
    assert [r.computed for r in kept.records] == [r.computed for r in failed.records]

    def forbidden(*args, **options):
        raise AssertionError("it is done already")

    monkeypatch.setattr("mace_functional.screening.evaluate.modes_on_mesh", forbidden)
    again = screened(both, tmp_path, settings, retry=True)
    assert [r.no_cp for r in again.records][1:] == [r.no_cp for r in failed.records][1:]
    assert again.records[0].no_cp is None
    mesh = mf.Mesh.of(structures["hcp"], tuple(again.records[0].mesh))
    expected = mf.thermal_expansion(xenon(), structures["hcp"], TEMPERATURES, mesh=mesh)
    assert _line(tmp_path)[column(40)] == pytest.approx(float(expected.specific_cp[2]), rel=1e-9)
