"""Screenings in which large structures are sampled by random vectors, with standard errors."""

from __future__ import annotations

import csv
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import ase.io
import numpy as np
import pytest
import torch
from pair_crystals import relaxed, xenon
from screened import ROWS, SETTINGS, Page, scaled_reference, written

import mace_functional as mf
from mace_functional.screening import evaluate, sampled_thermo
from mace_functional.screening.findings import FINDINGS
from mace_functional.screening.parity import parity_of
from mace_functional.screening.record import RECORD, SPECTRUM, STRUCTURE, Record
from mace_functional.screening.references import Reference
from mace_functional.screening.rows import Row
from mace_functional.screening.run import screen
from mace_functional.screening.sampled_thermo import PASSES, imaginary_words
from mace_functional.screening.screen_settings import ScreenSettings
from mace_functional.screening.table import CSV, JSON, cp_words
from mace_functional.units import EV_PER_MOLECULE

SAMPLING = {"rel_error": 0.05, "entropy_error": None, "max_products": 78, "seed": 5}
"""27 atoms have 81 columns, so that a Hessian is not allowed."""

OPTIONS = ScreenSettings(
    "xenon",
    fmax=1e-4,
    relax_cell=False,
    mesh=(2, 2, 2),
    eigenvectors=True,
    stochastic_above=26,
    **SAMPLING,
)
TEMPERATURES = (100.0, 300.0)


def large(factor=1.0):
    """27 atoms of xenon, whose cell is larger than that of the minimum by a factor."""
    atoms = relaxed("fcc") * (3, 3, 3)
    atoms.set_cell(factor * atoms.cell.array, scale_atoms=True)
    return atoms


def rattled():
    atoms = large()
    atoms.rattle(0.02, seed=1)
    return atoms


def screened(structures, folder, settings=OPTIONS, temperatures=TEMPERATURES, **options):
    with ThreadPoolExecutor(1) as executor:
        return screen(
            structures,
            folder,
            settings,
            potential=xenon(),
            temperatures=temperatures,
            executor=executor,
            **options,
        )


def lines(screening):
    return json.loads((screening.folder / JSON).read_text())


def found(screening, number=0):
    row = screening.rows()[number]
    return {title: words for title, _, of in FINDINGS if (words := of(row, screening.settings))}


def forbidden(*args, **options):
    raise AssertionError("it is done already")


@pytest.fixture(scope="module")
def screening(tmp_path_factory):
    """A large structure that is sampled, and a small one with a mesh."""
    both = {"large": rattled(), "small": relaxed("fcc")}
    return screened(both, tmp_path_factory.mktemp("sampled"))


@pytest.fixture
def copied(screening, tmp_path):
    """The same screening, in a folder of its own."""
    return screened({"large": rattled()}, tmp_path)


def of_the_library(screening, temperatures=TEMPERATURES, **changes):
    atoms = ase.io.read(screening.folders[0] / STRUCTURE)
    return mf.stochastic_thermo(xenon(), atoms, sorted(temperatures), **{**SAMPLING, **changes})


def assert_is(line, expected):
    """A line of the table has the values and the errors of the library."""
    per_gram = EV_PER_MOLECULE / float(expected.mass)
    for i, t in enumerate(expected.temperatures.tolist()):
        for infix, values in ("", expected.heat_capacity), ("_error", expected.heat_capacity_error):
            value = line[f"heat_capacity{infix}_{t:g}K_J_per_gK"]
            assert value == pytest.approx(per_gram * float(values[i]), rel=1e-9)
        error = line[f"entropy_error_{t:g}K_J_per_molK"]
        assert error == pytest.approx(EV_PER_MOLECULE * float(expected.entropy_error[i]), rel=1e-9)
        assert line[f"free_energy_{t:g}K_eV"] == pytest.approx(float(expected.free_energy[i]))


