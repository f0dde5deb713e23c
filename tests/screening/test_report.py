"""The report of a screening: parity with references, figures, and the page."""

from __future__ import annotations

import itertools
from dataclasses import replace
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from helpers import mostly_slow
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.text import Text
from scipy import constants as codata
from scipy.integrate import trapezoid
from screened import (
    MODES,
    ROWS,
    SETTINGS,
    Page,
    einstein,
    failed,
    many,
    row,
    scaled_reference,
    written,
)

import mace_functional as mf
from mace_functional.figures.axes import BLUE, RED
from mace_functional.screening.parity import Errors, common_scale, heat_capacities, parity_of
from mace_functional.screening.provenance import Provenance
from mace_functional.screening.record import RECORD, SPECTRUM, STRUCTURE
from mace_functional.screening.references import Reference
from mace_functional.screening.report import write_report
from mace_functional.screening.report_figures import (
    COLOURS,
    OUTLIERS,
    PANELS,
    STACK,
    heat_capacity_figure,
    parity_figure,
    spectra_figures,
    spectra_groups,
)
from mace_functional.screening.rows import Row
from mace_functional.screening.screen_settings import ScreenSettings

undrawn = pytest.mark.usefixtures("blank_images")
"""For what is read on the page, and not in its figures."""

# Parity.


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.1, 1.6])
@pytest.mark.parametrize("temperature", [150.0, 300.0])
def test_a_known_scale_of_all_frequencies_is_found_again_and_leaves_no_error(factor, temperature):
    parity = parity_of(ROWS, scaled_reference(ROWS, factor, temperature))
    assert parity.scale == pytest.approx(factor, abs=1e-6)
    assert parity.scaled_errors.mean_relative < 1e-6
    assert parity.scaled_errors.r_squared == pytest.approx(1, abs=1e-9)
    assert (parity.errors.mean_relative > 0.01) is (factor != 1)
    np.testing.assert_allclose(parity.scaled, parity.values, rtol=1e-6)


@pytest.mark.parametrize("seed", mostly_slow(range(4), [0]))
def test_no_other_scale_has_a_smaller_mean_relative_error(seed):
    draw = np.random.default_rng(seed)
    exact = scaled_reference(ROWS, 1.2)
    values = {name: value * draw.normal(1, 0.15) for name, value in exact.values.items()}
    parity = parity_of(ROWS, replace(exact, values=values))

    def error(scale):
        relative = [einstein(scale * np.array(MODES[n]), 300) / values[n] - 1 for n in MODES]
        return abs(np.array(relative)).mean()

    assert parity.scaled_errors.mean_relative == pytest.approx(error(parity.scale), abs=1e-9)
    assert error(parity.scale) <= min(map(error, np.linspace(0.5, 2, 3001))) + 1e-9


def test_there_is_no_scale_at_the_ends_of_the_search_and_for_a_single_structure():
    for factor in 0.3, 3.0:
        parity = parity_of(ROWS, scaled_reference(ROWS, factor))
        assert (parity.scale, parity.scaled, parity.scaled_errors) == (None, None, None)
    single = parity_of(ROWS, scaled_reference(ROWS[:1], 1.1))
    assert (single.names, single.scale, single.errors.r_squared) == (("alpha",), None, None)
    assert common_scale(lambda scales: np.ones((1, len(scales))), np.ones(1)) is None


