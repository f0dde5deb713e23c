"""Figures of vibrational spectra: the density of states of all modes, imaginary ones in red."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from mace_functional.figures.axes import BLUE, RED, new_figure, tidy
from mace_functional.units import frequency_factor
from mace_functional.vibrations.thermodynamics import HarmonicModes, WeightedFrequencies

BROADENING = 8.0
"""Standard deviation s of the Gaussians of a spectrum, cm-1."""

BLOCK = 4096
"""Number of modes of a density of states that are summed at once; an array then takes 3 MB."""

TAILS = 6.0
"""Standard deviations beyond which a Gaussian is set to zero; exp(-18) is neglected."""

HIGHEST = 6000.0
"""Largest wavenumber that is drawn, real or imaginary, cm-1.

The stiffest bond, H2, vibrates at 4400. Modes beyond the limit are signs of a broken structure.
They are counted but not drawn: an axis up to them would need unlimited memory and hide all others.
"""


def spectrum_figure(modes: HarmonicModes | Tensor) -> Figure:
    """Draw a vibrational density of states.

    The density of states is

        g(nu) = sum_k w_k exp(-(nu - nu_k)^2 / 2 s^2) / (s sqrt(2 pi)),  s = 8 cm-1,

    with a line below it for each mode of a molecule or at Gamma. Imaginary modes are red, at
    negative wavenumbers. Modes beyond `HIGHEST` are counted but not drawn.

    Args:
        modes: Result of `gamma_modes` or `mesh_modes`; or frequencies in cm-1, (M,), imaginary ones
            negative, without rigid motions.
    """
    figure, panels = new_figure()
    weighted = weighted_wavenumbers(modes)
    draw_spectrum(panels[0], weighted.frequencies, weighted.weights)
    tidy(panels)
    return figure


def weighted_wavenumbers(
    modes: HarmonicModes | Tensor, weights: Tensor | None = None
) -> WeightedFrequencies:
    """Return frequencies in cm-1 on the CPU, with their weights and the mass if known.

    Args:
        modes: Modes, or frequencies in cm-1.
        weights: Weights of the wave vectors, (Q,), for frequencies (Q, M).
    """
    if isinstance(modes, Tensor):
        return WeightedFrequencies(modes.detach().cpu(), "cm-1", weights)
    result = modes.weighted_frequencies()
    factor = frequency_factor("cm-1") / frequency_factor(result.unit)
    return result._replace(frequencies=factor * result.frequencies.detach().cpu(), unit="cm-1")


def draw_spectrum(axes: Axes, modes: Tensor, weights: Tensor | None) -> None:
    """Draw a vibrational density of states, imaginary modes in red.

    Args:
        axes: Axes to draw on.
        modes: Frequencies in cm-1: (M,), with a line for each, or (Q, M) on a mesh of wave
            vectors; see `thermo_figure`.
        weights: Weights of the wave vectors, (Q,), with sum 1; None for (M,).
    """
    frequencies, w = modes.numpy().astype(float), np.ones(modes.shape)
    if weights is not None:
        w = np.broadcast_to(weights.cpu().numpy()[:, None], modes.shape)
        frequencies, w = frequencies[modes != 0], w[modes != 0]
    n_imaginary, beyond = int((frequencies < 0).sum()), n_beyond(frequencies)
    drawn = abs(frequencies) <= HIGHEST
    frequencies, w = frequencies[drawn], w[drawn]
    lowest, highest = axis_of(frequencies)
    grid = np.arange(lowest, highest, BROADENING / 8)
    signs = [frequencies >= 0, frequencies < 0]
    densities = [density_of(frequencies[sign], w[sign], grid) for sign in signs]
    real, imaginary = (frequencies[sign] for sign in signs)
    foot = -0.06 * max(densities[0].max(), densities[1].max()) if weights is None else 0.0
    # Imaginary modes are drawn first, so that the line of the real ones covers theirs along zero.
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
    """Return the ends of an axis of wavenumbers that contains zero and all modes up to `HIGHEST`.

    Args:
        frequencies: Frequencies in cm-1, imaginary ones negative; NaN is allowed.

    Returns:
        The lower and the upper end, cm-1.
    """
    drawn = frequencies[abs(frequencies) <= HIGHEST]
    lowest, highest = float(drawn.min(initial=0.0)), float(drawn.max(initial=0.0))
    margin = 5 * BROADENING
    return lowest - margin * (lowest < 0), highest + margin


def n_beyond(frequencies: np.ndarray) -> int:
    """Return the number of modes that are not drawn: those beyond `HIGHEST`, and NaN."""
    return int((~(abs(frequencies) <= HIGHEST)).sum())


def density_of(frequencies: np.ndarray, w: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Return the density of states per cm-1, (G,): a Gaussian of width `BROADENING` for each mode.

    Args:
        frequencies: Frequencies in cm-1, (M,); modes far from the grid do not contribute.
        w: Weight of each mode, (M,).
        grid: Evenly spaced wavenumbers, at least two, (G,) cm-1.
    """
    step, tail = float(grid[1] - grid[0]), TAILS * BROADENING
    near = (frequencies > grid[0] - tail) & (frequencies < grid[-1] + tail)
    frequencies, w = frequencies[near], w[near]
    reach = int(tail / step) + 1
    total = np.zeros(len(grid) + 2 * reach)
    for start in range(0, len(frequencies), BLOCK):
        part = frequencies[start : start + BLOCK, None]
        points = np.rint((part - grid[0]) / step).astype(int) + np.arange(-reach, reach + 1)
        distance = (grid[0] + step * points - part) / BROADENING
        values = w[start : start + BLOCK, None] * np.exp(-(distance**2) / 2)
        inside = (points >= -reach) & (points < len(grid) + reach)
        total += np.bincount(points[inside] + reach, values[inside], len(total))
    return total[reach : reach + len(grid)] / (BROADENING * np.sqrt(2 * np.pi))
