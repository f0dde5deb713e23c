"""Figures of many structures: heat capacities, parity with references, and spectra.

Names are in a column beside the axes, spread so that they do not overlap, with a line to the curve
or point. Of few structures all are named, of many only outliers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from mace_functional.figures.axes import BLUE, ELEMENTS, RED
from mace_functional.figures.spectrum import (
    BROADENING,
    HIGHEST,
    axis_of,
    density_of,
    draw_spectrum,
    n_beyond,
)
from mace_functional.screening.parity import Errors, Parity
from mace_functional.screening.rows import Row, heat_capacities, spectrum_of
from mace_functional.screening.wording import printable
from mace_functional.units import EV_PER_MOLECULE

HEAT, PARITY, SPECTRA = "heat_capacity", "parity-{}", "spectra"
"""Names of figures."""

COLOURS = (BLUE, RED, *ELEMENTS, "#56616b", "#8fa63a", "#3f3f8f", "#d98880")
"""Colours of structures in figures where each is named."""

OUTLIERS = 8
"""Largest number of names in a figure of many structures."""

BAND = 0.1
"""Largest relative error inside the grey band of a parity figure."""

PANELS = 24
"""Largest number of structures whose spectra have a panel each; more are stacked."""

STACK = 50
"""Largest number of spectra in one stack."""

DRAWN = 1000
"""Largest number of structures whose spectra are drawn; those with the fewest atoms are taken. They
make 20 stacks of at most 3 MB each in the page."""

LONGEST = 22
"""Largest number of characters of a name in a figure; the middle of longer names is left out."""

SPECIFIC = "$C_V$ (J g$^{-1}$ K$^{-1}$)"


def heat_capacity_figure(rows: Sequence[Row], highest: float) -> Figure:
    """Heat capacities from 0 K up, a line for each structure, dashed where modes are imaginary.

    For more structures than there are colours, the median and a band with 80 % of the structures
    are drawn too, and only the highest and the lowest are named.

    Structures that were sampled by random vectors are points with two standard errors.

    Args:
        rows: Structures that did not fail.
        highest: Temperature, K.

    Returns:
        The figure.

    Raises:
        ValueError: If a heat capacity is not finite.
    """
    figure = Figure(figsize=(7.0, 3.6), layout="constrained")
    axes = figure.subplots()
    temperatures = np.linspace(0, highest, 151)
    sampled = [row for row in rows if row.sampled is not None]
    rows = [row for row in rows if row.sampled is None]
    curves = heat_capacities(rows, temperatures)
    if not np.isfinite(curves).all():
        raise ValueError("its heat capacity is not finite")
    few = len(rows) + len(sampled) <= len(COLOURS)
    if few:
        named, colours = list(range(len(rows))), list(COLOURS[: len(rows)])
        for row, curve, colour in zip(rows, curves, colours, strict=True):
            style = "--" if row.record.n_imaginary else "-"
            axes.plot(temperatures, curve, style, color=colour, lw=1.2)
    else:
        named, colours = _draw_many(axes, temperatures, curves) if rows else ([], [])
    ends = [(highest, float(curves[i, -1])) for i in named]
    names = [rows[i].record.name for i in named]
    for i, row in enumerate(sampled, len(rows)):
        colour = COLOURS[i] if few else ELEMENTS[0]
        last = _draw_points(axes, row, highest, colour)
        if few and last is not None:
            names, ends, colours = [*names, row.record.name], [*ends, last], [*colours, colour]
    axes.set(xlim=(0, highest or 1.0), ylim=(0, None))
    axes.set_xlabel("temperature (K)")
    axes.set_ylabel(SPECIFIC)
    _name(axes, names, ends, colours)
    _style(axes)
    return figure


def _draw_points(axes: Axes, row: Row, highest: float, colour: str) -> tuple[float, float] | None:
    """Draw a sampled structure with two standard errors; return its last point, if it has one."""
    found, mass = row.sampled, row.record.mass
    if found is None or not mass:
        return None
    shown = found.temperatures <= highest
    kelvin, *values = (
        x[shown].numpy()
        for x in (found.temperatures, found.heat_capacity, found.heat_capacity_error)
    )
    heat, error = (EV_PER_MOLECULE / mass * x for x in values)
    if not len(kelvin):
        return None
    if not np.isfinite(heat).all() or not np.isfinite(error).all():
        raise ValueError("its heat capacity or its standard error is not finite")
    axes.errorbar(kelvin, heat, 2 * error, fmt="o", color=colour, ms=3, lw=1, capsize=2)
    last = int(kelvin.argmax())
    return float(kelvin[last]), float(heat[last])


def _draw_many(
    axes: Axes, temperatures: NDArray[np.float64], curves: NDArray[np.float64]
) -> tuple[list[int], list[str]]:
    """Draw the curves, and choose the highest and lowest for naming, with their colours."""
    low, median, high = np.percentile(curves, [10, 50, 90], axis=0)
    order = curves[:, -1].argsort().tolist()
    named = order[: OUTLIERS // 2] + order[-(OUTLIERS // 2) :]
    axes.plot(temperatures, curves.T, color=BLUE, lw=0.5, alpha=0.15)
    axes.fill_between(temperatures, low, high, color=BLUE, alpha=0.3, lw=0, label="80 % of them")
    axes.plot(temperatures, median, color="0.15", lw=1.6, label=f"median of {len(curves)}")
    axes.plot(temperatures, curves[named].T, color=RED, lw=0.8)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    return named, [RED] * len(named)


def parity_figure(parity: Parity) -> Figure:
    """Computed against reference heat capacities, and beside them with all frequencies scaled.

    Structures with errors above `BAND` are red, and the worst are named; of few all are named.

    Args:
        parity: The comparison.

    Returns:
        The figure, with a panel for each.
    """
    panels = [("as computed", parity.predicted, parity.errors)]
    if parity.scaled is not None and parity.scaled_errors is not None:
        panels.append(
            (f"frequencies scaled by {parity.scale:.3f}", parity.scaled, parity.scaled_errors)
        )
    layout = ConstrainedLayoutEngine(w_pad=0.12)
    figure = Figure(figsize=(4.4 * len(panels), 3.5), layout=layout)
    every = np.concatenate([parity.values, *(predicted for _, predicted, _ in panels)])
    every = every[np.isfinite(every)]
    margin = 0.06 * float(np.ptp(every)) or 0.06 * float(every.max())
    limits = max(float(every.min()) - margin, 0.0), float(every.max()) + margin
    for axes, (title, predicted, errors) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        axes.set(xlim=limits, ylim=limits, aspect="equal")
        _draw_parity(axes, parity, predicted)
        axes.set_title(f"{title}\n{_in_words(errors)}", fontsize=8, loc="left")
        label = _short(parity.reference.label).replace("$", r"\$")
        axes.set_xlabel(f"{label} {SPECIFIC}")
        axes.set_ylabel(f"computed {SPECIFIC}")
        _style(axes)
    return figure


def _draw_parity(axes: Axes, parity: Parity, predicted: NDArray[np.float64]) -> None:
    known = np.isfinite(predicted)  # sampled structures have no scaled frequencies
    names = [name for name, here in zip(parity.names, known, strict=True) if here]
    values, predicted = parity.values[known], predicted[known]
    ends = np.array(axes.get_xlim())
    axes.fill_between(ends, (1 - BAND) * ends, (1 + BAND) * ends, color="0.92", lw=0, zorder=0)
    axes.plot(ends, ends, color="0.6", lw=0.8, zorder=1)
    relative = abs(predicted / values - 1)
    outside = relative > BAND
    for part, colour in (~outside, BLUE), (outside, RED):
        points = values[part], predicted[part]
        axes.plot(*points, "o", color=colour, ms=4, alpha=0.7, mew=0, zorder=3)
    few = len(relative) <= OUTLIERS
    named = [i for i in relative.argsort()[::-1][:OUTLIERS].tolist() if few or outside[i]]
    _name(
        axes,
        [names[i] for i in named],
        [(float(values[i]), float(predicted[i])) for i in named],
        [RED if outside[i] else BLUE for i in named],
    )


def _in_words(errors: Errors) -> str:
    words = (
        f"mean absolute error {100 * errors.mean_relative:.2f} %, "
        f"largest {100 * errors.largest_relative:+.1f} %"
    )
    return words if errors.r_squared is None else f"{words}, $R^2$ = {errors.r_squared:.3f}"


def spectra_figures(rows: Sequence[Row]) -> list[Figure]:
    """Vibrational densities of states, imaginary modes in red, on one axis of wavenumbers.

    Few structures have a panel each. The densities of many structures are rows of an image, darker
    where there are more modes, with a scale of its own for each row and colour. Rows are sorted by
    number of atoms; there are at most `STACK` in a figure and `DRAWN` in all.

    Args:
        rows: Structures that did not fail.

    Returns:
        The figures; none without structures.
    """
    if not rows:
        return []
    ends = np.array([axis_of(_modes(row)[0]) for row in rows])
    limits = float(ends[:, 0].min()), float(ends[:, 1].max())
    draw = _panels if len(rows) <= PANELS else _stack
    return [draw([rows[i] for i in group], limits) for group in spectra_groups(rows)]


def spectra_groups(rows: Sequence[Row]) -> list[list[int]]:
    """Indices of the structures of each figure that `spectra_figures` draws.

    Args:
        rows: Structures that did not fail.
    """
    if len(rows) <= PANELS:
        return [list(range(len(rows)))] if rows else []

    def size(i: int) -> tuple[int, str]:
        return rows[i].record.n_atoms or 0, rows[i].record.name

    by_size = sorted(range(len(rows)), key=size)[:DRAWN]
    return [part.tolist() for part in np.array_split(by_size, -(-len(by_size) // STACK))]


def _panels(rows: Sequence[Row], limits: tuple[float, float]) -> Figure:
    n_columns = min(3, len(rows))
    n_lines = -(-len(rows) // n_columns)
    figure = Figure(figsize=(7.0, 1.35 * n_lines + 0.5), layout="constrained")
    grid = figure.subplots(n_lines, n_columns, squeeze=False)
    for axes in grid.flat[len(rows) :]:
        axes.remove()
    for number, (axes, row) in enumerate(zip(grid.flat, rows, strict=False)):
        spectrum = spectrum_of(row)
        frequencies = spectrum.frequencies.detach().cpu()
        if len(frequencies) == 1:
            draw_spectrum(axes, frequencies[frequencies != 0], None)
        else:
            draw_spectrum(axes, frequencies, spectrum.weights)
        if legend := axes.get_legend():
            legend.remove()
            _note(axes, _modes(row)[0])
        axes.set_title(_short(row.record.name), fontsize=8, loc="left", parse_math=False)
        axes.set(xlim=limits, yticks=[])
        axes.set_ylabel("density of states" if number % n_columns == 0 else "")
        is_last = number + n_columns >= len(rows)
        axes.set_xlabel("wavenumber (cm$^{-1}$)" if is_last else "")
        axes.tick_params(labelbottom=is_last)
        _style(axes)
        axes.yaxis.label.set_fontsize(7.5)
    return figure


def _note(axes: Axes, frequencies: NDArray[np.float64]) -> None:
    """Write the number of imaginary modes beside the name, and of modes beyond the axis below."""
    imaginary, beyond = int((frequencies < 0).sum()), n_beyond(frequencies)
    if imaginary:
        axes.set_title(f"{imaginary} imaginary", fontsize=7.5, loc="right", color=RED)
    if beyond:
        words, place = f"{beyond} beyond {HIGHEST:g} cm$^{{-1}}$", axes.transAxes
        axes.text(0.99, 0.97, words, transform=place, ha="right", va="top", fontsize=7, color=RED)


def _stack(rows: Sequence[Row], limits: tuple[float, float]) -> Figure:
    figure = Figure(figsize=(7.0, 0.145 * len(rows) + 0.7), layout="constrained")
    axes = figure.subplots()
    grid = np.arange(*limits, BROADENING / 2)
    for sign, colour in (1, BLUE), (-1, RED):
        densities = np.array([_density(row, sign, grid) for row in rows])
        axes.imshow(
            (densities / densities.max(1, keepdims=True).clip(min=1e-12)) ** 0.5,
            cmap=LinearSegmentedColormap.from_list("", [to_rgba(colour, 0), to_rgba(colour)]),
            vmin=0,
            vmax=1,
            extent=(grid[0], grid[-1], len(rows) - 0.5, -0.5),
            aspect="auto",
            interpolation="nearest",
        )
    lines = range(len(rows))
    axes.hlines(np.arange(0.5, len(rows) - 1), *limits, color="white", lw=1)
    axes.set_yticks(lines, [_short(row.record.name) for row in rows])
    sizes = axes.secondary_yaxis("right")
    sizes.set_yticks(lines, [str(row.record.n_atoms) for row in rows])
    sizes.set_ylabel("atoms")
    _style(axes)
    for side in axes, sizes:
        side.tick_params(axis="y", length=0, labelsize=6.5)
    sizes.spines["right"].set_visible(False)
    for text, row in zip(axes.get_yticklabels(), rows, strict=True):
        text.set(parse_math=False, color=RED if row.record.n_imaginary else "black")
    axes.set_xlabel("wavenumber (cm$^{-1}$)")
    return figure


def _density(row: Row, sign: int, grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Density of states of the real (sign 1) or imaginary (-1) modes, per cm-1."""
    frequencies, each = _modes(row)
    part = sign * frequencies > 0
    return density_of(frequencies[part], each[part], grid)