def test_large_structures_have_the_results_of_the_library_after_relaxation(screening):
    line, record = lines(screening)[0], screening.records[0]
    expected = of_the_library(screening)
    assert expected.n_vectors > 0
    assert_is(line, expected)
    assert line["method"] == "random vectors"
    assert line["sampling_products"] == expected.n_products
    assert line["sampling_converged"] is expected.converged is True
    assert line["imaginary_modes"] is None
    assert line["imaginary_modes_at_most"] == pytest.approx(expected.n_imaginary_bound)
    assert line["lowest_ritz_value_cm-1"] == pytest.approx(expected.lowest_frequency)
    assert record.converged
    assert record.largest_force < OPTIONS.fmax
    assert record.mesh is None
    assert record.n_rigid == record.n_acoustic_branches == 3
    assert {path.name for path in screening.folders[0].iterdir()} == {RECORD, STRUCTURE}
    with (screening.folder / CSV).open(newline="") as file:
        assert next(csv.DictReader(file)) == {
            k: "" if v is None else str(v) for k, v in line.items()
        }


def test_small_structures_are_as_without_the_option(screening, tmp_path):
    alone = screened({"small": relaxed("fcc")}, tmp_path, replace(OPTIONS, stochastic_above=None))
    assert alone.records[0].key == screening.records[1].key
    line = lines(screening)[1]
    assert line["method"] == "all modes"
    assert line["heat_capacity_error_300K_J_per_gK"] is None
    cv = lines(alone)[0]["heat_capacity_300K_J_per_gK"]
    assert line["heat_capacity_300K_J_per_gK"] == pytest.approx(cv, rel=1e-12)
    assert not any("error_300K" in name or "method" in name for name in lines(alone)[0])
    assert SPECTRUM in {path.name for path in screening.folders[1].iterdir()}


def test_page_shows_the_error_and_the_method(screening):
    page, line = Page(screening.report()), lines(screening)[0]
    kelvin = "300K_J_per_gK"
    value, error = line[f"heat_capacity_{kelvin}"], line[f"heat_capacity_error_{kelvin}"]
    for words in (
        f"{value:.4f} ± {error:.4f}",
        "random vectors",
        "all modes",
        f"≤ {line['imaginary_modes_at_most']:.1f}",
        "structures of more than 26 atoms by random vectors, at the Gamma point alone",
        "The frequencies of 1 structure are not known.",
        "Points with two standard errors",
    ):
        assert words in page.text
    assert f"{value:.4f} ± {error:.4f}" in screening._repr_html_()
    assert "could not be drawn" not in page.text


def test_without_the_option_nothing_speaks_of_it(tmp_path):
    text = written(tmp_path, ROWS).text
    assert "random vectors" not in text
    assert "±" not in text


@pytest.mark.parametrize(
    ("temperatures", "changes"),
    [
        ((100.0, 200.0), {}),
        (TEMPERATURES, {"seed": 6}),
        (TEMPERATURES, {"rel_error": 0.04}),
        (TEMPERATURES, {"entropy_error": 0.5}),
    ],
)
def test_other_temperatures_and_options_repeat_the_sampling_alone(
    temperatures, changes, copied, monkeypatch
):
    before = copied.records[0]
    monkeypatch.setattr(evaluate, "relax", forbidden)
    settings = replace(OPTIONS, **changes)
    again = screened({"large": rattled()}, copied.folder, settings, temperatures)
    assert_is(lines(again)[0], of_the_library(again, temperatures, **changes))
    record = again.records[0]
    assert record.stochastic != before.stochastic
    assert (record.key, record.n_gradients) == (before.key, before.n_gradients)
    assert record.energy == before.energy


