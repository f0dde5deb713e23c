"""Figures of vibrations and thermodynamics, as one would put them into a paper."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from mace_functional.support.renamed import positional_for_a_release
from mace_functional.vibrations.thermo_pieces import thermo_in_pieces

if TYPE_CHECKING:
    from mace_functional.phonons.bands import BandStructure
    from mace_functional.phonons.dos import DensityOfStates

BROADENING = 8.0
"""Standard deviation of the Gaussians of a spectrum, cm-1."""

BLOCK = 4096
"""Modes of a density of states that are summed at once: 3 MB a tensor with `TAILS`."""

TAILS = 6.0
"""Widths of a Gaussian beyond which it is taken for zero: exp(-18) of its height."""

HIGHEST = 6000.0
"""Largest wavenumber that is drawn, real or imaginary, cm-1. Hydrogen, the stiffest bond there is,
vibrates at 4400. Modes beyond this are the signs of a broken structure: they are counted, and an
axis that followed them would take memory without bound and hide all others."""

BLUE, RED = "#3b6ea5", "#c8553d"

ELEMENTS = ("#d08a1d", "#4d8f5b", "#7d5ba6", "#2b9bab", "#9c6b4a", "#b5527f")
"""Colours of the elements in a density of states, in the order of their first atoms."""

FREQUENCY_LABELS = {
    "THz": ("frequency (THz)", "THz"),
    "cm-1": ("wavenumber (cm$^{-1}$)", "cm$^{-1}$"),
    "meV": ("energy (meV)", "meV"),
}
"""Name of the frequency axis in each unit, and the unit alone."""

GREEK = {"GAMMA": "Γ", "DELTA": "Δ", "LAMBDA": "Λ", "SIGMA": "Σ"}
"""Wave vectors that are named in Greek."""


@positional_for_a_release("weights")
def thermo_figure(
    frequencies: Tensor,
    temperatures: Sequence[float],
    mass: float,
    *,
    weights: Tensor | None = None,
) -> Figure:
    """Spectrum and heat capacity of a cell or molecule, side by side.

    On the left the vibrational density of states, with a line for each mode of a molecule or at
    Gamma below,

        g(nu) = sum_k w_k exp(-(nu - nu_k)^2 / 2 s^2) / (s sqrt(2 pi)),  s = 8 cm-1,

    and imaginary modes at negative wavenumbers, in red; modes beyond `HIGHEST` are counted and not
    drawn. On the right the heat capacity of the
    others at constant volume, from 0 K to the highest temperature.

    Args:
        frequencies: (M,) cm-1, imaginary ones negative; rigid motions left out. On a mesh of wave
            vectors (Q, M), with rigid motions at exactly zero.
        temperatures: K; marked by points.
        mass: Of the cell or molecule, amu.
        weights: (Q,) of the wave vectors, with sum 1.

    Returns:
        The figure. `figure.axes` are the spectrum and the heat capacity.
    """
    figure = Figure(figsize=(7.0, 2.7), layout="constrained")
    spectrum, heat = figure.subplots(1, 2)
    modes = frequencies.detach().cpu()
    draw_spectrum(spectrum, modes, weights)
    _draw_heat_capacity(heat, modes, temperatures, mass, weights)
    for axes in spectrum, heat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.xaxis.label.set_size(9)
        axes.yaxis.label.set_size(9)
    return figure


def draw_spectrum(axes: Axes, modes: Tensor, weights: Tensor | None) -> None:
    """Draw a vibrational density of states, imaginary modes in red.

    Args:
        axes: Where to draw.
        modes: (M,) cm-1, with a line for each, or (Q, M) on a mesh of wave vectors; see
            `thermo_figure`.
        weights: (Q,) of the wave vectors, with sum 1; None for (M,).
    """
    frequencies, each = modes.numpy().astype(float), np.ones(modes.shape)
    if weights is not None:
        each = np.broadcast_to(weights.cpu().numpy()[:, None], modes.shape)
        frequencies, each = frequencies[modes != 0], each[modes != 0]
    n_imaginary, beyond = int((frequencies < 0).sum()), n_beyond(frequencies)
    drawn = abs(frequencies) <= HIGHEST
    frequencies, each = frequencies[drawn], each[drawn]
    lowest, highest = axis_of(frequencies)
    grid = np.arange(lowest, highest, BROADENING / 8)
    signs = [frequencies >= 0, frequencies < 0]
    densities = [density_of(frequencies[sign], each[sign], grid) for sign in signs]
    real, imaginary = (frequencies[sign] for sign in signs)
    foot = -0.06 * max(densities[0].max(), densities[1].max()) if weights is None else 0.0
    # Imaginary modes first: along zero the line of the others covers theirs.
    for part, density, colour in (imaginary, densities[1], RED), (real, densities[0], BLUE):
        if len(part):
            axes.fill_between(grid, density, color=colour, alpha=0.35, lw=0)
            axes.plot(grid, density, color=colour, lw=0.9)
    if weights is None:
        axes.vlines(real, foot, 0, color="0.3", lw=0.6)
    if n_imaginary:
        marks = imaginary if weights is None else imaginary[:0]
        axes.vlines(marks, foot, 0, color=RED, lw=0.9, label=f"{n_imaginary} imaginary")
    if beyond:
        axes.plot([], [], " ", label=f"{beyond} beyond {HIGHEST:g} cm$^{{-1}}$")
    if n_imaginary or beyond:
        axes.legend(frameon=False, fontsize=8)
    axes.set_xlim(grid[0], grid[-1])
    axes.set_ylim(bottom=1.2 * foot)
    axes.set_xlabel("wavenumber (cm$^{-1}$)")
    axes.set_ylabel("density of states (per cm$^{-1}$)")


def axis_of(frequencies: np.ndarray) -> tuple[float, float]:
    """Ends of an axis of wavenumbers that holds all modes up to `HIGHEST`, and zero.

    Args:
        frequencies: cm-1, imaginary ones negative; any number of any size, NaN too.

    Returns:
        The lower and the upper end, cm-1.
    """
    drawn = frequencies[abs(frequencies) <= HIGHEST]
    lowest, highest = float(drawn.min(initial=0.0)), float(drawn.max(initial=0.0))
    margin = 5 * BROADENING
    return lowest - margin * (lowest < 0), highest + margin


def n_beyond(frequencies: np.ndarray) -> int:
    """How many modes are not drawn, because they lie beyond `HIGHEST` or are no numbers."""
    return int((~(abs(frequencies) <= HIGHEST)).sum())


def density_of(frequencies: np.ndarray, each: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """A density of states: a Gaussian of width `BROADENING` for each mode.

    Args:
        frequencies: (M,) cm-1; what lies far from the grid adds nothing.
        each: How much each mode counts, (M,).
        grid: Where to evaluate it, evenly spaced, two points at least, (G,) cm-1.

    Returns:
        (G,), per cm-1.
    """
    step, far = float(grid[1] - grid[0]), TAILS * BROADENING
    near = (frequencies > grid[0] - far) & (frequencies < grid[-1] + far)
    frequencies, each = frequencies[near], each[near]
    reach = int(far / step) + 1
    total = np.zeros(len(grid) + 2 * reach)
    for start in range(0, len(frequencies), BLOCK):
        part = frequencies[start : start + BLOCK, None]
        points = np.rint((part - grid[0]) / step).astype(int) + np.arange(-reach, reach + 1)
        distance = (grid[0] + step * points - part) / BROADENING
        values = each[start : start + BLOCK, None] * np.exp(-(distance**2) / 2)
        inside = (points >= -reach) & (points < len(grid) + reach)
        total += np.bincount(points[inside] + reach, values[inside], len(total))
    return total[reach : reach + len(grid)] / (BROADENING * np.sqrt(2 * np.pi))


def _draw_heat_capacity(
    axes: Axes,
    frequencies: Tensor,
    temperatures: Sequence[float],
    mass: float,
    weights: Tensor | None,
) -> None:
    curve = torch.linspace(0, max(temperatures), 301, dtype=torch.float64)
    for values, style in (curve.tolist(), "-"), (temperatures, "o"):
        thermo = thermo_in_pieces(frequencies, values, weights)
        capacity = thermo.specific_heat_capacity([mass])
        axes.plot(thermo.temperatures, capacity, style, color=BLUE, ms=3.5, lw=1.2)
    axes.set(xlim=(0, None), ylim=(0, None))
    axes.set_xlabel("temperature (K)")
    axes.set_ylabel("$C_V$ (J g$^{-1}$ K$^{-1}$)")


def band_figure(
    bands: BandStructure,
    dos: DensityOfStates | None = None,
    symbols: Sequence[str] | None = None,
) -> Figure:
    """Band structure, and beside it the density of states on the same axis of frequencies.

    Imaginary modes are drawn below zero, in red.

    Args:
        bands: From `band_structure`.
        dos: From `density_of_states`, in the same unit; left out if None.
        symbols: Chemical symbols of the atoms, (N,): the density of states of each element is drawn
            too, where `dos` has those of the atoms.

    Returns:
        The figure. `figure.axes` are the bands and, if it is there, the density of states.

    Raises:
        ValueError: If bands and density of states have different units, or atoms and symbols
            different numbers.
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
    lowest, highest = min(frequencies.min(), 0.0), max(frequencies.max(), 0.0)
    margin = 0.04 * (highest - lowest)
    panels[0].set_ylim(lowest - margin * (lowest < 0), highest + margin)
    _draw_bands(panels[0], bands, frequencies)
    if dos is not None:
        _draw_density(panels[1], dos, symbols)
    for axes in panels:
        axes.axhline(0, color="0.6", lw=0.6, zorder=0)
        axes.tick_params(labelsize=8)
        axes.xaxis.label.set_fontsize(9)
        axes.yaxis.label.set_fontsize(9)
    return figure


