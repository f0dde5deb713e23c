"""Figures of thermal conductivity: over temperature, its accumulation, linewidths on bands."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from mace_functional.anharmonic import BandLinewidths, ThermalConductivity
from mace_functional.figures.axes import BLUE, ELEMENTS, RED, tidy
from mace_functional.figures.band_panels import band_figure
from mace_functional.phonons import BandStructure
from mace_functional.units import frequency_factor

ROOM = 300.0
"""Temperature, K, to which the one that is drawn alone is the nearest."""

SAME = 1e-3
"""Largest difference of two axes that are drawn as one, relative to the largest conductivity."""

SHORTEST_SHARE = 1e-3
"""Share of the conductivity by shorter mean free paths than those that are drawn."""

COLOURS = (BLUE, RED, ELEMENTS[1])


def conductivity_figure(result: ThermalConductivity, *, temperature: float | None = None) -> Figure:
    """Draw thermal conductivity over temperature, its accumulation, and the linewidths.

    Axes of equal conductivity are drawn once. Coherences of Wigner's equation are in the
    conductivity, and not in the accumulation.

    Args:
        result: Result of `thermal_conductivity` or `conductivity_of`.
        temperature: One of its temperatures, K, for accumulation and linewidths; None for the
            nearest to 300 K.

    Returns:
        The figure. `figure.axes` are the conductivity, its accumulation over frequency and over
        mean free path, and the linewidths.

    Raises:
        ValueError: If the temperature is not one of the result.
    """
    if temperature is None:
        temperature = float(result.temperatures[abs(result.temperatures - ROOM).argmin()])
    index = result.index_of(temperature)
    figure = Figure(figsize=(7.0, 5.2), layout="constrained")
    panels = figure.subplots(2, 2).ravel().tolist()
    over_temperature, by_frequency, by_path, widths = panels
    axes = _different_axes(result)
    _draw_temperatures(over_temperature, result, axes)
    _draw_frequencies(by_frequency, result, axes, temperature)
    _draw_mean_free_paths(by_path, result, axes, temperature)
    frequencies, total = result.frequencies.ravel(), result.total_linewidths[index].ravel()
    conducts = (total > 0) & (frequencies > 0)
    widths.scatter(frequencies[conducts], total[conducts], s=5, color=BLUE, lw=0)
    widths.set_yscale("log")
    widths.set_xlim(by_frequency.get_xlim())
    widths.set_xlabel("frequency (THz)")
    widths.set_ylabel("linewidth (THz)")
    for panel in panels[1:]:
        panel.set_title(f"{temperature:g} K", fontsize=8, loc="left", color="0.3")
    if len(axes) > 1:
        over_temperature.legend(frameon=False, fontsize=8)
    tidy(panels)
    return figure


def linewidth_band_figure(
    bands: BandStructure, widths: BandLinewidths, temperature: float
) -> Figure:
    """Draw a band structure with points in the colours of the linewidths.

    Args:
        bands: Result of `band_structure`.
        widths: Result of `linewidths_along` for these bands.
        temperature: One of its temperatures, K.

    Returns:
        The figure. `figure.axes` are the bands and the colour scale.

    Raises:
        ValueError: If the temperature is not one of the linewidths, or there are no linewidths.
    """
    index = np.flatnonzero(np.isclose(widths.temperatures, temperature))
    if not len(index):
        raise ValueError(f"there are no linewidths at {temperature:g} K")
    values = widths.linewidths[index[0]]
    shown = (values > 0) & (widths.frequencies > 0)
    if not shown.any():
        raise ValueError("no point of the path has linewidths: take a finer mesh")
    figure = band_figure(bands)
    (axes,) = figure.axes
    for line in axes.lines:
        line.set(color="0.75", linewidth=0.8)
    places = np.broadcast_to(widths.distance[:, None], values.shape)
    factor = frequency_factor(bands.unit) / frequency_factor("THz")
    points = axes.scatter(
        places[shown],
        factor * widths.frequencies[shown],
        c=values[shown],
        norm=LogNorm(),
        s=14,
        lw=0,
        zorder=3,
    )
    bar = figure.colorbar(points, ax=axes, pad=0.015, aspect=28)
    bar.set_label(f"linewidth at {temperature:g} K (THz)", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return figure


def _different_axes(result: ThermalConductivity) -> dict[str, int]:
    """Return names of axes with equal conductivities, and the first of each."""
    along = np.einsum("taa->ta", result.kappa)
    groups: dict[str, int] = {}
    for axis, name in enumerate("xyz"):
        same = [
            known
            for known, first in groups.items()
            if abs(along[:, first] - along[:, axis]).max() <= SAME * abs(along).max()
        ]
        if same:
            groups[f"{same[0]}, {name}"] = groups.pop(same[0])
        else:
            groups[name] = axis
    return dict(sorted(groups.items()))


def _draw_temperatures(panel: Axes, result: ThermalConductivity, axes: dict[str, int]) -> None:
    order = result.temperatures.argsort()
    t = result.temperatures[order]
    for (name, axis), colour in zip(axes.items(), COLOURS, strict=False):
        panel.plot(
            t, result.kappa[order, axis, axis], "o-", ms=3.5, lw=1.2, color=colour, label=name
        )
    panel.set(xscale="log", yscale="log")
    for scale in panel.xaxis, panel.yaxis:
        scale.set_major_locator(LogLocator(subs=(1, 2, 5)))
        scale.set_major_formatter(ScalarFormatter())
        scale.set_minor_formatter(NullFormatter())
    panel.set_xlabel("temperature (K)")
    panel.set_ylabel("thermal conductivity (W m$^{-1}$ K$^{-1}$)")


def _draw_frequencies(
    panel: Axes, result: ThermalConductivity, axes: dict[str, int], temperature: float
) -> None:
    frequencies, sums = result.cumulative_by_frequency(temperature)
    for axis, colour in zip(axes.values(), COLOURS, strict=False):
        panel.step(frequencies, sums[:, axis, axis], where="post", lw=1.2, color=colour)
    panel.set_xlim(min(frequencies[0], 0), 1.03 * frequencies[-1])
    panel.set_ylim(bottom=0)
    panel.set_xlabel("frequency (THz)")
    panel.set_ylabel("accumulated (W m$^{-1}$ K$^{-1}$)")


def _draw_mean_free_paths(
    panel: Axes, result: ThermalConductivity, axes: dict[str, int], temperature: float
) -> None:
    paths, sums = result.cumulative_by_mean_free_path(temperature)
    for axis, colour in zip(axes.values(), COLOURS, strict=False):
        panel.step(paths, sums[:, axis, axis], where="post", lw=1.2, color=colour)
    traces = np.einsum("kaa->k", sums)
    counts = (traces > SHORTEST_SHARE * traces[-1]) & (paths > 0)
    panel.set_xscale("log")
    panel.set_xlim(0.8 * paths[counts][0], 1.3 * paths[-1])
    panel.set_ylim(bottom=0)
    panel.set_xlabel("mean free path (nm)")
    panel.set_ylabel("accumulated (W m$^{-1}$ K$^{-1}$)")