def test_temperatures_of_references_are_sampled_and_some_of_them_cost_nothing(
    tmp_path, monkeypatch
):
    known = Reference("known", 250.0, {"large": 0.19})
    first = screened({"large": large()}, tmp_path, references=[known])
    line = lines(first)[0]
    assert first.records[0].stochastic["temperatures"] == [100.0, 250.0, 300.0]
    assert line["reference_known_relative_error"] == pytest.approx(
        line["reference_known_here_J_per_gK"] / 0.19 - 1
    )
    monkeypatch.setattr("mace_functional.screening.run.evaluate", forbidden)
    fewer = screened({"large": large()}, tmp_path, temperatures=[300.0])
    kelvin = "heat_capacity_error_300K_J_per_gK"
    assert lines(fewer)[0][kelvin] == line[kelvin]
    other = replace(OPTIONS, stochastic_above=20, mesh=None, cp=True, eigenvectors=False)
    with_cp = screened({"large": large()}, tmp_path, other)
    assert lines(with_cp)[0][kelvin] == line[kelvin]
    assert with_cp.records[0].no_cp == sampled_thermo.NO_CP
    assert cp_words(with_cp.rows()[0], 300.0).startswith("none: its modes are not known")


def test_an_interrupted_sampling_continues(tmp_path, monkeypatch):
    sample, kept = sampled_thermo.stochastic_thermo, []

    def interrupted(*args, **options):
        sample(*args, **options)
        raise KeyboardInterrupt

    def watched(*args, checkpoint, **options):
        kept.append(checkpoint.exists())
        return sample(*args, checkpoint=checkpoint, **options)

    monkeypatch.setattr(sampled_thermo, "stochastic_thermo", interrupted)
    with pytest.raises(KeyboardInterrupt):
        screened({"large": large()}, tmp_path)
    assert list(tmp_path.rglob(PASSES))
    monkeypatch.setattr(sampled_thermo, "stochastic_thermo", watched)
    done = screened({"large": large()}, tmp_path)
    assert kept == [True]
    assert_is(lines(done)[0], of_the_library(done))
    assert not list(tmp_path.rglob(PASSES))


def test_passes_for_other_temperatures_are_not_taken(tmp_path, monkeypatch):
    sample = sampled_thermo.stochastic_thermo

    def interrupted(*args, **options):
        sample(*args, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sampled_thermo, "stochastic_thermo", interrupted)
        with pytest.raises(KeyboardInterrupt):
            screened({"large": large()}, tmp_path)
    done = screened({"large": large()}, tmp_path, temperatures=[150.0])
    assert_is(lines(done)[0], of_the_library(done, [150.0]))


def test_damaged_samplings_are_made_anew(copied):
    path = copied.folders[0] / RECORD
    good = path.read_text()
    expected = lines(copied)[0]["heat_capacity_300K_J_per_gK"]
    for change in (
        {"heat_capacity": [1.0]},
        {"entropy": [float("nan"), 1.0]},
        {"mass": "heavy", "surprise": 1},
    ):
        data = json.loads(good)
        data["stochastic"] |= change
        path.write_text(json.dumps(data))
        again = screened({"large": rattled()}, copied.folder)
        assert lines(again)[0]["heat_capacity_300K_J_per_gK"] == pytest.approx(expected)
    (copied.folders[0] / STRUCTURE).write_text("damaged")
    again = screened({"large": rattled()}, copied.folder, temperatures=[150.0])
    assert_is(lines(again)[0], of_the_library(again, [150.0]))
    assert again.records[0].n_gradients == copied.records[0].n_gradients


def test_errors_larger_than_asked_for_are_a_finding(tmp_path):
    settings = replace(OPTIONS, rel_error=1e-6)
    done = screened({"large": large()}, tmp_path, settings)
    words = found(done)["Less accurate"]
    assert "standard errors up to" in words
    assert f"after {lines(done)[0]['sampling_products']} Hessian-vector products" in words
    assert lines(done)[0]["sampling_converged"] is False
    page = Page(done.report())
    assert "Relative standard errors of 1e-06 of C V were asked for." in page.text


