"""Every row of a screening bears its own name and file, whatever other rows share with it."""

from __future__ import annotations

import csv
import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from screened import ROWS, failed, row, scaled_reference, written

from mace_functional.screening import run as screen_run
from mace_functional.screening.parity import Errors, parity_of
from mace_functional.screening.record import RECORD, SPECTRUM, Record, Spectrum
from mace_functional.screening.references import Reference, read_references
from mace_functional.screening.run import screen
from mace_functional.screening.screen_settings import ScreenSettings
from mace_functional.screening.table import CSV, JSON, relative_error, table, write_table

QUICK = ScreenSettings("embedded", relax=False)
HOSTILE = (
    "[bold]red[/]",
    "<script>x</script>",
    "two\nlines",
    "$\\frac{",
    "\x1b[31m",
    "=1+1",
    "raw\udcff",
    "𠀀" * 60,
    "n" * 200,
    ":smile:",
    "%s{0}",
)


@pytest.fixture(scope="module")
def thread():
    with ThreadPoolExecutor(1) as executor:
        yield executor


def by_name(screening):
    return {record.name: record for record in screening.records}


def test_files_that_cannot_be_read_are_named_by_themselves(thread, tmp_path):
    files = tmp_path / "files"
    files.mkdir()
    for name in "a.cif", "b.xyz", "c.xyz":
        (files / name).write_text("")
    for _ in range(2):  # the second time from what is kept
        screening = screen(files, tmp_path / "out", QUICK, executor=thread)
        for name, record in zip("abc", screening.records, strict=True):
            (file,) = files.glob(f"{name}.*")
            assert (record.name, record.file) == (name, str(file))
            assert str(file) in record.failure
            others = {p.name for p in files.iterdir()} - {file.name}
            assert not any(other in record.failure for other in others)
        for record, folder in zip(screening.records, screening.folders, strict=True):
            assert Record.load(folder) == record


def test_copies_are_computed_once_and_each_has_its_own_row(thread, tmp_path, monkeypatch):
    computed = []

    def counted(task):
        computed.append(task.name)
        return evaluate(task)

    evaluate = screen_run.evaluate
    monkeypatch.setattr(screen_run, "evaluate", counted)
    for folder, name in ("one", "salt"), ("other", "salt"), ("other", "copy"):
        (tmp_path / folder).mkdir(exist_ok=True)
        ase.io.write(tmp_path / folder / f"{name}.xyz", bulk("NaCl", "rocksalt", a=5.64))
        ase.io.write(tmp_path / folder / f"gold-{name}.xyz", Atoms("Au"))
    folders = [tmp_path / "one", tmp_path / "other"]
    screening = screen(folders, tmp_path / "out", QUICK, executor=thread)
    names = ["one/gold-salt", "one/salt", "gold-copy", "other/gold-salt", "copy", "other/salt"]
    assert sorted(by_name(screening)) == sorted(names)
    assert len(computed) == 2
    for record in screening.records:
        assert record.file.endswith(f"{record.name.rpartition('/')[2]}.xyz")
        assert (record.failure is None) is ("gold" not in record.name)
        assert record.energy == (None if record.failure else by_name(screening)["copy"].energy)


