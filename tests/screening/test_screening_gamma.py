"""Gamma alone and meshes in a screening: what is kept and found, and the fit of a scale."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import bulk

import mace_functional as mf
from mace_functional.phonons import acoustic_branches, phonons_of
from mace_functional.screening import structure_modes
from mace_functional.screening.findings import coarse_mesh, gamma_alone
from mace_functional.screening.keys import key_of, potential_digest
from mace_functional.screening.missing import missing_at_gamma
from mace_functional.screening.parity import parity_of
from mace_functional.screening.record import Record, Spectrum
from mace_functional.screening.references import Reference
from mace_functional.screening.report import write_report
from mace_functional.screening.rows import Row
from mace_functional.screening.screen_settings import ScreenSettings
from mace_functional.screening.sources import find_sources
from mace_functional.screening.table import table
from mace_functional.units import EV_PER_MOLECULE, K_B

SETTINGS = ScreenSettings("embedded", relax=False)


def salt():
    return bulk("NaCl", "rocksalt", a=5.64)


def computed(folder, settings, **structures):
    with ThreadPoolExecutor(1) as thread:
        return mf.screen(structures, folder, settings, executor=thread)


def row(name, frequencies, **facts):
    modes = torch.tensor([frequencies], dtype=torch.float64)
    spectrum = Spectrum(modes, torch.ones(1).double(), torch.zeros(1, 3).double())
    record = Record(name, name, f"{name}.cif", n_atoms=2, mass=58.0, n_imaginary=0, **facts)
    return Row(record, spectrum)


@pytest.mark.usefixtures("blank_images")
def test_small_crystal_at_gamma_is_told_what_it_lacks(tmp_path):
    structures = {"salt": salt(), "ethanol": mf.example_structure("ethanol")}
    screening = computed(tmp_path, SETTINGS, **structures)
    rows = {r.record.name: r for r in screening.rows()}
    missing = missing_at_gamma(rows["salt"], 300.0)
    model = mf.load_model("embedded")
    expected = acoustic_branches(model, salt(), mf.gamma_modes(model, salt()))
    mass = salt().get_masses().sum()
    assert missing.estimate == pytest.approx(
        EV_PER_MOLECULE * float(expected.heat_capacity(300.0)) / mass, rel=1e-9
    )
    assert missing.bound == pytest.approx(3 * K_B * EV_PER_MOLECULE / mass)
    assert missing.share == pytest.approx(0.506, abs=0.01)
    assert missing_at_gamma(rows["ethanol"], 300.0) is None
    assert "lacks about 0.41" in gamma_alone(rows["salt"], SETTINGS)
    assert gamma_alone(rows["ethanol"], SETTINGS) is None
    values = {v["name"]: v for v in table(list(rows.values()), [300.0])}
    column = "heat_capacity_missing_at_gamma_300K_J_per_gK"
    assert values["salt"][column] == pytest.approx(missing.estimate)
    assert values["ethanol"][column] is None
    page = screening.report().read_text()
    for words in "Gamma alone", "missing at Γ", "at the Gamma point alone", "0.41":
        assert words in page


@pytest.mark.usefixtures("blank_images")
def test_mesh_is_refined_until_the_heat_capacity_has_converged(tmp_path):
    settings = replace(SETTINGS, mesh="auto", mesh_tolerance=3e-3, mesh_temperature=300.0)
    structures = {"salt": salt(), "ethanol": mf.example_structure("ethanol")}
    screening = computed(tmp_path, settings, **structures)
    rows = {r.record.name: r for r in screening.rows()}
    record = rows["salt"].record
    lattice = phonons_of(mf.load_model("embedded"), salt())
    found = mf.phonons.converged_mesh_thermo(lattice, 300.0, tolerance=3e-3)
    assert tuple(record.mesh) == found.size
    assert record.mesh_error == pytest.approx(found.steps[-1].error)
    assert record.mesh_error <= 3e-3
    assert gamma_alone(rows["salt"], settings) is coarse_mesh(rows["salt"], settings) is None
    assert rows["ethanol"].record.mesh is None
    values = {v["name"]: v for v in table(list(rows.values()), [300.0])}
    fine = mf.mesh_modes(lattice, mf.Mesh.of(salt(), (10, 10, 10)), eigenvectors=False)
    limit = float(mf.mesh_thermo(fine, 300.0).specific_heat_capacity)
    limit += 3 * K_B / 10**3 * EV_PER_MOLECULE / record.mass  # what is left out at Gamma
    assert limit > 1.9 * gamma_capacity(salt())
    assert values["salt"]["heat_capacity_300K_J_per_gK"] == pytest.approx(limit, rel=3e-3)
    assert values["salt"]["mesh"] == "x".join(map(str, found.size))
    assert not list(tmp_path.rglob("mesh*.npz"))
    assert "refined until heat capacities at 300 K" in screening.report().read_text()


def test_mesh_that_did_not_converge_is_a_finding():
    tried = replace(row("a", [100.0]).record, mesh=(9, 9, 9), mesh_error=0.01)
    settings = replace(SETTINGS, mesh="auto")
    assert coarse_mesh(Row(tried, None), settings) == "error 1.0e-02 at 200 K"


def test_refined_mesh_goes_on_from_what_is_done(tmp_path, monkeypatch):
    settings = replace(SETTINGS, mesh="auto", mesh_tolerance=1e-2, mesh_temperature=300.0)
    sizes, solve = [], structure_modes.converged_mesh_thermo

    def interrupted(*args, **options):
        solve(*args, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(structure_modes, "converged_mesh_thermo", interrupted)
    with pytest.raises(KeyboardInterrupt):
        computed(tmp_path, settings, salt=salt())
    kept = sorted(path.name for path in tmp_path.rglob("mesh*.npz"))
    assert "mesh-2x2x2.npz" in kept

    def watched(phonons, *args, **options):
        def matrix(q):
            sizes.append(q)
            return phonons.dynamical_matrix(q)

        return solve(replace(phonons, dynamical_matrix=matrix), *args, **options)

    monkeypatch.setattr(structure_modes, "converged_mesh_thermo", watched)
    screening = computed(tmp_path, settings, salt=salt())
    assert len(sizes) == len(kept)  # one of each mesh, to see that it is of the same model
    assert screening.records[0].mesh_error <= 1e-2
    assert not list(tmp_path.rglob("mesh*.npz"))


def test_spacing_makes_the_mesh_of_each_crystal(tmp_path):
    screening = computed(tmp_path, replace(SETTINGS, mesh=0.7), salt=salt())
    assert tuple(screening.records[0].mesh) == mf.phonons.mesh_size(salt(), 0.7) == (3, 3, 3)


def test_mesh_of_one_point_is_gamma_alone(tmp_path):
    screening = computed(tmp_path, replace(SETTINGS, mesh=(1, 1, 1)), salt=salt())
    record = screening.records[0]
    assert (record.mesh, record.n_acoustic_branches) == (None, 3)


@pytest.mark.parametrize("mesh", ["fine", 0.0, -0.2, (2, 2), (2, 2, 0), np.nan])
def test_bad_mesh_is_refused(tmp_path, mesh):
    with pytest.raises(ValueError, match="mesh"):
        computed(tmp_path, replace(SETTINGS, mesh=mesh), salt=salt())


def test_keys_are_those_of_before_where_settings_mean_the_same():
    model = mf.load_model("embedded")
    digest = potential_digest(model)
    (source,) = find_sources({"salt": salt()})

    def key(**changes):
        return key_of(source, model, digest, replace(SETTINGS, **changes))

    names = ("dispersion", "dtype", "fmax", "head", "max_steps", "mesh", "relax")
    kept = {name: getattr(SETTINGS, name) for name in names}
    assert SETTINGS.identity() == {**kept, "cell": SETTINGS.relax_cell}
    assert key(symprec=1e-5) == key()
    assert key(symprec=1e-5, mesh=(2, 2, 2)) != key(mesh=(2, 2, 2))
    for mesh in None, (2, 2, 2):
        assert key(mesh=mesh, mesh_tolerance=1e-5, mesh_temperature=10.0) == key(mesh=mesh)
    auto = {key(mesh="auto"), key(mesh="auto", mesh_tolerance=1e-5), key(mesh=0.2)}
    assert len({*auto, key(), key(mesh="auto", mesh_temperature=10.0)}) == 5


def test_record_of_an_earlier_version_has_a_bound(tmp_path):
    row("old", [300.0, 400.0, 500.0], n_rigid=3).record.save(tmp_path)
    old = json.loads((tmp_path / "record.json").read_text())
    for name in "acoustic_branches", "acoustic_edges", "no_acoustic_estimate", "mesh", "mesh_error":
        del old[name]
    (tmp_path / "record.json").write_text(json.dumps(old))
    record = Record.load(tmp_path)
    missing = missing_at_gamma(Row(record, row("old", [300.0] * 3).spectrum), 300.0)
    assert missing.estimate is None
    assert missing.bound == pytest.approx(3 * K_B * EV_PER_MOLECULE / 58.0)
    assert "an earlier version" in missing.reason


SOUND = {"a": 200.0, "b": 350.0, "c": 250.0, "d": 300.0, "e": 420.0}
"""Lowest frequencies, cm-1, by name."""


@pytest.mark.usefixtures("blank_images")
def test_scale_is_not_fitted_to_what_lacks_its_acoustic_modes(tmp_path):
    """Five sound rows whose frequencies are 10 % too low, and a small crystal at Gamma alone."""
    sound = [row(name, [v, 2 * v, 3 * v]) for name, v in SOUND.items()]
    small = row("small", [150.0, 160.0, 170.0], n_acoustic_branches=3, acoustic_edges=[90, 90, 170])
    values = {r.record.name: float(capacity(r, 1.1)) for r in sound}
    values["small"] = 2 * float(capacity(small, 1.1))
    reference = Reference("known", 300.0, values)
    parity = parity_of([*sound, small], reference)
    assert parity.names == (*SOUND, "small")
    assert parity.fitted.tolist() == [True] * 5 + [False]
    assert parity.scale == pytest.approx(1.1, abs=1e-6)
    assert parity.scaled_errors.mean_relative < 1e-6
    assert parity.errors.mean_relative > 0.1
    everything = parity_of([*sound, small], reference, np.inf)
    assert everything.fitted.all()
    assert everything.scaled_errors.mean_relative == pytest.approx(0.5 / 6, abs=1e-3)
    page = write_report(tmp_path, [*sound, small], SETTINGS, [300.0], [reference]).read_text()
    assert "lacks more than 2 % (small)" in page
    only = parity_of([small], reference)
    assert (only.scale, only.scaled) == (None, None)


def gamma_capacity(atoms):
    modes = mf.gamma_modes(mf.load_model("embedded"), atoms)
    return float(mf.harmonic_thermo(modes, 300.0).specific_heat_capacity(modes.masses))


def capacity(r, factor):
    frequencies = factor * r.spectrum.frequencies[0]
    return mf.harmonic_thermo(frequencies, 300.0, unit="cm-1").specific_heat_capacity(
        [r.record.mass]
    )