def test_negative_ritz_values_are_imaginary_modes(tmp_path):
    settings = replace(OPTIONS, relax=False)
    done = screened({"large": large(1.12)}, tmp_path, settings)
    line, words = lines(done)[0], found(done)["Imaginary modes"]
    assert line["lowest_ritz_value_cm-1"] < 0 < line["imaginary_modes_about"]
    assert f"lowest Ritz value {line['lowest_ritz_value_cm-1']:.1f} cm-1" in words
    assert f"≤ {line['imaginary_modes_at_most']:.1f} modes" in words
    page = Page(done.report())
    assert f"≈ {line['imaginary_modes_about']:.1f} ± " in page.text
    assert imaginary_words(done.records[0]) in done._repr_html_()


def test_all_modes_are_exact_where_they_take_fewer_products(tmp_path):
    settings = replace(OPTIONS, max_products=None, rel_error=1e-6)
    done = screened({"large": large()}, tmp_path, settings)
    line, record = lines(done)[0], done.records[0]
    assert line["method"] == "all modes"
    assert line["heat_capacity_error_300K_J_per_gK"] == 0
    assert (record.n_imaginary, line["imaginary_modes"]) == (0, 0)
    thermo = mf.harmonic_thermo(mf.gamma_modes(xenon(), large()), 300.0)
    expected = float(thermo.molar_heat_capacity) / record.mass
    assert line["heat_capacity_300K_J_per_gK"] == pytest.approx(expected, rel=1e-9)


def test_keys_of_sampled_structures_are_those_of_their_relaxation():
    plain = ScreenSettings("embedded")
    assert replace(OPTIONS, model="embedded").identity(26).keys() >= {"mesh", "symprec"}
    assert not {"stochastic_above", "rel_error", "seed"} & set(plain.identity(1000))
    sampled = OPTIONS.identity(27)
    assert sampled == replace(OPTIONS, mesh=None, seed=9, rel_error=0.3, cp=True).identity(99)
    assert sampled["stochastic"] is True
    assert not {"mesh", "symprec", "eigenvectors", "cp"} & set(sampled)
    assert sampled["fmax"] == OPTIONS.fmax


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stochastic_above": -1}, "stochastic_above must be a whole number"),
        ({"rel_error": 0.0}, "rel_error must be"),
        ({"entropy_error": -1.0}, "entropy_error must be"),
        ({"max_products": 0}, "max_products must be"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_options_out_of_range_are_refused(changes, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        screened({"large": large()}, tmp_path, replace(OPTIONS, **changes))


def test_too_few_products_fail_with_the_reason(tmp_path):
    done = screened({"large": large()}, tmp_path, replace(OPTIONS, max_products=3, relax=False))
    assert "max_products must be at least" in done.records[0].failure


def test_sampled_structures_are_compared_and_left_out_of_the_fit(screening, tmp_path):
    row = screening.rows()[0]
    reference = scaled_reference(ROWS, 1.05)
    values = {**reference.values, "large": 1.02 * float(row.sampled.specific_heat_capacity[1])}
    reference = Reference("known", 300.0, values)
    parity, without = parity_of([*ROWS, row], reference), parity_of(ROWS, reference)
    assert parity.sampled.tolist() == [False] * len(ROWS) + [True]
    assert parity.fitted.tolist() == [True] * len(ROWS) + [False]
    assert parity.scale == pytest.approx(without.scale, rel=1e-9)
    assert np.isnan(parity.scaled[-1])
    settings = replace(SETTINGS, stochastic_above=26)
    page = written(tmp_path, [*ROWS, row], settings, [300.0], [reference])
    assert "The factor is fitted without 1 structure sampled by random vectors." in page.text
    assert "could not be drawn" not in page.text


def test_records_keep_every_digit_of_a_sampling(screening, tmp_path):
    record = screening.records[0]
    record.save(tmp_path)
    assert Record.load(tmp_path) == record
    row = screening.rows()[0]
    assert isinstance(row, Row)
    assert torch.equal(row.sampled.temperatures, torch.tensor(TEMPERATURES, dtype=torch.float64))