def test_names_of_any_characters_go_through_a_whole_screening(thread, tmp_path, capsys):
    structures = {name: bulk("NaCl", "rocksalt", a=5.6) for name in HOSTILE}
    structures |= {f"{name}!": Atoms("Au") for name in HOSTILE}
    screening = screen(structures, tmp_path, QUICK, executor=thread)
    assert list(by_name(screening)) == list(structures)
    assert len(screening.failed) == len(HOSTILE)
    said = capsys.readouterr().err
    assert "\x1b[31m" not in said
    rows = json.loads((tmp_path / JSON).read_text())
    assert [line["name"] for line in rows] == list(structures)
    with (tmp_path / CSV).open(newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(structures)
    screening.report()
    again = screen(structures, tmp_path, QUICK, executor=thread)
    assert again.folders == screening.folders


def test_each_of_some_structures_of_one_name_of_a_folder_has_its_own(thread, tmp_path):
    """Names are cut and cleaned to make folders of them; keys tell them apart."""
    structures = {
        "n" * 300: bulk("NaCl", "rocksalt", a=5.6),
        "n" * 301: bulk("NaCl", "rocksalt", a=5.7),
    }
    screening = screen(structures, tmp_path, QUICK, executor=thread)
    assert len(set(screening.folders)) == 2
    assert not screening.failed
    assert all(len(os.fsencode(folder.name)) < 255 for folder in screening.folders)


def test_constraints_that_cannot_be_described_are_a_failure_of_one(thread, tmp_path):
    class Odd:
        def todict(self):
            raise NotImplementedError

        def get_removed_dof(self, atoms):
            return 0

        def copy(self):
            return self

    odd = bulk("NaCl", "rocksalt", a=5.64)
    odd.constraints = [Odd()]
    screening = screen(
        {"odd": odd, "other": bulk("NaCl", "rocksalt", a=5.64)}, tmp_path, QUICK, executor=thread
    )
    assert "constraints" in by_name(screening)["odd"].failure


@pytest.mark.parametrize("fault", ["NaN", "mass", "kind", "shape"])
def test_results_that_cannot_be_are_computed_anew(fault, thread, tmp_path):
    start = {"salt": bulk("NaCl", "rocksalt", a=5.64)}
    first = screen(start, tmp_path, QUICK, executor=thread)
    (folder,) = first.folders
    good, record = Spectrum.load(folder), first.records[0]
    if fault == "NaN":
        replace(good, frequencies=good.frequencies * math.nan).save(folder)
    elif fault == "shape":
        replace(good, weights=good.weights.expand(5).clone()).save(folder)
    elif fault == "mass":
        replace(record, mass=-1.0).save(folder)
    else:
        replace(record, energy="low").save(folder)
    again = screen(start, tmp_path, QUICK, executor=thread)
    np.testing.assert_array_equal(Spectrum.load(folder).frequencies, good.frequencies)
    assert again.records[0].energy == record.energy
    assert {RECORD, SPECTRUM} < {path.name for path in folder.iterdir()}


def test_a_screening_is_printed_in_a_line(thread, tmp_path):
    screening = screen({"gold": Atoms("Au")}, tmp_path, QUICK, executor=thread)
    assert repr(screening) == f"Screening(0 done, 1 failed; {tmp_path})"


# References that are none.


@pytest.mark.parametrize("value", [0.0, -0.5, math.nan, math.inf])
def test_there_is_no_error_against_what_is_no_heat_capacity(value, tmp_path):
    reference = Reference("dft", 300.0, {"alpha": value})
    assert relative_error(ROWS[0], reference) is None
    assert parity_of(ROWS, reference) is None
    lines = table(ROWS, [300.0], [reference])
    write_table(tmp_path, lines)
    text = (tmp_path / JSON).read_text()
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    page = written(tmp_path, ROWS, references=[reference])
    assert "No structure with a result has a value there" in page.text


def test_nothing_is_compared_at_zero_kelvin_without_an_error(tmp_path):
    reference = Reference("dft", 0.0, dict.fromkeys(("alpha", "beta"), 0.5))
    parity = parity_of(ROWS, reference)
    assert parity.scale is None
    assert parity.errors.mean_relative == 1
    page = written(tmp_path, ROWS, temperatures=[0.0], references=[reference])
    assert "mean absolute error" in page.text


def test_one_structure_and_equal_references_have_no_share_of_variance(tmp_path):
    same = 0.5 * (1 + 1e-15 * np.arange(5))
    assert Errors.of(np.linspace(0.4, 0.6, 5), same).r_squared is None
    page = written(tmp_path, ROWS[:1], references=[scaled_reference(ROWS[:1], 1.1)])
    assert "need 5 structures, and there are too few: 1" in page.text


def test_a_table_of_references_with_gaps_and_odd_lines(tmp_path):
    path = tmp_path / "reference.csv"
    path.write_text("kind,name,cv_300K\nMOF, a ,0.5\nMOF,,0.6\nMOF\n,b,inf\nMOF,c,\nMOF,a,0.5\n\n")
    (reference,) = read_references(path, ["cv_300K"])
    assert reference.values == {"a": 0.5}
    path.write_text("name,cv_300K\na,0.5\na,0.6\n")
    with pytest.raises(ValueError, match=r"of a is 0\.5 in one line and 0\.6 in another"):
        read_references(path, ["cv_300K"])


def test_values_that_are_not_finite_are_missing_in_the_table():
    (line,) = table([row("odd", [1e-310, 100.0], largest_force=math.inf)], [300.0])
    assert line["heat_capacity_300K_J_per_gK"] is None
    assert line["largest_force_eV_per_A"] is None
    assert table([failed("gone")], [300.0])[0]["failure"] == "there is no cell"