def _modes(row: Row) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Frequencies of all wave vectors, in cm-1, without rigid motions, and how much each counts."""
    spectrum = spectrum_of(row)
    frequencies = spectrum.frequencies.numpy(force=True).astype(float)
    weights = spectrum.weights.numpy(force=True)[:, None]
    vibrating = frequencies != 0
    return frequencies[vibrating], np.broadcast_to(weights, frequencies.shape)[vibrating]


def _name(
    axes: Axes,
    names: Sequence[str],
    points: Sequence[tuple[float, float]],
    colours: Sequence[str],
) -> None:
    """Write names in a column on the right of the axes, each with a line to its point."""
    low, high = axes.get_ylim()
    heights = np.array([(y - low) / (high - low) for _, y in points])
    places = _spread(heights, min(0.058, 1 / max(len(names) - 1, 1)))
    for name, point, place, colour in zip(names, points, places, colours, strict=True):
        axes.annotate(
            _short(name),
            point,
            (1.035, float(place)),
            textcoords="axes fraction",
            va="center",
            fontsize=7.5,
            color=colour,
            parse_math=False,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "lw": 0.5,
                "alpha": 0.6,
                "color": colour,
                "relpos": (0, 0.5),
                "shrinkA": 1,
                "shrinkB": 0,
            },
        )


def _spread(heights: NDArray[np.float64], gap: float) -> NDArray[np.float64]:
    """Positions between 0 and 1 near the heights, in their order, at least a gap apart."""
    order = heights.argsort()
    places = heights[order]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + gap)
    ceiling = 1.0
    for i in reversed(range(len(places))):
        places[i] = ceiling = min(places[i], ceiling)
        ceiling -= gap
    spread = np.empty_like(places)
    spread[order] = places
    return spread


def _short(name: str) -> str:
    """A name of limited length, on one line, with characters that can be drawn."""
    line = printable(name)
    if len(line) <= LONGEST:
        return line
    half = LONGEST // 2
    return f"{line[:half]}…{line[1 - half :]}"


def _style(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(9)
