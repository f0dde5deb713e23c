"""Screening of many structures: what it computes, and that nothing is lost, repeated or stopped."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import ase.io
import numpy as np
import psutil
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.constraints import FixAtoms
from conftest import shared_file
from filelock import FileLock
from poison import dies_of_poison

import mace_functional as mf
from mace_functional.parallel.dask_workers import dask_executor
from mace_functional.screening import evaluate
from mace_functional.screening import run as screen_run
from mace_functional.screening.evaluate import RELAXATION
from mace_functional.screening.provenance import ABOUT
from mace_functional.screening.record import RECORD, SPECTRUM, STRUCTURE
from mace_functional.screening.references import Reference, read_references
from mace_functional.screening.run import DIED, screen
from mace_functional.screening.run import SETTINGS as SETTINGS_FILE
from mace_functional.screening.saved_eigenvectors import EIGENVECTORS, Eigenvectors
from mace_functional.screening.saved_structures import write_geometry
from mace_functional.screening.screen_settings import ScreenSettings
from mace_functional.screening.sources import find_sources
from mace_functional.screening.table import CSV, JSON, relative_error
from mace_functional.units import EV_PER_MOLECULE, frequency_factor

SETTINGS = ScreenSettings("embedded")
TEMPERATURES = (0.0, 300.0)


def salt():
    atoms = bulk("NaCl", "rocksalt", a=5.64)
    atoms.rattle(0.05, seed=1)
    return atoms


@pytest.fixture(scope="module")
def thread():
    """A worker that starts at once, and keeps its model."""
    with ThreadPoolExecutor(1) as executor:
        yield executor


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("structures")
    ase.io.write(folder / "quartz.extxyz", mf.example_structure("quartz"))
    ase.io.write(folder / "ethanol.xyz", mf.example_structure("ethanol"))
    ase.io.write(folder / "POSCAR.salt", salt(), format="vasp")
    ase.io.write(folder / "gold.xyz", Atoms("Au"))
    (folder / "broken.cif").write_text("nonsense")
    (folder / "notes.txt").write_text("no structure")
    return folder


@pytest.fixture(scope="module")
def screening(files, thread, tmp_path_factory):
    """All files, by one worker, without interruption."""
    output = tmp_path_factory.mktemp("output")
    return screen(files, output, SETTINGS, temperatures=TEMPERATURES, executor=thread)


def by_name(screening):
    return {record.name: record for record in screening.records}


def identities(screening):
    """What changes when a record is written again."""
    return {folder.name: identity(folder / RECORD) for folder in screening.folders}


def identity(path):
    return path.stat().st_ino, path.stat().st_mtime_ns


def frequencies(screening):
    return {row.record.name: row.spectrum.frequencies for row in screening.rows() if row.spectrum}


def assert_same_results(one, other):
    ours, theirs = frequencies(one), frequencies(other)
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        np.testing.assert_allclose(values, theirs[name], rtol=1e-10, atol=1e-8)
        energies = (by_name(s)[name].energy for s in (one, other))
        np.testing.assert_allclose(*energies, rtol=1e-12)


def test_every_structure_has_its_result_or_its_reason(screening):
    records = by_name(screening)
    assert list(records) == ["POSCAR.salt", "broken", "ethanol", "gold", "quartz"]
    assert "it is not a CIF" in records["broken"].failure
    assert "does not know the elements Au" in records["gold"].failure
    assert {r.name for r in screening.failed} == {"broken", "gold"}
    for name in "POSCAR.salt", "ethanol", "quartz":
        assert records[name].failure is None
        assert records[name].converged
        assert records[name].largest_force < SETTINGS.fmax
        assert records[name].n_imaginary == 0
    assert records["ethanol"].n_rigid == 6
    assert records["quartz"].n_rigid == 3
    assert records["quartz"].formula == "O6Si3"
    assert records["quartz"].largest_stress < 0.1
    assert records["ethanol"].volume is None
    for folder, record in zip(screening.folders, screening.records, strict=True):
        kept = {RECORD} if record.failure else {RECORD, SPECTRUM, STRUCTURE}
        assert {path.name for path in folder.iterdir()} == kept


def test_table_is_what_the_library_gives_for_the_geometry_that_is_kept(screening):
    model = mf.load_model("embedded")
    rows = json.loads((screening.folder / JSON).read_text())
    assert [row["name"] for row in rows] == [record.name for record in screening.records]
    for row, folder in zip(rows, screening.folders, strict=True):
        if row["failure"]:
            assert row["heat_capacity_300K_J_per_gK"] is None
            continue
        atoms = ase.io.read(folder / STRUCTURE)
        modes = mf.gamma_modes(model, atoms)
        thermo = mf.harmonic_thermo(modes, 300.0)
        capacity = thermo.specific_heat_capacity(atoms.get_masses().tolist())
        assert row["heat_capacity_300K_J_per_gK"] == pytest.approx(float(capacity), rel=1e-9)
        assert row["heat_capacity_0K_J_per_gK"] == 0
        assert row["entropy_300K_J_per_molK"] == pytest.approx(
            float(EV_PER_MOLECULE * thermo.entropy), rel=1e-9
        )
        assert row["free_energy_300K_eV"] == pytest.approx(float(thermo.free_energy), rel=1e-9)
        assert row["internal_energy_0K_eV"] == pytest.approx(
            float(thermo.zero_point_energy), rel=1e-9
        )
        assert row["lowest_frequency_cm-1"] == pytest.approx(float(modes.frequencies[0]), abs=1e-5)
    with (screening.folder / CSV).open(newline="") as file:
        for row, written in zip(rows, csv.DictReader(file), strict=True):
            assert written == {k: "" if v is None else str(v) for k, v in row.items()}


def test_other_temperatures_names_and_references_compute_nothing(
    screening, files, thread, tmp_path, monkeypatch
):
    def forbidden(*args):
        raise AssertionError("it is done already")

    monkeypatch.setattr(screen_run, "evaluate", forbidden)
    before = identities(screening)
    ase.io.write(tmp_path / "the-same.extxyz", mf.example_structure("quartz"))
    known = Reference("dft_300K", 300.0, {"quartz": 0.5, "unknown": 1.0})
    again = screen(
        [files, tmp_path / "the-same.extxyz"],
        screening.folder,
        SETTINGS,
        temperatures=[250.0],
        references=[known],
        executor=thread,
    )
    assert identities(again) == before
    rows = {row["name"]: row for row in json.loads((again.folder / JSON).read_text())}
    same, quartz = rows["the-same"], rows["quartz"]
    assert same["file"] == str(tmp_path / "the-same.extxyz")
    assert same["heat_capacity_250K_J_per_gK"] == quartz["heat_capacity_250K_J_per_gK"] > 0
    assert "heat_capacity_300K_J_per_gK" not in quartz
    here = quartz["reference_dft_300K_here_J_per_gK"]
    assert here > quartz["heat_capacity_250K_J_per_gK"]
    assert quartz["reference_dft_300K_relative_error"] == pytest.approx(here / 0.5 - 1)
    assert same["reference_dft_300K_relative_error"] is None


def test_the_same_structure_under_two_names_is_computed_once(thread, tmp_path):
    twice = {"one": salt(), "other": salt()}
    screening = screen(twice, tmp_path, SETTINGS, executor=thread)
    assert [record.name for record in screening.records] == ["one", "other"]
    assert screening.folders[0] == screening.folders[1]
    assert len(list((tmp_path / "structures").iterdir())) == 1


def test_keys_tell_apart_what_differs_and_nothing_else(thread, tmp_path):
    heavy = salt()
    heavy.set_masses([23, 37])
    model = tmp_path / "copy.safetensors"
    mf.save_model(mf.load_model("embedded"), model)

    def keys(structures, **changes):
        settings = replace(SETTINGS, relax=False, **changes)
        done = screen(structures, tmp_path / "out", settings, executor=thread)
        assert not done.failed
        return [record.key for record in done.records]

    first, other = keys({"a": salt(), "b": heavy})
    assert keys({"other name": salt()}, model=str(model)) == [first]
    assert (
        len({first, other, *keys({"a": salt()}, fmax=1e-4), *keys({"a": salt()}, mesh=(1, 1, 2))})
        == 4
    )


def test_mesh_is_that_of_the_library_and_molecules_stay_at_gamma(thread, tmp_path):
    slab = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    slab.center(vacuum=6.0, axis=2)
    slab.pbc = [True, True, False]
    structures = {"salt": bulk("NaCl", "rocksalt", a=5.64), "water": molecule("H2O"), "slab": slab}
    settings = replace(SETTINGS, relax=False, mesh=(2, 2, 3))
    screening = screen(structures, tmp_path, settings, executor=thread)
    lattice = mf.phonons_of(mf.load_model("embedded"), structures["salt"], method="replicas")
    mesh = mf.Mesh.of(structures["salt"], (2, 2, 3), symmetry=False)
    modes = mf.mesh_modes(lattice, mesh)
    expected = mf.mesh_thermo(modes, 300.0).thermo
    crystal, water, flat = screening.rows()
    thermo = crystal.spectrum.thermo(300.0)
    np.testing.assert_allclose(thermo.heat_capacity, expected.heat_capacity, rtol=1e-9)
    np.testing.assert_allclose(thermo.entropy, expected.entropy, rtol=1e-9)
    assert crystal.record.n_rigid == 3
    assert crystal.record.asymmetry < 1e-10
    assert crystal.record.acoustic_sum_residual < 1e-10
    assert crystal.record.n_imaginary == len(
        crystal.spectrum.frequencies[crystal.spectrum.frequencies < 0]
    )
    assert crystal.spectrum.weights.sum() == pytest.approx(1)
    assert len(water.spectrum.q) == 1
    assert water.record.n_rigid == 6
    assert (flat.spectrum.q[:, 2] == 0).all()
    assert len(flat.spectrum.q) > 1


def test_unrelaxed_and_not_converged_structures_are_no_failures(thread, tmp_path):
    start = {"salt": salt()}
    as_it_is = screen(start, tmp_path, replace(SETTINGS, relax=False), executor=thread)
    assert as_it_is.records[0].converged is None
    np.testing.assert_array_equal(
        ase.io.read(as_it_is.folders[0] / STRUCTURE).positions, salt().positions
    )
    short = screen(start, tmp_path, replace(SETTINGS, max_steps=1), executor=thread)
    assert short.records[0].failure is None
    assert short.records[0].converged is False
    assert "max_steps" in short.records[0].relaxation


def test_failures_are_kept_until_they_are_tried_again(thread, tmp_path):
    held = salt()
    held.set_constraint(FixAtoms([0]))
    bad = {"held": held, "coincident": Atoms("H2"), "empty": Atoms()}
    first = screen(bad, tmp_path, SETTINGS, executor=thread)
    written = identities(first)
    reasons = [record.failure for record in first.records]
    for reason, words in zip(reasons, ["constraints", "apart", "no atoms"], strict=True):
        assert words in reason
    kept = screen(bad, tmp_path, SETTINGS, executor=thread)
    assert identities(kept) == written
    again = screen(bad, tmp_path, SETTINGS, executor=thread, retry=True)
    assert [record.failure for record in again.records] == reasons
    assert all(identities(again)[name] != before for name, before in written.items())


def test_what_is_too_large_for_the_memory_fails_alone(thread, tmp_path):
    both = {"ethanol": mf.example_structure("ethanol"), "atom": Atoms("H")}
    settings = replace(SETTINGS, relax=False)
    screening = screen(both, tmp_path, settings, executor=thread, memory_budget=2**16)
    assert "not enough memory" in by_name(screening)["ethanol"].failure


def test_damaged_files_are_made_anew(thread, tmp_path):
    start, settings = {"water": molecule("H2O")}, replace(SETTINGS, fmax=0.1)
    first = screen(start, tmp_path, settings, executor=thread)
    good = frequencies(first)["water"]
    folder = first.folders[0]
    for damaged in RECORD, SPECTRUM, STRUCTURE, RELAXATION:
        if damaged == STRUCTURE:
            (folder / STRUCTURE).unlink()
        else:
            (folder / damaged).write_bytes(b"\x00 damaged")
        if damaged == RELAXATION:
            (folder / RECORD).unlink()
        again = screen(start, tmp_path, settings, executor=thread)
        np.testing.assert_array_equal(frequencies(again)["water"], good)
        assert {path.name for path in folder.iterdir()} == {RECORD, SPECTRUM, STRUCTURE}


def screen_by_command(files, output, *words):
    """The command line, in processes of its own."""
    program = "from mace_functional.cli import main; raise SystemExit(main())"
    words = [str(files), "--model", "embedded", "--output", str(output), "--workers", "1", *words]
    return subprocess.Popen(
        [sys.executable, "-c", program, "screen", *words],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition, process):
    while not condition():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["the main process", "all its processes", "interrupted"])
def test_goes_on_after_a_kill(killed, files, screening, thread, tmp_path):
    process = screen_by_command(files, tmp_path, "--no-report")
    try:
        # The first and largest of the three is ready, and the next on its way.
        wait_until(
            lambda: (
                any(
                    SPECTRUM in [f.name for f in r.parent.iterdir()] for r in tmp_path.rglob(RECORD)
                )
                and any(tmp_path.rglob(RELAXATION))
            ),
            process,
        )
        workers = psutil.Process(process.pid).children(recursive=True)
        assert workers
        with pytest.raises(ValueError, match="another screening is writing"):
            screen(files, tmp_path, SETTINGS, executor=thread)
        if killed == "all its processes":
            os.killpg(process.pid, signal.SIGKILL)
        elif killed == "the main process":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGINT)
        said = process.communicate()[1]
        _, alive = psutil.wait_procs(workers, timeout=30)
        assert not alive
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    ready = {path: identity(path) for path in tmp_path.rglob(RECORD)}
    assert len(ready) < len(screening.records)
    if killed == "interrupted":
        assert process.returncode == 130
        assert "call the same again to continue" in said
        assert "Traceback" not in said
        assert len(json.loads((tmp_path / JSON).read_text())) == len(ready)
    resumed = screen(files, tmp_path, SETTINGS, temperatures=TEMPERATURES, executor=thread)
    assert {path: identity(path) for path in ready} == ready
    assert len(resumed.records) == len(screening.records)
    assert_same_results(resumed, screening)


def test_largest_comes_first(thread, tmp_path, monkeypatch):
    order = []

    def fails(task):
        order.append(task.name)
        return task.failed("not computed")

    monkeypatch.setattr(screen_run, "evaluate", fails)
    sizes = {"a": 3, "b": 50, "c": 1, "d": 4}
    structures = {n: Atoms(f"H{size}", np.zeros((size, 3))) for n, size in sizes.items()}
    for atoms in structures.values():
        atoms.positions[:, 0] = range(len(atoms))
    screen(structures, tmp_path, SETTINGS, executor=thread)
    assert order == ["b", "d", "a", "c"]


@pytest.mark.slow
def test_own_processes_give_what_threads_give_and_one_that_dies_stops_nothing(
    files, screening, tmp_path, monkeypatch
):
    monkeypatch.setattr(screen_run, "evaluate", dies_of_poison)
    ase.io.write(tmp_path / "poison.xyz", molecule("C6H6"))
    done = screen([files, tmp_path / "poison.xyz"], tmp_path / "out", SETTINGS, workers=1)
    assert by_name(done)["poison"].failure == DIED
    assert {record.name for record in done.failed} == {"poison", "broken", "gold"}
    assert_same_results(done, screening)


def test_executor_that_breaks_is_an_error_that_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(screen_run, "evaluate", dies_of_poison)
    with (
        ProcessPoolExecutor(1) as executor,
        pytest.raises(ChildProcessError, match="call again with a new executor"),
    ):
        screen({"poison": molecule("H2O")}, tmp_path, SETTINGS, executor=executor)


@pytest.mark.slow
def test_dask_gives_what_threads_give(files, screening, tmp_path):
    pytest.importorskip("distributed")
    with dask_executor("local", workers=1) as executor:
        done = screen(files, tmp_path, SETTINGS, executor=executor)
    assert_same_results(done, screening)


def test_geometry_keeps_every_digit(tmp_path):
    atoms = salt()
    atoms.set_masses([22.98976928, 1 / 3])
    atoms.info |= {"charge": -1, "spin": 2, "note": "not = simple", "object": object()}
    write_geometry(tmp_path, atoms)
    read = ase.io.read(tmp_path / STRUCTURE)
    np.testing.assert_array_equal(read.positions, atoms.positions)
    np.testing.assert_array_equal(read.cell.array, atoms.cell.array)
    np.testing.assert_array_equal(read.get_masses(), atoms.get_masses())
    assert read.pbc.all()
    assert (read.info["charge"], read.info["spin"]) == (-1, 2)


def test_date_versions_and_model_are_kept_and_are_no_part_of_keys(
    screening, thread, tmp_path, monkeypatch
):
    about = json.loads((screening.folder / ABOUT).read_text())
    digest = json.loads((screening.folder / SETTINGS_FILE).read_text())["potential_digest"]
    assert about["model"] == "embedded"
    assert about["model_digest"] == digest[:12]
    assert about["versions"]["torch"] == torch.__version__
    assert about["versions"]["mace_functional"] == mf.__version__
    assert datetime.now(UTC) - datetime.fromisoformat(about["date"]) < timedelta(hours=1)
    quartz = by_name(screening)["quartz"]
    assert quartz.versions == about["versions"]
    assert datetime.fromisoformat(quartz.computed) <= datetime.fromisoformat(about["date"])
    rows = {row["name"]: row for row in json.loads((screening.folder / JSON).read_text())}
    assert rows["quartz"]["computed"] == quartz.computed
    assert (rows["quartz"]["formula_unit"], rows["quartz"]["formula_units"]) == ("SiO2", 3)
    again = screen({"salt": salt()}, tmp_path / "one", SETTINGS, executor=thread)
    tomorrow = "2031-01-02T03:04:05+00:00"
    monkeypatch.setattr(evaluate, "now", lambda: tomorrow)  # the thread is of this process
    later = screen({"salt": salt()}, tmp_path / "other", SETTINGS, executor=thread)
    assert again.records[0].key == later.records[0].key
    assert again.records[0].computed < later.records[0].computed == tomorrow


def test_notebook_shows_a_row_for_each_structure(screening):
    table = screening._repr_html_()
    assert table.count("<tr>") == 1 + len(screening.records)
    quartz = frequencies(screening)["quartz"]
    thermo = mf.harmonic_thermo(quartz[0], 300.0, unit="cm-1")
    capacity = float(thermo.specific_heat_capacity([by_name(screening)["quartz"].mass]))
    assert f"<td>quartz</td><td>SiO2 × 3</td><td>9</td><td>{capacity:.4f}</td><td>0</td>" in table
    assert "it is not a CIF" in table
    assert "Cv at 300 K, J/(g K)" in table


def test_kept_structure_has_energy_forces_and_stress_of_the_model(screening):
    for name in "POSCAR.salt", "ethanol":
        index = [record.name for record in screening.records].index(name)
        kept = ase.io.read(screening.folders[index] / STRUCTURE)
        computed = kept.copy()
        computed.calc = mf.MaceCalculator(mf.load_model("embedded"))
        assert kept.get_potential_energy() == computed.get_potential_energy()
        np.testing.assert_array_equal(kept.get_forces(), computed.get_forces())
        assert ("stress" in kept.calc.results) == bool(kept.pbc.all())
        if kept.pbc.all():
            np.testing.assert_allclose(kept.get_stress(), computed.get_stress(), rtol=1e-12)


def test_results_in_the_file_of_a_structure_are_not_taken_for_those_of_the_model(tmp_path):
    atoms = salt()
    atoms.info["energy"] = 17.0
    atoms.arrays["forces"] = np.ones((2, 3))
    atoms.arrays["frozen"] = np.array([True, False])
    write_geometry(tmp_path, atoms, energy=-1 / 3, forces=np.full((2, 3), 1 / 7))
    read = ase.io.read(tmp_path / STRUCTURE)
    assert read.get_potential_energy() == -1 / 3
    assert (read.get_forces() == 1 / 7).all()
    assert read.arrays["frozen"].tolist() == [True, False]


def test_eigenvectors_diagonalise_the_mass_weighted_hessian(thread, tmp_path):
    settings = replace(SETTINGS, relax=False, eigenvectors=True)
    structures = {"water": molecule("H2O"), "salt": salt()}
    done = screen(structures, tmp_path, settings, executor=thread)
    for row, folder in zip(done.rows(), done.folders, strict=True):
        atoms, model = ase.io.read(folder / STRUCTURE), mf.load_model("embedded")
        with np.load(folder / EIGENVECTORS) as file:
            vectors, masses, q = file["eigenvectors"], file["masses"], file["q"]
        np.testing.assert_allclose(masses, atoms.get_masses())
        assert q.tolist() == [[0, 0, 0]]
        calculator = mf.MaceCalculator(model)
        root = np.repeat(masses, 3) ** -0.5
        weighted = calculator.get_hessian(atoms) * root[:, None] * root
        e = vectors[0].reshape(len(vectors[0]), -1)
        nu = row.spectrum.frequencies[0].numpy()
        np.testing.assert_allclose(e @ e.T, np.eye(len(e)), atol=1e-10)
        squares = np.sign(nu) * (nu / frequency_factor("cm-1")) ** 2
        np.testing.assert_allclose(e @ weighted @ e.T, np.diag(squares), atol=1e-8)


@pytest.mark.parametrize("mesh", [(2, 2, 2), "auto"])
def test_eigenvectors_on_a_mesh_are_those_of_the_dynamical_matrices(mesh, thread, tmp_path):
    settings = replace(SETTINGS, eigenvectors=True, mesh=mesh, mesh_tolerance=0.05)
    done = screen({"salt": salt()}, tmp_path, settings, executor=thread)
    (row,), (folder,) = done.rows(), done.folders
    found = Eigenvectors.load(folder)
    lattice = mf.phonons_of(mf.load_model("embedded"), ase.io.read(folder / STRUCTURE))
    assert len(found.q) == len(row.spectrum.q) > 1
    for q, vectors, nu in zip(found.q, found.eigenvectors, row.spectrum.frequencies, strict=True):
        e = vectors.reshape(len(vectors), -1).numpy()
        matrix = lattice.dynamical_matrix(q).numpy()
        squares = (nu * nu.abs() / frequency_factor("cm-1") ** 2).numpy()
        np.testing.assert_allclose(e.conj() @ matrix @ e.T, np.diag(squares), atol=1e-4)
    assert {path.name for path in folder.iterdir()} == {RECORD, SPECTRUM, STRUCTURE, EIGENVECTORS}


def test_eigenvectors_are_computed_where_they_are_asked_for_and_missing(thread, tmp_path):
    first = screen({"salt": salt()}, tmp_path, SETTINGS, executor=thread)
    wanted = replace(SETTINGS, eigenvectors=True)
    other = screen({"salt": salt()}, tmp_path, wanted, executor=thread)
    assert not (first.folders[0] / EIGENVECTORS).exists()
    (other.folders[0] / EIGENVECTORS).unlink()
    again = screen({"salt": salt()}, tmp_path, wanted, executor=thread)
    assert (again.folders[0] / EIGENVECTORS).exists()
    assert len({*first.folders, *other.folders, *again.folders}) == 2


def test_names_are_as_long_as_they_must_be(tmp_path):
    paths = ["a/x.cif", "b/x.cif", "b/y.xyz", "b/y.cif", "b/z.cif", "b/CONTCAR", "b/.hidden.cif"]
    for path in paths:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("nonsense")
    sources = find_sources([tmp_path / "a", tmp_path / "b", tmp_path / "a" / "x.cif"])
    names = [source.name for source in sources]
    assert names == ["a/x", "CONTCAR", "b/x", "b/y.cif", "b/y.xyz", "z"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"settings": replace(SETTINGS, dtype="float16")}, "dtype must be one of"),
        ({"settings": replace(SETTINGS, fmax=0.0)}, "fmax must be a finite number above zero"),
        ({"settings": replace(SETTINGS, mesh=(2, 0, 2))}, "mesh"),
        ({"settings": ScreenSettings("embeded")}, "did you mean 'embedded'"),
        ({"temperatures": [-1.0]}, "temperatures"),
        ({"workers": 0}, "workers"),
        ({"devices": ["abacus"]}, "not a device"),
        ({"devices": ["cuda:99"]}, "no device"),
        ({"references": [Reference("dft", 300.0, {"silt": 1.0})]}, "none of the structures"),
    ],
)
def test_bad_options_are_refused_before_anything_is_computed(
    options, message, tmp_path, monkeypatch
):
    monkeypatch.setattr(screen_run, "evaluate", None)
    words = {"structures": {"salt": salt()}, "output": tmp_path, "settings": SETTINGS} | options
    with pytest.raises(ValueError, match=message):
        screen(**words)
    assert not list(tmp_path.rglob(RECORD))


@pytest.mark.parametrize("structures", ["no-such-file.cif", [], {}])
def test_nothing_to_screen_is_an_error(structures, tmp_path):
    with pytest.raises(ValueError, match=r"no file or folder|nothing to screen"):
        screen(structures, tmp_path, SETTINGS)
    with pytest.raises(ValueError, match="has no structures"):
        screen(tmp_path, tmp_path, SETTINGS)


def test_lock_is_free_after_a_screening(screening):
    with FileLock(screening.folder / ".lock", timeout=0):
        pass


def test_references_know_their_temperatures(tmp_path):
    path = tmp_path / "reference.csv"
    path.write_text("kind,name,cv_250K,cv,cv_mp0_300.5K\nMOF,a,0.5,,x\nMOF,b,nan,0.7,y\n")
    first, second = read_references(path, ["cv_250K", "cv@300"])
    assert (first.label, first.temperature, first.values) == ("cv_250K", 250.0, {"a": 0.5})
    assert (second.label, second.temperature, second.values) == ("cv", 300.0, {"b": 0.7})
    for column, message in {
        "cv": "has no temperature",
        "cv@warm": "has no temperature",
        "cp@300": "no column 'cp'",
        "cv_mp0_300.5K": "no number: 'x'",
    }.items():
        with pytest.raises(ValueError, match=message):
            read_references(path, [column])


@pytest.mark.slow
def test_published_structures_have_nearly_the_published_heat_capacities(tmp_path):
    pytest.importorskip("tad_dftd3")
    model = shared_file("weights", "MACE-MP-0_small.model")
    table = shared_file("heatcapacity", "reference.csv")
    (medium,) = read_references(table, ["mace_mp0_medium_d3_cv_300K"])
    settings = ScreenSettings(str(model), dispersion="pbe")
    found = screen(shared_file("heatcapacity", "structures"), tmp_path, settings)
    assert len(found.records) == 8
    assert not found.failed
    for row in found.rows():
        assert row.record.converged
        assert row.record.n_imaginary == 0
        error = relative_error(row, medium)
        assert error is not None
        assert abs(error) < (0.04 if row.record.name == "13180N3" else 0.015)