def test_errors_are_those_worked_out_by_hand():
    errors = Errors.of(np.array([1.1, 1.0, 3.0, 4.0, 5.0]), np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert errors.mean_absolute == pytest.approx(1.1 / 5)
    assert errors.mean_relative == pytest.approx((0.1 + 0.5 + 0) / 5)
    assert (errors.largest_relative, errors.worst) == (-0.5, 1)
    assert errors.r_squared == pytest.approx(1 - 1.01 / 10)
    assert Errors.of(np.arange(1.0, 6.0), np.ones(5)).r_squared is None


def test_only_structures_with_a_result_and_a_sound_reference_are_compared():
    values = {"alpha": 1.0, "beta": np.nan, "gamma": 0.0, "broken": 1.0, "unknown": 1.0}
    rows = [*ROWS, failed("broken")]
    assert parity_of(rows, Reference("some", 300.0, values)).names == ("alpha",)
    assert parity_of(rows, Reference("none", 300.0, {"unknown": 1.0})) is None
    assert parity_of([], Reference("none", 300.0, values)) is None


def test_heat_capacities_are_those_of_oscillators_without_imaginary_ones_and_zeros():
    mesh = row("mesh", [[0.0, 0.0, 300.0], [-40.0, 200.0, 500.0]], (0.25, 0.75), n_imaginary=1)
    capacity = heat_capacities([ROWS[0], mesh], [200.0, 400.0])
    for column, temperature in enumerate((200.0, 400.0)):
        expected = [
            einstein(MODES["alpha"], temperature),
            einstein([300.0], temperature) / 4 + 3 * einstein([200.0, 500.0], temperature) / 4,
        ]
        np.testing.assert_allclose(capacity[:, column], expected, rtol=1e-6)
    with pytest.raises(ValueError, match="broken failed"):
        heat_capacities([failed("broken")], [300.0])


def test_four_structures_are_too_few_for_a_factor_and_for_r_squared(tmp_path):
    few, enough = ROWS[:4], ROWS[:5]
    assert parity_of(few, scaled_reference(few, 1.1)).scale is None
    assert parity_of(few, scaled_reference(few, 1.1)).errors.r_squared is None
    assert parity_of(enough, scaled_reference(enough, 1.1)).scale == pytest.approx(1.1, abs=1e-6)
    page = written(tmp_path, few, references=[scaled_reference(few, 1.1)])
    assert "need 5 structures, and there are too few: 4" in page.text
    assert "mean absolute error" in page.text
    assert "minimises" not in page.text
    assert "minimises" in written(tmp_path, enough, references=[scaled_reference(enough, 1.1)]).text


# Figures.


def names_in(axes):
    return [text for text in axes.texts if text.get_text()]


@pytest.mark.parametrize("count", [1, len(COLOURS), len(COLOURS) + 1, 80])
def test_names_of_heat_capacities_do_not_cover_each_other_and_stay_in_the_figure(count):
    modes = np.array(MODES["alpha"])
    rows = [row(f"structure {i}", modes * (1 + 1e-4 * i)) for i in range(count)]
    figure = heat_capacity_figure(rows, 400.0)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    names = names_in(figure.axes[0])
    assert len(names) == (count if count <= len(COLOURS) else OUTLIERS)
    boxes = [Text.get_window_extent(name, canvas.get_renderer()) for name in names]
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    for box in boxes:
        assert figure.bbox.containsx(box.x1)
        assert figure.bbox.containsy(box.y0)
        assert figure.bbox.containsy(box.y1)


def test_curves_of_structures_with_imaginary_modes_are_dashed():
    rows = [ROWS[0], row("unstable", [-80.0, 200.0, 900.0])]
    styles = [line.get_linestyle() for line in heat_capacity_figure(rows, 300.0).axes[0].lines]
    assert styles == ["-", "--"]


def test_structures_outside_of_ten_per_cent_are_red_and_named():
    rows = many(30)
    exact = scaled_reference(rows, 1.0).values
    off = {"S003": 1.3, "S020": 0.8}
    values = {name: value * off.get(name, 1.02) for name, value in exact.items()}
    axes = parity_figure(parity_of(rows, Reference("PBE", 300.0, values))).axes[0]
    red = [line for line in axes.lines if line.get_color() == RED]
    assert [len(line.get_xdata()) for line in red] == [2]
    assert {text.get_text() for text in names_in(axes)} == set(off)


def test_parity_has_a_panel_with_scaled_frequencies_only_where_there_is_a_scale():
    scaled = parity_figure(parity_of(ROWS, scaled_reference(ROWS, 1.1)))
    assert ["scaled by 1.100" in axes.get_title("left") for axes in scaled.axes] == [False, True]
    assert len(parity_figure(parity_of(ROWS, scaled_reference(ROWS[:1], 1.1))).axes) == 1


def test_spectra_of_few_have_a_panel_each_with_imaginary_modes_in_red():
    mesh = row("mesh", [[0.0, 0.0, 300.0], [-40.0, 200.0, 500.0]], (0.25, 0.75))
    (figure,) = spectra_figures([ROWS[0], mesh])
    alpha, other = figure.axes
    assert [axes.get_title("left") for axes in figure.axes] == ["alpha", "mesh"]
    assert [axes.get_title("right") for axes in figure.axes] == ["", "1 imaginary"]
    assert alpha.get_xlim() == other.get_xlim()
    for axes, colour, modes in (alpha, BLUE, 4), (other, BLUE, 0.25 + 1.5), (other, RED, 0.75):
        (line,) = (line for line in axes.lines if line.get_color() == colour)
        assert trapezoid(*line.get_xydata().T[::-1]) == pytest.approx(modes, rel=1e-4)


def test_many_spectra_are_stacked_by_size_with_every_name_once():
    rows = many(2 * STACK + 1)
    rows[7] = row("S007", [-300.0, 500.0], n_atoms=40)
    figures = spectra_figures(rows)
    labels = [label for figure in figures for label in figure.axes[0].get_yticklabels()]
    sizes = {r.record.name: r.record.n_atoms for r in rows}
    assert len(figures) == 3
    assert sorted(label.get_text() for label in labels) == sorted(sizes)
    atoms = [sizes[label.get_text()] for label in labels]
    assert atoms == sorted(atoms)
    assert [label.get_text() for label in labels if label.get_color() == RED] == ["S007"]


def test_a_soft_but_real_mode_is_not_red_in_a_stack():
    rows = [row(f"R{i}", [2.0, 400.0]) for i in range(PANELS)] + [row("I", [-200.0, 400.0])]
    (figure,) = spectra_figures(rows)
    (red,) = (
        image
        for image in figure.axes[0].images
        if image.get_cmap()(1.0) == pytest.approx(to_rgba(RED))
    )
    shown = dict(zip(figure.axes[0].get_yticklabels(), red.get_array().max(1), strict=True))
    assert {label.get_text() for label, most in shown.items() if most > 0} == {"I"}


# The page.


def test_page_has_every_structure_and_needs_nothing_outside_of_itself(tmp_path):
    rows = [*ROWS, failed("broken"), row("unstable", [-80.0, 200.0, 900.0])]
    page = written(tmp_path, rows, references=[scaled_reference(ROWS, 1.1, label="PBE-D3")])
    for name in (r.record.name for r in rows):
        assert name in page.text
    assert page.text.startswith("Screening of 7 structures")
    assert "7: 6 done, 1 failed" in page.text
    assert all(src.startswith("data:image/png;base64,") for src in page.attributes("src"))
    assert {href[1:] for href in page.attributes("href")} <= set(page.attributes("id"))
    assert all(href.startswith("#") for href in page.attributes("href"))
    assert {tag for tag, _ in page.tags}.isdisjoint({"link", "iframe"})
    assert [values for tag, values in page.tags if tag == "script"] == [{}]
    assert "http" not in page.source
    assert "url(" not in page.source


def test_images_of_the_page_are_the_files_beside_it(tmp_path):
    page = written(tmp_path, ROWS, references=[scaled_reference(ROWS, 1.1)])
    files = {path.name: path.read_bytes() for path in (tmp_path / "figures").iterdir()}
    assert sorted(files) == ["heat_capacity.png", "parity-1.png", "spectra-1.png"]
    assert sorted(files.values()) == sorted(page.images())
    assert all(image.startswith(b"\x89PNG") for image in page.images())


@undrawn
def test_figures_of_an_earlier_report_go_and_those_of_others_stay(tmp_path):
    written(tmp_path, ROWS, references=[scaled_reference(ROWS, 1.1)])
    (tmp_path / "figures" / "mine.png").write_bytes(b"")
    written(tmp_path, [failed("broken")])
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["mine.png"]
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["report.html"]


@undrawn
def test_numbers_of_the_table_are_at_the_temperature_nearest_to_300_k(tmp_path):
    reference = Reference("PBE", 350.0, {"alpha": 0.5})
    page = written(tmp_path, ROWS[:1], references=[reference])
    assert "(310 K)" in page.text
    assert f"{einstein(MODES['alpha'], 310.0):.4f}" in page.text
    assert f"{100 * (einstein(MODES['alpha'], 350.0) / 0.5 - 1):+.1f}" in page.text
    molar = mf.harmonic_thermo(torch.tensor(MODES["alpha"]).double(), 310.0, unit="cm-1")
    assert f"{codata.e * codata.N_A * float(molar.entropy):.1f}" in page.text


@undrawn
def test_statistics_of_each_reference_are_on_the_page(tmp_path):
    references = [
        scaled_reference(ROWS, 1.1, label="first"),
        scaled_reference(ROWS, 1.25, 350.0, label="second"),
        Reference("third", 300.0, {"other": 1.0}),
    ]
    page = written(tmp_path, ROWS, references=references)
    for words in "Against first , 300 K", "Against second , 350 K", "1.1000", "1.2500":
        assert words.replace(" ,", ",") in page.text
    assert "No structure with a result has a value there" in page.text
    assert len(page.images()) == 4


FINDINGS = {
    "Failed": failed("odd"),
    "Not relaxed": row("odd", [50.0, 600.0], converged=False, largest_force=0.2),
    "Imaginary modes": row("odd", [-50.0, 600.0]),
    "Large forces": row("odd", [50.0, 600.0], converged=None, largest_force=0.06),
    "Very soft modes": row("odd", [3.0, 600.0]),
    "Inexact Hessian": row("odd", [50.0, 600.0], asymmetry=1e-3),
}


@undrawn
@pytest.mark.parametrize("finding", FINDINGS)
def test_each_finding_is_named_once_and_nothing_else(finding, tmp_path):
    page = written(tmp_path, [ROWS[0], FINDINGS[finding]])
    first = page.words[: page.words.index("Heat capacity")]
    assert [title for title in FINDINGS if title in first] == [finding]
    assert first.count(finding) == 1
    assert page.attributes("href") == ["#s1"]
    assert page.text.index("To look at first") < page.text.index("Heat capacity")


@undrawn
def test_sound_results_have_no_findings(tmp_path):
    page = written(tmp_path, ROWS[:1])
    assert "To look at first" not in page.text
    assert page.attributes("href") == []


@undrawn
def test_forces_are_measured_by_what_was_asked_for(tmp_path):
    rough = row("rough", [50.0, 600.0], largest_force=0.02)
    assert "Large forces" in written(tmp_path, [rough]).words
    assert "Large forces" not in written(tmp_path, [rough], replace(SETTINGS, fmax=0.02)).words
    unrelaxed = row("rough", [50.0, 600.0], largest_force=0.02, converged=None)
    settings = replace(SETTINGS, relax=False)
    assert "Large forces" not in written(tmp_path, [unrelaxed], settings).words


@undrawn
def test_single_precision_rounds_more(tmp_path):
    rounded = row("rounded", [50.0, 600.0], acoustic_sum_residual=1e-4)
    assert "Inexact Hessian" in written(tmp_path, [rounded]).words
    single = replace(SETTINGS, dtype="float32")
    assert "Inexact Hessian" not in written(tmp_path, [rounded], single).words


@undrawn
def test_soft_acoustic_modes_of_a_dense_mesh_are_no_doubt(tmp_path):
    mesh = row("mesh", [[0.0, 0.0, 0.0, 90.0], [2.0, 3.0, 4.0, 90.0]], (0.5, 0.5))
    assert "Very soft modes" not in written(tmp_path, [mesh]).words


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rows", [[], [failed("a"), failed("b")]], ids=["none", "failed"])
def test_a_screening_without_results_has_a_page(rows, tmp_path):
    page = written(tmp_path, rows, references=[Reference("PBE", 300.0, {"a": 1.0})])
    assert "No structure has a result" in page.text
    assert page.images() == []
    assert page.words.count("Failed") == bool(rows)


@pytest.mark.filterwarnings("error")
def test_one_atom_and_an_odd_number_of_modes_have_a_page(tmp_path):
    rows = [
        row("atom", np.zeros(0), n_atoms=1),
        row("bent", [400.0, 700.0, 1200.0, 2100.0, 3600.0], volume=None),
        row("all imaginary", [-20.0, -10.0]),
    ]
    page = written(tmp_path, rows, temperatures=[0.0])
    assert all(r.record.name in page.text for r in rows)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("others", [0, PANELS])
def test_names_of_any_characters_are_text(others, tmp_path):
    names = [
        '<b>&"quoted"</b>',
        "$x_1$ and $",
        "沸石-β",
        "a\tb\nc",
        "raw-\udcff",
        "n" * 200,
        "100%",
        "\x1b[1m",
    ]
    rows = [row(name, MODES["alpha"]) for name in names] + many(others)
    rows.append(failed("<i>", "expected <cell> & got $nothing$"))
    values = {r.record.name: 0.3 for r in rows}
    page = written(tmp_path, rows, references=[Reference("<u> $ref", 300.0, values)])
    for name in names:
        shown = name.encode("utf-8", "replace").decode()
        assert " ".join(shown.split()) in page.text
    assert "expected <cell> & got $nothing$" in page.text
    assert {tag for tag, _ in page.tags}.isdisjoint({"b", "i", "u"})


def test_a_report_needs_a_temperature(tmp_path):
    with pytest.raises(ValueError, match="needs a temperature"):
        write_report(tmp_path, ROWS, SETTINGS, [])


@undrawn
def test_settings_are_told_in_words(tmp_path):
    settings = ScreenSettings("small", head="a&b", dispersion="pbe", relax=False, mesh=(2, 2, 1))
    page = written(tmp_path, ROWS[:1], settings)
    for words in "small, head a&b, float64, D3 dispersion for PBE", "mesh of 2 × 2 × 1":
        assert words in page.text
    assert "not relaxed" in page.text
    assert "1 of 1 converged" in written(tmp_path, ROWS[:1]).text


@undrawn
def test_report_of_a_real_structure_shows_its_heat_capacity(tmp_path):
    atoms = mf.example_structure("quartz")
    modes = mf.gamma_modes(mf.load_model("embedded"), atoms)
    mass = float(atoms.get_masses().sum())
    quartz = row("quartz", modes.frequencies.tolist(), mass=mass, largest_force=1e-4)
    expected = mf.harmonic_thermo(modes, 298.15).specific_heat_capacity([mass])
    page = written(tmp_path, [quartz], temperatures=[298.15])
    assert f"{float(expected):.4f}" in page.text


@undrawn
def test_page_tells_date_versions_and_model_without_folders(tmp_path):
    digest = "0123456789abcdef" * 4
    provenance = Provenance.of("/somewhere/else/my.model", digest)
    settings = ScreenSettings("/somewhere/else/my.model")
    computed = row(
        "one",
        MODES["alpha"],
        computed="2026-01-02T03:04:05+00:00",
        versions={"mace_functional": "0.0.1", "torch": "2.9"},
    )
    unread = failed("other", "/somewhere/data/other.cif: it holds no atoms")
    unread = Row(replace(unread.record, file="/somewhere/data/other.cif"), None)
    path = write_report(tmp_path, [computed, unread], settings, [300.0], provenance=provenance)
    page = Page(path)
    assert "my.model, sha256 of weights and settings 0123456789ab, float64" in page.text
    assert "2 January 2026, 03:04 UTC, with mace_functional 0.0.1, torch 2.9" in page.text
    assert f"UTC, by mace_functional {mf.__version__}, torch {torch.__version__}" in page.text
    assert "other.cif: it holds no atoms" in page.text
    assert "somewhere" not in page.source


@undrawn
def test_each_structure_links_to_the_files_that_it_has(tmp_path):
    rows = [ROWS[0], failed("broken")]
    for i, names in enumerate([(STRUCTURE, SPECTRUM, RECORD), (RECORD,)]):
        folder = tmp_path / "structures" / f"an odd name #{i}"
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).touch()
        rows[i] = replace(rows[i], folder=folder)
    addresses = written(tmp_path, rows).attributes("href")
    files = [tmp_path / unquote(address) for address in addresses if address[0] != "#"]
    assert sorted(path.name for path in files) == sorted([STRUCTURE, SPECTRUM, RECORD, RECORD])
    assert all(path.exists() for path in files)
    assert "#spectra-1" in addresses


def test_each_of_many_structures_links_to_the_image_with_its_spectrum(tmp_path):
    rows = [replace(r, folder=tmp_path / r.record.name) for r in many(PANELS + STACK)]
    page = written(tmp_path, rows)
    ids = set(page.attributes("id"))
    links = [address[1:] for address in page.attributes("href") if "spectra" in address]
    by_name = sorted(rows, key=lambda r: r.record.name)
    for image, group in enumerate(spectra_groups(by_name), 1):
        assert {links[i] for i in group} == {f"spectra-{image}"} <= ids


@undrawn
def test_table_of_structures_has_numbers_to_sort_by(tmp_path):
    page = written(tmp_path, [row("one", MODES["alpha"], n_atoms=12, largest_force=2e-5)])
    values = [float(value) for value in page.attributes("data-value")]
    assert 12.0 in values
    assert 2e-5 in values


@undrawn
def test_formulas_of_the_page_are_formula_units(tmp_path):
    quartz = row("quartz", MODES["alpha"], formula="O6Si3", volume=113.0)
    molecule = row("benzene", MODES["alpha"], formula="C6H6")
    text = written(tmp_path, [quartz, molecule]).text
    assert "SiO 2 × 3" in text
    assert "C 6 H 6" in text
