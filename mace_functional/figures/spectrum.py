"""Vibrational spectra: the density of states of all modes, imaginary ones in red."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from mace_functional.figures.axes import BLUE, RED, new_figure, tidy
from mace_functional.units import frequency_factor
from mace_functional.vibrations.thermodynamics import HarmonicModes, WeightedFrequencies

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


def spectrum_figure(modes: HarmonicModes | Tensor) -> Figure:
    """Vibrational density of states, with a line for each mode of a molecule or at Gamma below.

    g(nu) = sum_k w_k exp(-(nu - nu_k)^2 / 2 s^2) / (s sqrt(2 pi)) with s = 8 cm-1. Imaginary modes
    stand at negative wavenumbers, in red. Modes beyond `HIGHEST` are counted and not drawn.

    Args:
        modes: From `gamma_modes` or `mesh_modes`; or frequencies (M,) in cm-1, imaginary ones
            negative, without rigid motions.
    """
    figure, panels = new_figure()
    known = weighted_wavenumbers(modes)
    draw_spectrum(panels[0], known.frequencies, known.weights)
    tidy(panels)
    return figure


def weighted_wavenumbers(
    modes: HarmonicModes | Tensor, weights: Tensor | None = None
) -> WeightedFrequencies:
    """Frequencies of modes in cm-1, on the CPU, with what else the modes know.

    Args:
        modes: Modes, or frequencies in cm-1.
        weights: (Q,) of the wave vectors, for frequencies (Q, M).
    """
    if isinstance(modes, Tensor):
        return WeightedFrequencies(modes.detach().cpu(), "cm-1", weights)
    known = modes.weighted_frequencies()
    factor = frequency_factor("cm-1") / frequency_factor(known.unit)
    return known._replace(frequencies=factor * known.frequencies.detach().cpu(), unit="cm-1")


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
