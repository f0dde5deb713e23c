"""A report is written, and takes little memory, whatever is in the records that it is made of."""

from __future__ import annotations

import math
import tracemalloc
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from screened import MODES, ROWS, SETTINGS, Page, failed, many, row, written

import mace_functional as mf
from mace_functional.figures import thermo_figure
from mace_functional.figures.spectrum import BROADENING, HIGHEST, density_of
from mace_functional.screening import drawing, report, report_structures
from mace_functional.screening.record import Spectrum
from mace_functional.screening.references import Reference
from mace_functional.screening.report import write_report
from mace_functional.screening.report_figures import PANELS, spectra_figures
from mace_functional.screening.rows import Row
from mace_functional.screening.wording import formatted
from mace_functional.vibrations import thermo_pieces
from mace_functional.vibrations.thermo_pieces import thermo_in_pieces

MEGABYTE = 2**20


@contextmanager
def at_most(megabytes):
    """Fails if NumPy and Python together hold more at any time."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < megabytes * MEGABYTE


# Grids.


@pytest.mark.parametrize("mesh", [False, True])
def test_a_frequency_of_any_size_takes_no_memory_and_is_counted(mesh):
    modes = torch.tensor([-1e12, -80.0, 200.0, 900.0, 1e9, math.inf, math.nan], dtype=torch.float64)
    weights = torch.ones(1, dtype=torch.float64) if mesh else None
    with at_most(100):
        figure = thermo_figure(modes[None] if mesh else modes, [300.0], 60.0, weights=weights)
    low, high = figure.axes[0].get_xlim()
    assert -HIGHEST - 100 < low < high < HIGHEST + 100
    words = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert words == ["2 imaginary", "4 beyond 6000 cm$^{-1}$"]


def test_a_broken_structure_leaves_the_axis_to_the_sound_ones():
    broken = row("broken", [1e9, 1e9])
    for others in 3, PANELS:
        rows = [*many(others), broken]
        with at_most(100):
            (figure,) = spectra_figures(rows)
        assert max(axes.get_xlim()[1] for axes in figure.axes if axes.get_xlim()[1] > 100) < 1700


def test_density_is_the_sum_of_gaussians():
    draw = np.random.default_rng(0)
    modes, each = draw.uniform(-100, 900, 5000), draw.uniform(0, 2, 5000)
    grid = np.arange(0, 800, 1.3)
    distance = (grid[:, None] - modes) / BROADENING
    expected = np.exp(-(distance**2) / 2) @ each / (BROADENING * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(density_of(modes, each, grid), expected, atol=1e-7)


def test_density_of_a_dense_mesh_takes_little_memory():
    modes = np.random.default_rng(0).uniform(0, 4000, 200_000)
    with at_most(40):
        density = density_of(modes, np.ones(len(modes)), np.arange(-50, 4050, 1.0))
    assert density.sum() == pytest.approx(len(modes), rel=1e-6)


@pytest.mark.parametrize("temperatures", [300.0, [0.0, 10.0, 300.0, 1000.0]])
def test_thermodynamics_in_pieces_are_those_of_the_whole(temperatures, monkeypatch):
    draw = torch.Generator().manual_seed(0)
    modes = 1000 * torch.rand(17, 5, generator=draw, dtype=torch.float64) - 50
    modes[0, :3] = 0
    weights = torch.rand(17, generator=draw, dtype=torch.float64)
    weights[3:9] = 0
    with pytest.warns(UserWarning, match="imaginary"):
        whole = mf.harmonic_thermo(modes, temperatures, weights=weights, unit="cm-1")
    largest = []

    def spy(frequencies, kelvin, weights, unit):
        largest.append(frequencies.numel() * kelvin.numel())
        return mf.harmonic_thermo(frequencies, kelvin, weights=weights, unit=unit)

    monkeypatch.setattr(thermo_pieces, "PIECE_SIZE", 12)
    monkeypatch.setattr(thermo_pieces, "harmonic_thermo", spy)
    pieces = thermo_in_pieces(modes, temperatures, weights)
    assert max(largest) <= 12
    for name, value in whole._asdict().items():
        if name.startswith("n_"):  # wave vectors without weight are left out
            continue
        torch.testing.assert_close(getattr(pieces, name), value, rtol=1e-12, atol=1e-15)
    everywhere = thermo_in_pieces(modes, temperatures, torch.ones_like(weights))
    assert int(everywhere.n_zero) == 3
    assert int(everywhere.n_imaginary) == int((modes < 0).sum())


def test_modes_that_are_not_drawn_are_counted_in_their_panel():
    (figure,) = spectra_figures([row("odd", [-50.0, 200.0, 1e9, -1e300]), *many(2)])
    axes = figure.axes[0]
    assert axes.get_title("right") == "2 imaginary"
    assert [text.get_text() for text in axes.texts] == ["2 beyond 6000 cm$^{-1}$"]


def test_a_number_of_any_size_is_short():
    assert formatted(-1e300, ".1f") == "-1e+300"
    assert formatted(1234567.25, ".1f") == "1234567.2"
    assert formatted(math.nan, ".1f") == formatted(None, ".1f")


# Structures that cannot be used.


def with_spectrum(name, **parts):
    sound = row(name, MODES["alpha"])
    return Row(sound.record, replace(sound.spectrum, **parts))


UNUSABLE = {
    "NaN": row("odd", [100.0, math.nan]),
    "infinite": row("odd", [100.0, math.inf]),
    "no mass": row("odd", [100.0, 200.0], mass=None),
    "mass of zero": row("odd", [100.0, 200.0], mass=0.0),
    "NaN mass": row("odd", [100.0, 200.0], mass=math.nan),
    "other number of weights": with_spectrum("odd", weights=torch.ones(3).double()),
    "weights of zero": with_spectrum("odd", weights=torch.zeros(1).double()),
    "one dimension": with_spectrum("odd", frequencies=torch.ones(4).double()),
    "no wave vectors": with_spectrum(
        "odd",
        frequencies=torch.zeros(0, 4).double(),
        weights=torch.zeros(0).double(),
        q=torch.zeros(0, 3).double(),
    ),
    "integers": with_spectrum("odd", frequencies=torch.ones(1, 4, dtype=torch.int64)),
}
ODD = {
    "1e9": row("odd", [100.0, 1e9]),
    "-1e300": row("odd", [-1e300, 100.0]),
    "1e-300": row("odd", [1e-300, 100.0]),
    "subnormal": row("odd", [1e-310, 100.0]),
    "no modes": row("odd", np.zeros(0)),
    "all rigid": row("odd", [0.0, 0.0, 0.0]),
    "all imaginary": row("odd", [-10.0, -20.0]),
    "nothing known": row(
        "odd",
        [100.0],
        **dict.fromkeys(
            ["formula", "energy", "largest_force", "lowest_frequency", "n_gradients", "converged"]
        ),
    ),
    "not finite": row("odd", [100.0], energy=math.nan, largest_force=math.inf, asymmetry=math.nan),
    "endless": row("odd", [100.0], seconds_modes=math.inf, lowest_frequency=-math.inf),
}


def renamed(row, name):
    return Row(replace(row.record, name=name), row.spectrum)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("others", [2, pytest.param(PANELS, marks=pytest.mark.slow)])
def test_one_structure_takes_nothing_from_the_others(others, tmp_path):
    odd = [renamed(row, name) for name, row in (UNUSABLE | ODD).items()]
    rows = [*many(others), *odd]
    values = {r.record.name: 0.5 for r in rows}
    page = written(tmp_path, rows, references=[Reference("PBE", 300.0, values)])
    assert all(r.record.name in page.text for r in rows)
    assert len(page.images()) == 3
    assert page.text.count("failed: its results cannot be used") == len(UNUSABLE)
    assert "could not be drawn" not in page.text
    assert "cannot be drawn: subnormal (ValueError: its heat capacity is not finite)" in page.text


def test_a_structure_that_cannot_be_drawn_is_left_out_and_named(tmp_path, monkeypatch):
    def fragile(rows, highest):
        if any(r.record.name in ("S003", "S011") for r in rows):
            raise RuntimeError("no such colour")
        return heat(rows, highest)

    heat = report.heat_capacity_figure
    monkeypatch.setattr(report, "heat_capacity_figure", fragile)
    page = written(tmp_path, many(20))
    assert "Left out, because they cannot be drawn: S003 (RuntimeError: no such colour); S011" in (
        page.text
    )
    assert len(page.images()) == 2
    assert (tmp_path / "figures" / "heat_capacity.png").exists()


def test_a_figure_that_never_works_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "LARGEST", 100)
    page = written(tmp_path, ROWS)
    assert page.text.count("This figure could not be drawn: ValueError: the figure would have") == 2
    assert page.images() == []


def test_a_row_that_cannot_be_shown_is_named(tmp_path, monkeypatch):
    def fragile(record):
        if record.formula == "bad":
            raise RuntimeError("no such element")
        return "SiO2"

    monkeypatch.setattr(report_structures, "formula_words", fragile)
    page = written(tmp_path, [*ROWS, row("odd", [100.0], formula="bad")])
    assert "cannot be shown: RuntimeError: no such element" in page.text
    assert "alpha" in page.text


def test_a_page_does_not_grow_with_a_name_or_a_reason(tmp_path):
    rows = [failed("n" * 100_000, "x" * 1_000_000), row("y" * 100_000, [100.0])]
    page = written(tmp_path, rows)
    assert len(page.source) < 300_000


# Any records.

NUMBERS = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.floats(-4000, 4000),
    st.sampled_from([0.0, 1e-310, 1e9]),
)
NAMES = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["<b>x</b>", "a\nb", "$x$", "$", "\\$\\", "$\\frac{", "&amp;", "%s{}", "[red]", "z" * 1000]
    ),
)


@st.composite
def any_row(draw):
    name = draw(NAMES)
    if draw(st.booleans()) and draw(st.booleans()):
        return failed(name, draw(NAMES))
    n_waves, n_modes = draw(st.integers(1, 3)), draw(st.integers(0, 4))
    modes = [draw(NUMBERS) for _ in range(n_waves * n_modes)]
    optional = st.one_of(st.none(), NUMBERS)
    facts = {
        "mass": draw(st.one_of(st.just(20.0), optional)),
        "n_atoms": draw(st.integers(1, 10**6)),
        "formula": draw(NAMES),
        "energy": draw(optional),
        "largest_force": draw(optional),
        "largest_stress": draw(optional),
        "acoustic_sum_residual": draw(optional),
        "asymmetry": draw(optional),
        "seconds_modes": draw(optional),
        "converged": draw(st.sampled_from([None, True, False])),
        "relaxation": draw(st.one_of(st.none(), NAMES)),
    }
    weights = [draw(st.one_of(st.just(1 / n_waves), NUMBERS)) for _ in range(n_waves)]
    made = row("", np.zeros(0), **facts)
    spectrum = Spectrum(
        torch.tensor(modes, dtype=torch.float64).reshape(n_waves, n_modes),
        torch.tensor(weights, dtype=torch.float64),
        torch.zeros(n_waves, 3, dtype=torch.float64),
    )
    return Row(replace(made.record, name=name), spectrum)


@given(
    rows=st.lists(any_row(), max_size=4),
    label=NAMES,
    kelvin=st.sampled_from([0.0, 1e-3, 300.0, 1e6]),
    value=NUMBERS,
)
@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_any_records_make_a_page_that_names_them_all(rows, label, kelvin, value, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    rows = [*ROWS[:2], *rows]
    references = [Reference(label, kelvin, {r.record.name: value for r in rows} | {"alpha": 0.4})]
    page = Page(write_report(folder, rows, SETTINGS, [kelvin], references))
    assert f"Screening of {len(rows)} structures" in page.text
    assert {tag for tag, _ in page.tags}.isdisjoint({"b", "i", "u"})
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert sum(tag == "th" and "id" in dict(values) for tag, values in page.tags) == len(rows)
    assert "heat capacity" in [values.get("alt") for tag, values in page.tags if tag == "img"]


@pytest.mark.slow
@given(rows=st.lists(any_row(), max_size=30), label=NAMES, value=NUMBERS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_many_records_of_any_kind_make_a_page(rows, label, value, tmp_path_factory):
    references = [Reference(label, 300.0, {r.record.name: value for r in rows})]
    Page(write_report(tmp_path_factory.mktemp("page"), rows, SETTINGS, [300.0], references))
