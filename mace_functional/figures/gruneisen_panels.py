"""Figures of mode Grüneisen parameters: against frequency, and as colours of bands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from mace_functional.expansion import Gruneisen
from mace_functional.figures.axes import (
    BLUE,
    FREQUENCY_LABELS,
    RED,
    new_figure,
    set_sizes,
    tidy,
)
from mace_functional.figures.band_panels import draw_corners, draw_imaginary, real_half, set_range
from mace_functional.phonons.modes import degenerate_blocks

if TYPE_CHECKING:
    from mace_functional.phonons.bands import BandStructure

COLOURS = LinearSegmentedColormap.from_list(
    "gruneisen", ["#7d2a17", RED, "#cfcac4", BLUE, "#173a63"]
)
"""Colours of negative to positive parameters. Zero is grey, which is seen on white."""

COLOURED_SHARE = 0.98
"""Share of the modes within the colour scale; the few others have the colour of its end.

Parameters of soft modes are ten times as large as those of others.
"""


def gruneisen_figure(result: Gruneisen, *, unit: str = "cm-1") -> Figure:
    """Draw the Grüneisen parameters of uniform strain against the frequencies of their modes.

    Rigid motions and imaginary modes have no parameters and are left out.

    Args:
        result: Result of `gruneisen`.
        unit: Unit of the frequencies: "cm-1", "THz" or "meV".

    Returns:
        The figure, with one panel.

    Raises:
        ValueError: If the unit is unknown.
    """
    frequencies = result.frequencies_in(unit).flatten().numpy(force=True)
    parameters = result.parameters.flatten().numpy(force=True)
    figure, (axes,) = new_figure()
    axes.axhline(0, color="0.8", lw=0.8, zorder=0)
    axes.scatter(frequencies, parameters, s=4, color=np.where(parameters < 0, RED, BLUE), lw=0)
    axes.set_xlabel(FREQUENCY_LABELS[unit][0])
    axes.set_ylabel("Grüneisen parameter")
    tidy([axes])
    return figure


def gruneisen_band_figure(
    bands: BandStructure, result: Gruneisen, *, limit: float | None = None
) -> Figure:
    """Draw a band structure with lines in the colours of Grüneisen parameters of uniform strain.

    Blue modes soften when the crystal expands, red ones stiffen. Degenerate modes have the mean of
    their parameters, which does not depend on the choice of eigenvectors. Acoustic modes at Gamma,
    which have no parameter, have the colour of the next point. Imaginary modes have none either,
    and are drawn below zero as by `band_figure`.

    Args:
        bands: Result of `band_structure`.
        result: Result of `gruneisen` for these bands.
        limit: Largest absolute parameter of the colour scale; None for a scale that 98 % of the
            modes are within.

    Returns:
        The figure. `figure.axes` are the bands and the colour scale.

    Raises:
        ValueError: If the parameters are not at the wave vectors of the bands.
    """
    if result.q.shape != bands.q.shape or not np.allclose(result.q, bands.q):
        raise ValueError(
            "the Grüneisen parameters are not at the wave vectors of the bands: compute them by "
            "gruneisen(potential, atoms, bands)"
        )
    frequencies = result.frequencies_in(bands.unit).numpy(force=True)
    parameters = np.stack(
        [
            _means(blocks.numpy(force=True), gamma)
            for blocks, gamma in zip(
                map(degenerate_blocks, result.eigenvalues),
                result.parameters.numpy(force=True),
                strict=True,
            )
        ]
    )
    sizes = abs(parameters[~np.isnan(parameters)])
    if limit is None:
        limit = float(np.quantile(sizes, COLOURED_SHARE)) if sizes.size else 1.0
    figure = Figure(figsize=(7.0, 3.4), layout="constrained")
    axes = figure.subplots()
    set_range(axes, frequencies)
    draw_imaginary(axes, bands, frequencies)
    lines = _coloured_lines(axes, bands, frequencies, parameters)
    lines.set(clim=(-limit, limit))
    draw_corners(axes, bands)
    axes.axhline(0, color="0.6", lw=0.6, zorder=0)
    beyond = sizes.size and sizes.max() > limit
    bar = figure.colorbar(lines, ax=axes, pad=0.015, aspect=28, extend="both" if beyond else None)
    bar.set_label("Grüneisen parameter", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    set_sizes(axes)
    return figure


def _means(blocks: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the mean of values (M,) over each block, for each mode."""
    sums = np.bincount(blocks, np.nan_to_num(values))
    counts = np.bincount(blocks, ~np.isnan(values))
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)[blocks]


def _coloured_lines(
    axes: Axes, bands: BandStructure, frequencies: np.ndarray, parameters: np.ndarray
) -> LineCollection:
    """Draw bands from half steps: each has the colour of its point, or of the other one."""
    distance = bands.distance.numpy(force=True)
    within = np.setdiff1d(np.arange(len(distance) - 1), np.array(bands.starts[1:], int) - 1)
    points = np.stack([np.broadcast_to(distance[:, None], frequencies.shape), frequencies], -1)
    left, right = points[within], points[within + 1]
    middle = (left + right) / 2
    halves = np.stack([np.stack([left, middle], 2), np.stack([middle, right], 2)]).reshape(-1, 2, 2)
    here, there = parameters[within], parameters[within + 1]
    values = np.stack(
        [np.where(np.isnan(here), there, here), np.where(np.isnan(there), here, there)]
    ).reshape(-1)
    known = ~np.isnan(values)
    halves, values = halves[known], values[known]
    # Large parameters are drawn last: they are seen where lines cross.
    order = abs(values).argsort(kind="stable")
    lines = LineCollection(halves[order], array=values[order], cmap=COLOURS, zorder=2)
    lines.set(linewidth=1.6, capstyle="round")
    axes.add_collection(lines, autolim=False)
    lines.set_clip_path(real_half(axes))
    return lines
