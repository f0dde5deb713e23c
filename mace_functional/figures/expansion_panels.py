"""Figures of thermal expansion: expansion, lattice parameters and volume, and Cp beside Cv."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mace_functional.expansion import QuasiHarmonic, ThermalExpansion
from mace_functional.figures.axes import BLUE, ELEMENTS, new_figure, tidy
from mace_functional.structure.symmetry import conventional_multiples

SAME_CURVE = 1e-3
"""Largest difference of two curves that are drawn as one, relative to their largest value."""

MANY = 12
"""Number of temperatures from which on a curve has no points."""

FIRST_ORDER: dict[str, Any] = {"lw": 1.0, "ls": (0, (4, 2))}
"""Style of the curves to first order, beside those of the minimum of the Gibbs energy."""


def expansion_figure(
    result: ThermalExpansion | QuasiHarmonic, first_order: ThermalExpansion | None = None
) -> Figure:
    """Draw thermal expansion, lattice parameters and volume against temperature, side by side.

    The expansion is that along the lattice vectors, `d ln a / dT`. Equal lattice parameters are
    drawn once; different ones have a panel each, because their changes are far smaller than their
    differences. For the primitive cell of a centred lattice, lengths and volume are those of the
    conventional cell. A slab or a rod has its periodic directions, and no volume. Temperatures
    without result are left out.

    Args:
        result: Result of `quasi_harmonic` or `thermal_expansion`, for several temperatures.
        first_order: Result of `thermal_expansion` for the same crystal, to be drawn dashed beside
            that of `quasi_harmonic`; left out if None.

    Returns:
        The figure. `figure.axes` are the expansion, each of the different lengths, and the volume.

    Raises:
        ValueError: If the two results are of crystals with different numbers of lattice parameters.
    """
    curves = _LatticeCurves(result)
    dashed = None if first_order is None else _LatticeCurves(first_order)
    if dashed is not None and dashed.groups.keys() != curves.groups.keys():
        raise ValueError(
            "the first order is that of another crystal: its lattice parameters are "
            f"{' and '.join(dashed.groups)}, not {' and '.join(curves.groups)}"
        )
    n_lengths = len(curves.groups)
    figure = Figure(figsize=(7.6, 2.3 + 0.4 * n_lengths), layout="constrained")
    grid = figure.add_gridspec(n_lengths, 3 if curves.has_volume else 2)
    expansion = figure.add_subplot(grid[:, 0])
    expansion.axhline(0, color="0.8", lw=0.8, zorder=0)
    lengths: list[Axes] = []
    for row, (name, k) in enumerate(curves.groups.items()):
        colour = (BLUE, *ELEMENTS)[row]
        lengths.append(figure.add_subplot(grid[row, 1], sharex=expansion))
        for drawn, style in (curves, {"label": name}), (dashed, FIRST_ORDER):
            if drawn is not None:
                drawn.draw(expansion, 1e6 * drawn.expansion[:, k], color=colour, **style)
                drawn.draw(lengths[-1], drawn.lengths[:, k], color=colour, **style)
        lengths[-1].set_ylabel(f"${name.replace(', ', ' = ')}$ (Å)")
        lengths[-1].tick_params(labelbottom=row == n_lengths - 1)
    expansion.set_ylabel("$\\alpha$ (10$^{-6}$ K$^{-1}$)")
    panels, labelled = [expansion, *lengths], [expansion, *lengths[-1:]]
    if curves.has_volume:
        volume = figure.add_subplot(grid[:, 2], sharex=expansion)
        for drawn, style in (curves, {}), (dashed, FIRST_ORDER):
            if drawn is not None:
                drawn.draw(volume, drawn.volume, color="0.25", **style)
        volume.set_ylabel("volume (Å$^3$)")
        panels, labelled = [*panels, volume], [*labelled, volume]
    if dashed is not None:
        expansion.plot([], [], color="0.25", label="first order", **FIRST_ORDER)
    if n_lengths > 1 or dashed is not None:
        expansion.legend(frameon=False, fontsize=8)
    for axes in labelled:
        axes.set_xlabel("temperature (K)")
    for axes in panels[1:]:
        axes.yaxis.set_major_locator(MaxNLocator(4 if n_lengths > 1 else 6))
        axes.ticklabel_format(axis="y", useOffset=False)
    tidy(panels)
    return figure


def cp_figure(
    result: ThermalExpansion | QuasiHarmonic, first_order: ThermalExpansion | None = None
) -> Figure:
    """Draw the heat capacities at constant pressure and at constant volume, and their difference.

    Args:
        result: Result of `quasi_harmonic` or `thermal_expansion`, for several temperatures.
        first_order: Result of `thermal_expansion` for the same crystal, to be drawn dashed beside
            that of `quasi_harmonic`; left out if None.

    Returns:
        The figure. `figure.axes` are the heat capacities, J/(g K), and the difference in percent of
        the heat capacity at constant volume.
    """
    figure, panels = new_figure(2)
    results: list[tuple[ThermalExpansion | QuasiHarmonic | None, dict[str, Any]]]
    results = [(result, {}), (first_order, FIRST_ORDER)]
    for drawn, style in results:
        if drawn is None:
            continue
        order = drawn.temperatures.argsort()
        t = drawn.temperatures[order].numpy(force=True)
        cv, cp = (c[order].numpy(force=True) for c in (drawn.specific_cv, drawn.specific_cp))
        known = cv > 0
        labels = ("$C_p$", "$C_V$") if style is not FIRST_ORDER else (None, None)
        marked = _curve_style(len(t)) | style
        for capacity, colour, label in (cp, BLUE, labels[0]), (cv, ELEMENTS[0], labels[1]):
            panels[0].plot(t, capacity, color=colour, label=label, **marked)
        difference = 100 * (cp[known] / cv[known] - 1)
        panels[1].plot(t[known], difference, color="0.25", **marked)
    if first_order is not None:
        panels[0].plot([], [], color="0.25", label="first order", **FIRST_ORDER)
    panels[0].legend(frameon=False, fontsize=8)
    panels[0].set_ylabel("heat capacity (J g$^{-1}$ K$^{-1}$)")
    panels[1].set_ylabel("$C_p / C_V - 1$ (%)")
    for axes in panels:
        axes.set_xlabel("temperature (K)")
        axes.set_ylim(bottom=0)
    tidy(panels)
    return figure


def _curve_style(n_temperatures: int) -> dict[str, Any]:
    """Return the style of a curve, with points if there are few temperatures."""
    return {"marker": "o" if n_temperatures < MANY else None, "ms": 3.5, "lw": 1.2}


class _LatticeCurves:
    """Lengths, their expansion and the volume of a conventional cell, by ascending temperature.

    Attributes:
        temperatures: Temperatures, K, (T,).
        lengths: Lengths of the lattice vectors, Å, (T, 3).
        expansion: Expansion along the lattice vectors, 1/K, (T, 3).
        volume: Volume, Å³, (T,).
        groups: Names of equal lattice vectors, such as "a, b", and the index of their first one.
        has_volume: True if all three lattice vectors expand.
    """

    def __init__(self, result: ThermalExpansion | QuasiHarmonic) -> None:
        order = result.temperatures.argsort()
        self.temperatures = result.temperatures[order].numpy(force=True)
        cells = result.cells[order].numpy(force=True)
        alpha = result.expansion[order].numpy(force=True)
        cells = conventional_multiples(2 * np.pi * np.linalg.inv(result.mesh.reciprocal).T) @ cells
        self.lengths = np.linalg.norm(cells, axis=2)
        along = cells / self.lengths[..., None]
        self.expansion = np.einsum("tki,tij,tkj->tk", along, alpha, along)
        self.volume = abs((cells[:, 0] * np.cross(cells[:, 1], cells[:, 2])).sum(1))
        expands = [k for k in range(3) if np.nanmax(abs(self.expansion[:, k]), initial=0.0) > 0]
        self.has_volume = len(expands) == 3
        self.groups: dict[str, int] = {}
        for k in expands:
            same = [name for name, first in self.groups.items() if self._equal(first, k)]
            if same:
                self.groups[f"{same[0]}, {'abc'[k]}"] = self.groups.pop(same[0])
            else:
                self.groups["abc"[k]] = k
        self.groups = dict(sorted(self.groups.items()))

    def draw(self, axes: Axes, curve: np.ndarray, **style: Any) -> None:
        """Draw a curve against temperature, with points if there are few."""
        known = ~np.isnan(curve)
        style = _curve_style(len(self.temperatures)) | style
        axes.plot(self.temperatures[known], curve[known], **style)

    def _equal(self, one: int, other: int) -> bool:
        return all(
            bool(
                np.nanmax(abs(values[:, one] - values[:, other]), initial=0.0)
                <= SAME_CURVE * np.nanmax(abs(values), initial=0.0)
            )
            for values in (self.lengths, self.expansion)
        )
