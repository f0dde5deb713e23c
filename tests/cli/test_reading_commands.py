"""What subcommands and screenings make of files: findings are told, wrong materials refused."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from conftest import shared_file

import mace_functional as mf
from mace_functional.cli import main
from mace_functional.screening.record import RECORD, Record

WATER = "3\n\nO 0 0 0.119\nH 0 0.763 -0.477\nH 0 -0.763 -0.477\n"
FILLER = '3\nLattice="1 0 0 0 1 0 0 0 1" Properties=species:S:1:pos:R:3\n' + WATER.split("\n", 2)[2]
HALF = """data_half
_cell_length_a 4
_cell_length_b 4
_cell_length_c 4
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Si1 Si 0 0 0 0.5
O1 O 0.5 0.5 0.5 1
"""
FINDING = "is a placeholder"


def run(capsys: Any, *words: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def one_line(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("subcommand", ["thermo", "relax"])
def test_finding_is_on_standard_error_and_in_the_json(
    subcommand: str, tmp_path: Path, capsys: Any
) -> None:
    path, out = tmp_path / "water [1 A].extxyz", tmp_path / "out.json"
    path.write_text(FILLER)
    more = ["--output", tmp_path / "relaxed.xyz"] if subcommand == "relax" else []
    code, _, errors = run(capsys, subcommand, path, "--model", "embedded", "--json", out, *more)
    assert code == 0
    assert f"{path}: the cell of 1 x 1 x 1 Å {FINDING}" in errors
    record = json.loads(out.read_text())["structure"]
    assert record["pbc"] == [False, False, False]
    assert FINDING in record["findings"][0]
    assert record["shortest_contact"]["distance_A"] == pytest.approx(0.968, abs=1e-3)


def test_good_file_adds_nothing_to_standard_error(tmp_path: Path, capsys: Any) -> None:
    path, out = tmp_path / "water.xyz", tmp_path / "out.json"
    path.write_text(WATER)
    code, _, errors = run(capsys, "thermo", path, "--model", "embedded", "--json", out)
    assert code == 0
    assert str(path) not in errors
    assert json.loads(out.read_text())["structure"]["findings"] == []


def test_phonons_of_a_rounded_crystal_are_those_of_the_crystal(tmp_path: Path, capsys: Any) -> None:
    """Zinc oxide with two digits: four atoms, and the sentence that says so."""
    out = tmp_path / "out.json"
    path = shared_file("awkward", "zno_2digits.cif")
    code, _, errors = run(
        capsys, "phonons", path, "--model", "embedded", "--json", out, "--points", 2,
        "--mesh", 1, 1, 1, "--path", "GA",
    )  # fmt: skip
    assert code == 0
    assert "12 images that nearly coincide are taken as 4 atoms" in errors
    results = json.loads(out.read_text())
    assert results["formula"] == "O2Zn2"
    assert results["structure"]["found_space_group"] == "P6_3mc (186)"


@pytest.mark.parametrize("subcommand", ["thermo", "relax", "phonons"])
def test_wrong_material_ends_with_one_sentence(
    subcommand: str, tmp_path: Path, capsys: Any
) -> None:
    path = tmp_path / "half.cif"
    path.write_text(HALF)
    more = ["--output", tmp_path / "relaxed.cif"] if subcommand == "relax" else []
    code, printed, errors = run(capsys, subcommand, path, "--model", "embedded", *more)
    assert code == 2
    assert printed == ""
    assert f"error: {path}: partly occupied sites Si1 (0.5)" in one_line(errors)


@pytest.fixture(scope="module")
def screening(tmp_path_factory: pytest.TempPathFactory) -> mf.Screening:
    folder = tmp_path_factory.mktemp("files")
    (folder / "good.xyz").write_text(WATER)
    (folder / "filler.extxyz").write_text(FILLER.replace("0.119", "0.120"))
    (folder / "half.cif").write_text(HALF)
    settings = mf.ScreenSettings("embedded", relax=False)
    with ThreadPoolExecutor(1) as thread:
        return mf.screen(folder, folder / "out", settings, executor=thread)


def test_screening_records_findings_and_refusals(screening: mf.Screening) -> None:
    filler, good, half = screening.records
    assert [record.name for record in screening.records] == ["filler", "good", "half"]
    assert FINDING in filler.findings[0]
    assert filler.failure is None
    assert (good.findings, good.failure) == ([], None)
    assert half.failure is not None
    assert "half.cif: partly occupied sites Si1 (0.5)" in half.failure
    for record, folder in zip(screening.records, screening.folders, strict=True):
        kept = Record.load(folder)
        assert (kept.findings, kept.failure) == (record.findings, record.failure)


def test_report_has_a_section_of_what_was_read(screening: mf.Screening) -> None:
    page = screening.report().read_text()
    section = page[page.index("As read") :]
    assert FINDING in section
    assert page.count("As read") == 1
    assert "partly occupied sites Si1" in page


def test_record_without_findings_is_of_a_screening_before_they_were_kept(tmp_path: Path) -> None:
    record = Record("key", "name", "file", formula="H2O")
    record.save(tmp_path)
    data = json.loads((tmp_path / RECORD).read_text())
    del data["findings"]
    (tmp_path / RECORD).write_text(json.dumps(data))
    again = Record.load(tmp_path)
    assert (again.findings, again.formula) == ([], "H2O")


def test_given_atoms_are_checked_like_files(tmp_path: Path) -> None:
    near = molecule("H2O")
    near.positions[1] = near.positions[0] + [0.5, 0, 0]
    bad = Atoms("C6H6", molecule("C6H6").positions, cell=np.eye(3), pbc=True)
    with ThreadPoolExecutor(1) as thread:
        found = mf.screen(
            {"near": near, "bad": bad},
            tmp_path,
            mf.ScreenSettings("embedded", relax=False),
            executor=thread,
        )
    told, refused = found.records
    assert "0.5 Å apart, 0.52 of the sum of their covalent radii" in told.findings[0]
    assert refused.failure is not None
    assert "12 atoms in a periodic cell of 1 x 1 x 1 Å are a molecule" in refused.failure


@pytest.mark.usefixtures("screens_in_a_thread")
def test_command_of_a_screening_prints_findings(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "filler.extxyz").write_text(FILLER)
    code, _, errors = run(
        capsys, "screen", tmp_path, "--model", "embedded", "--no-relax", "--no-report",
        "--output", tmp_path / "out",
    )  # fmt: skip
    assert code == 0
    assert f"filler: the cell of 1 x 1 x 1 Å {FINDING}" in one_line(errors)


MOLECULES = ("carbon_suboxide_bent.xyz", "d2o.xyz", "water_cryst1.pdb", "water_moving.extxyz")
FINDINGS = {"zno_2digits.cif": "taken as 4 atoms", "water_cryst1.pdb": FINDING}


@pytest.mark.slow
@pytest.mark.parametrize("subcommand", ["thermo", "relax", "phonons"])
def test_awkward_files_end_with_their_right_codes(
    subcommand: str, tmp_path: Path, capsys: Any
) -> None:
    """No traceback, no plain number for a wrong material, and good files without a word."""
    for path in sorted(shared_file("awkward").iterdir()):
        words: list[object] = [subcommand, path, "--model", "embedded"]
        if subcommand == "relax":
            words += ["--max-steps", 3, "--output", tmp_path / f"{path.name}.extxyz"]
        if subcommand == "phonons":
            words += ["--points", 2, "--mesh", 1, 1, 1]
        refused = path.name == "half_occupied.cif" or (
            subcommand == "phonons" and path.name in MOLECULES
        )
        code, printed, errors = run(capsys, *words)
        assert code == (2 if refused else 0), (path.name, errors)
        assert bool(printed) != refused
        finding = FINDINGS.get(path.name)
        if finding is not None:
            assert finding in one_line(errors)
        elif not refused:
            assert f"{path}:" not in errors


@pytest.mark.slow
def test_awkward_files_in_one_screening(tmp_path: Path) -> None:
    settings = mf.ScreenSettings("embedded", max_steps=3)
    with ThreadPoolExecutor(1) as thread:
        found = mf.screen(shared_file("awkward"), tmp_path, settings, executor=thread)
    failed = {record.name for record in found.failed}
    assert "half_occupied" in failed
    assert failed <= {"half_occupied", "water_moving"}  # whose constraints a screening refuses
    told = {record.name for record in found.records if record.findings}
    assert told == {"zno_2digits", "water_cryst1"}
    assert "taken as 4 atoms" in found.report().read_text()
