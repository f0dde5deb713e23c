"""Band structures and densities of states of a crystal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from mace_functional.figures.axes import (
    BLUE,
    ELEMENTS,
    FREQUENCY_LABELS,
    RED,
    new_figure,
    set_sizes,
    tidy,
)

if TYPE_CHECKING:
    from mace_functional.phonons.bands import BandStructure
    from mace_functional.phonons.dos import DensityOfStates

GREEK = {"GAMMA": "Γ", "DELTA": "Δ", "LAMBDA": "Λ", "SIGMA": "Σ"}
"""Greek letters of wave vectors, by the name that seekpath gives them."""


def band_figure(
    bands: BandStructure,
    dos: DensityOfStates | None = None,
    symbols: Sequence[str] | None = None,
) -> Figure:
    """Draw a band structure and, beside it, the density of states on the same frequency axis.

    Imaginary modes are drawn below zero, in red.

    Args:
        bands: Result of `band_structure`.
        dos: Result of `density_of_states` in the same unit; left out if None.
        symbols: Chemical symbols of the atoms, (N,). If `dos` has projections on atoms, their sum
            for each element is drawn too.

    Returns:
        The figure. `figure.axes` are the bands and the density of states, if given.

    Raises:
        ValueError: If the units of bands and density of states differ, or the number of symbols is
            not that of the atoms.
    """
    if dos is not None and dos.unit != bands.unit:
        raise ValueError(
            f"the bands are in {bands.unit} and the density of states in {dos.unit}: compute both "
            "in one unit"
        )
    figure = Figure(figsize=(7.0, 3.4), layout="constrained")
    if dos is None:
        panels = [figure.subplots()]
    else:
        panels = list(figure.subplots(1, 2, sharey=True, width_ratios=[3.6, 1]))
        figure.set_layout_engine("constrained", wspace=0.0, w_pad=0.02)
    frequencies = bands.frequencies.detach().cpu().numpy()
    set_range(panels[0], frequencies)
    _draw_lines(panels[0], bands, frequencies, real_half(panels[0]), BLUE)
    draw_imaginary(panels[0], bands, frequencies)
    draw_corners(panels[0], bands)
    if dos is not None:
        _draw_density(panels[1], dos, symbols)
    for axes in panels:
        axes.axhline(0, color="0.6", lw=0.6, zorder=0)
        set_sizes(axes)
    return figure


def dos_figure(dos: DensityOfStates, symbols: Sequence[str] | None = None) -> Figure:
    """Draw a density of states, with imaginary modes below zero, in red.

    Args:
        dos: Result of `density_of_states`.
        symbols: Chemical symbols of the atoms, (N,), for the density of states of each element.

    Raises:
        ValueError: If the number of symbols is not that of the atoms.
    """
    figure, (axes,) = new_figure()
    _draw_density(axes, dos, symbols)
    axes.tick_params(axis="y", length=3)
    axes.set_ylabel(FREQUENCY_LABELS[dos.unit][0])
    tidy([axes])
    return figure


def set_range(axes: Axes, frequencies: np.ndarray) -> None:
    """Set the range of a frequency axis: from zero, or from the lowest imaginary mode.

    Args:
        axes: Panel of the bands.
        frequencies: Signed frequencies, of any shape.
    """
    lowest, highest = min(frequencies.min(), 0.0), max(frequencies.max(), 0.0)
    margin = 0.04 * (highest - lowest)
    axes.set_ylim(lowest - margin * (lowest < 0), highest + margin)


def real_half(axes: Axes) -> Rectangle:
    """Return the part of a panel of bands above zero, to which lines are clipped."""
    return _half(axes, 0.0, axes.get_ylim()[1])


def draw_imaginary(axes: Axes, bands: BandStructure, frequencies: np.ndarray) -> None:
    """Draw the parts of bands below zero, in red.

    Args:
        axes: Panel of the bands, with its range.
        bands: The path.
        frequencies: Signed frequencies in the unit of the panel, (P, M).
    """
    if (frequencies < 0).any():
        low = axes.get_ylim()[0]
        _draw_lines(axes, bands, frequencies, _half(axes, low, -low), RED)


def draw_corners(axes: Axes, bands: BandStructure) -> None:
    """Draw the names of the corners of a path, and lines at them, and label the frequency axis.

    Args:
        axes: Panel of the bands, with its range.
        bands: The path.
    """
    distance = bands.distance.cpu().numpy()
    corners = [
        (x, [_symbol(label) for _, label in group])
        for x, group in groupby(bands.labels, key=lambda corner: float(distance[corner[0]]))
    ]
    axes.set_xticks(
        [x for x, _ in corners], ["|".join(dict.fromkeys(names)) for _, names in corners]
    )
    axes.vlines([x for x, _ in corners[1:-1]], *axes.get_ylim(), color="0.75", lw=0.6, zorder=1)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(distance[0], distance[-1] or None)
    axes.set_ylabel(FREQUENCY_LABELS[bands.unit][0])


def _half(axes: Axes, foot: float, height: float) -> Rectangle:
    """Return a part of a panel that is as wide as can be, in the coordinates of its data."""
    across = axes.get_yaxis_transform()
    return Rectangle((0, foot), 1, height, transform=across)


def _draw_lines(
    axes: Axes, bands: BandStructure, frequencies: np.ndarray, half: Rectangle, colour: str
) -> None:
    """Draw bands where they are within half of a panel: colours change where they cross zero."""
    distance = bands.distance.cpu().numpy()
    for start, stop in zip(bands.starts, [*bands.starts[1:], len(distance)], strict=True):
        for line in axes.plot(
            distance[start:stop], frequencies[start:stop], color=colour, lw=0.9, zorder=2
        ):
            line.set_clip_path(half)


def _symbol(label: str) -> str:
    """Return the printed name of a wave vector, with Greek letters and subscripts."""
    name, *number = re.split(r"_|(?<=[A-Z])(?=\d)", label, maxsplit=1)
    return GREEK.get(name, name) + "".join(f"$_{{{n}}}$" for n in number)


def _draw_density(axes: Axes, dos: DensityOfStates, symbols: Sequence[str] | None) -> None:
    frequencies = dos.frequencies.detach().cpu().numpy()
    total = dos.total.detach().cpu().numpy()
    for part, colour in (frequencies >= 0, BLUE), (frequencies <= 0, RED):
        axes.fill_betweenx(frequencies, total, where=part, color=colour, alpha=0.2, lw=0)
    axes.plot(total, frequencies, color="0.25", lw=0.8, label="total")
    if symbols is not None and dos.per_atom is not None:
        if len(symbols) != len(dos.per_atom):
            raise ValueError(
                f"there are {len(symbols)} symbols for the densities of {len(dos.per_atom)} atoms"
            )
        per_atom = dos.per_atom.detach().cpu().numpy()
        for number, element in enumerate(dict.fromkeys(symbols)):
            density = per_atom[[symbol == element for symbol in symbols]].sum(0)
            colour = ELEMENTS[number % len(ELEMENTS)]
            axes.plot(density, frequencies, color=colour, lw=0.9, label=element)
        axes.legend(frameon=False, fontsize=8, handlelength=1.2, borderaxespad=0.2)
    axes.set_xlim(0, 1.05 * total.max())
    axes.set_xlabel(f"DOS (per {FREQUENCY_LABELS[dos.unit][1]})")
    axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    axes.tick_params(axis="y", length=0)