def _draw_bands(axes: Axes, bands: BandStructure, frequencies: np.ndarray) -> None:
    distance = bands.distance.cpu().numpy()
    low, high = axes.get_ylim()
    halves = [(0.0, high, BLUE)] + [(low, -low, RED)] * bool((frequencies < 0).any())
    for start, stop in zip(bands.starts, [*bands.starts[1:], len(distance)], strict=True):
        for foot, height, colour in halves:
            lines = axes.plot(
                distance[start:stop], frequencies[start:stop], color=colour, lw=0.9, zorder=2
            )
            for line in lines:
                # Each half shows its own part of a line, up to where it crosses zero.
                half = Rectangle((0, foot), distance[-1] or 1.0, height, transform=axes.transData)
                line.set_clip_path(half)
    corners = [
        (x, [_symbol(label) for _, label in group])
        for x, group in groupby(bands.labels, key=lambda corner: float(distance[corner[0]]))
    ]
    axes.set_xticks(
        [x for x, _ in corners], ["|".join(dict.fromkeys(names)) for _, names in corners]
    )
    axes.vlines([x for x, _ in corners[1:-1]], low, high, color="0.75", lw=0.6, zorder=1)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(distance[0], distance[-1] or None)
    axes.set_ylabel(FREQUENCY_LABELS[bands.unit][0])


def _symbol(label: str) -> str:
    """The name of a wave vector as it is printed: Greek letters, numbers as subscripts."""
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
