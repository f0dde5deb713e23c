"""Figure of the spectrum and the heat capacity of a cell or molecule, side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from mace_functional.figures.axes import BLUE, new_figure, tidy
from mace_functional.figures.spectrum import draw_spectrum, weighted_wavenumbers
from mace_functional.support.defaults import TEMPERATURES
from mace_functional.support.renamed import positional_for_a_release
from mace_functional.vibrations.thermo_pieces import thermo_in_pieces
from mace_functional.vibrations.thermodynamics import HarmonicModes


@positional_for_a_release("weights")
def thermo_figure(
    modes: HarmonicModes | Tensor,
    temperatures: Sequence[float] = TEMPERATURES,
    mass: float | None = None,
    *,
    weights: Tensor | None = None,
) -> Figure:
    """Draw the spectrum and the heat capacity of a cell or molecule, side by side.

    `spectrum_figure` describes the spectrum. The heat capacity is that at constant volume without
    imaginary modes, from 0 K to the highest temperature.

    Args:
        modes: Result of `gamma_modes` or `mesh_modes`; or frequencies in cm-1, imaginary ones
            negative, (M,) without rigid motions, or (Q, M) with rigid motions at exactly zero.
        temperatures: Temperatures in K that are marked by points.
        mass: Mass of the cell or molecule, amu; needed only with frequencies.
        weights: Weights of the wave vectors, (Q,), with sum 1, for frequencies (Q, M).

    Returns:
        The figure. `figure.axes` are the spectrum and the heat capacity.

    Raises:
        ValueError: If frequencies are given without a mass.
    """
    weighted = weighted_wavenumbers(modes, weights)
    if mass is None:
        if weighted.mass is None:
            raise ValueError("frequencies do not determine the mass: give thermo_figure the mass")
        mass = float(weighted.mass)
    figure, panels = new_figure(2)
    draw_spectrum(panels[0], weighted.frequencies, weighted.weights)
    _draw_heat_capacity(panels[1], weighted.frequencies, temperatures, mass, weighted.weights)
    tidy(panels)
    return figure


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
