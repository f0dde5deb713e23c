"""Figures of thermal expansion, and of Grüneisen parameters against frequency."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from mace_functional.expansion import Gruneisen, QuasiHarmonic, ThermalExpansion
from mace_functional.figures.axes import BLUE, ELEMENTS, FREQUENCY_LABELS, RED, new_figure, tidy

AXES = "xyz"
"""Cartesian directions of the curves of a crystal that expands anisotropically."""

SAME_CURVE = 1e-6
"""Largest difference of two curves that are drawn as one, relative to their largest value."""


def expansion_figure(result: ThermalExpansion | QuasiHarmonic) -> Figure:
    """Draw thermal expansion and strain against temperature, side by side.

    Both have one curve for each Cartesian direction along which the crystal expands differently.
    The strain is that from the cell of minimal energy; for a cubic crystal it is the relative
    change of the lattice parameter. Temperatures without result are left out.

    Args:
        result: Result of `thermal_expansion` or `quasi_harmonic`, for several temperatures.

    Returns:
        The figure. `figure.axes` are the expansion and the strain.
    """
    figure, panels = new_figure(2)
    order = result.temperatures.argsort()
    temperatures = result.temperatures[order]
    _draw_directions(panels[0], temperatures, 1e6 * result.expansion[order])
    _draw_directions(panels[1], temperatures, 100 * result.strain[order])
    panels[0].axhline(0, color="0.8", lw=0.8, zorder=0)
    panels[0].set_ylabel("$\\alpha$ (10$^{-6}$ K$^{-1}$)")
    panels[1].set_ylabel("strain (%)")
    for axes in panels:
        axes.set_xlabel("temperature (K)")
    tidy(panels)
    return figure


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


def _draw_directions(axes: Axes, temperatures: Tensor, tensors: Tensor) -> None:
    """Draw the diagonal of tensors (T, 3, 3), with one curve for equal directions."""
    curves = tensors.diagonal(dim1=1, dim2=2).mT.numpy(force=True)
    scale = np.nanmax(np.abs(curves), initial=0.0)
    groups: dict[str, np.ndarray] = {}
    for name, curve in zip(AXES, curves, strict=True):
        same = [
            names
            for names, drawn in groups.items()
            if np.allclose(drawn, curve, rtol=0, atol=SAME_CURVE * scale, equal_nan=True)
        ]
        if same:
            groups[same[0] + name] = groups.pop(same[0])
        else:
            groups[name] = curve
    colours = (BLUE, *ELEMENTS)
    for (names, curve), colour in zip(sorted(groups.items()), colours, strict=False):
        style = "o-" if len(temperatures) < 12 else "-"
        axes.plot(temperatures, curve, style, ms=3.5, lw=1.2, color=colour, label=", ".join(names))
    if len(groups) > 1:
        axes.legend(frameon=False, fontsize=8)
