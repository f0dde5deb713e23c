"""Figure of thermal conductivity: its curves are those of the result."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from pair_crystals import ions, relaxed

import mace_functional as mf
from mace_functional.anharmonic import linewidths_along
from mace_functional.figures import conductivity_figure, linewidth_band_figure

pytest.importorskip("phono3py")


@pytest.fixture(scope="module")
def result():
    options = {"supercell": (2, 2, 2), "phonon_supercell": (2, 2, 2), "relaxed": True}
    with pytest.warns(UserWarning, match="frequencies from the supercell"):
        return mf.thermal_conductivity(
            ions(), relaxed("salt"), [400.0, 100.0, 250.0], mesh=(4, 4, 4), **options
        )


def test_a_cubic_crystal_has_one_curve_and_accumulations_end_at_it(result):
    kappa, by_frequency, by_path, widths = conductivity_figure(result).axes
    ((t, drawn),) = [line.get_xydata().T for line in kappa.lines]
    assert t.tolist() == [100, 250, 400]
    assert np.allclose(drawn, result.kappa[[1, 2, 0], 0, 0])
    for panel in by_frequency, by_path:
        (line,) = panel.lines
        assert line.get_ydata()[-1] == pytest.approx(result.kappa[2, 0, 0])
        assert panel.get_title(loc="left") == "250 K"
    (points,) = widths.collections
    total = result.total_linewidths[2]
    assert len(points.get_offsets()) == ((total > 0) & (result.frequencies > 0)).sum()


def test_different_axes_have_their_own_curves(result):
    stretched = result.kappa * np.diag([1, 1, 2.0])
    figure = conductivity_figure(dataclasses.replace(result, kappa=stretched), temperature=100.0)
    kappa, by_frequency, *_ = figure.axes
    assert [line.get_label() for line in kappa.lines] == ["x, y", "z"]
    assert [text.get_text() for text in kappa.get_legend().get_texts()] == ["x, y", "z"]
    assert len(by_frequency.lines) == 2
    with pytest.raises(ValueError, match="no conductivity at 300 K"):
        conductivity_figure(result, temperature=300.0)


def test_bands_have_points_in_the_colours_of_the_linewidths(result):
    bands = mf.band_structure(mf.phonons_of(ions(), relaxed("salt")), "GXL", points=12)
    widths = linewidths_along(result, bands)
    panel, scale = linewidth_band_figure(bands, widths, temperature=250.0).axes
    points = panel.collections[-1]
    shown = widths.linewidths[2] > 0
    assert np.allclose(points.get_array(), widths.linewidths[2][shown])
    wavenumbers = points.get_offsets()[:, 1]
    assert np.allclose(wavenumbers, widths.frequencies[shown] * 33.35640952)
    assert "250 K" in scale.get_ylabel()
    with pytest.raises(ValueError, match="no linewidths at 300 K"):
        linewidth_band_figure(bands, widths, temperature=300.0)
