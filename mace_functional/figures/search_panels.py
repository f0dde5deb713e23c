"""Figures of relaxations and of searches for saddle points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mace_functional.figures.axes import BLUE, RED, new_figure, tidy

if TYPE_CHECKING:
    from mace_functional.optimize.relax import RelaxResult
    from mace_functional.optimize.saddle import SaddleResult


def relaxation_figure(result: RelaxResult) -> Figure:
    """Draw the energy above the last one and the largest force for each gradient of a relaxation.

    Rejected steps have hollow symbols.

    Args:
        result: Result of `relax`.

    Returns:
        The figure. `figure.axes` are the energy and the force.
    """
    figure, (left, right) = new_figure(2)
    accepted = np.array([step.accepted for step in result.history])
    energies = 1000 * (np.array([step.energy for step in result.history]) - result.energy)
    _draw_steps(left, energies, accepted)
    left.set_ylabel("energy above the last one (meV)")
    if (energies > 0).any():
        left.set_yscale("log", nonpositive="mask")
    _draw_forces(right, [step.largest_force for step in result.history], accepted)
    tidy([left, right])
    return figure


def saddle_figure(result: SaddleResult) -> Figure:
    """Draw the convergence of a saddle point search, and the energies of the connected minima.

    Args:
        result: Result of `find_saddle`.

    Returns:
        The figure. `figure.axes` are the largest force of each gradient and the energy levels. If
        the minima are unknown, the second shows only the saddle point.
    """
    figure, (left, right) = new_figure(2)
    accepted = np.array([step.accepted for step in result.history])
    _draw_forces(left, [step.largest_force for step in result.history], accepted)
    heights = [0.0]
    if result.barriers is not None:
        heights = [-result.barriers[0], 0.0, -result.barriers[1]]
    levels = 1000 * (np.array(heights) - min(heights))
    names = ["saddle point"] if len(levels) == 1 else ["minimum", "saddle point", "minimum"]
    places = np.arange(len(levels))
    right.hlines(levels, places - 0.3, places + 0.3, color=BLUE, lw=1.8)
    for place in places[:-1]:
        right.plot([place + 0.3, place + 0.7], levels[place : place + 2], "--", color="0.6", lw=0.7)
    for place, level in zip(places, levels, strict=True):
        right.annotate(
            f"{level:.0f}", (place, level), (0, 3), textcoords="offset points", ha="center", size=8
        )
    right.set_xticks(places, names)
    right.set_ylabel("energy (meV)")
    right.margins(y=0.15)
    tidy([left, right])
    return figure


def _draw_forces(axes: Axes, forces: Sequence[float], accepted: np.ndarray) -> None:
    """Draw the largest force of each gradient on a logarithmic axis."""
    _draw_steps(axes, np.array(forces), accepted)
    axes.set_yscale("log")
    axes.set_ylabel("largest force (eV/Å)")


def _draw_steps(axes: Axes, values: np.ndarray, accepted: np.ndarray) -> None:
    """Draw a value for each gradient; a line joins accepted steps, rejected ones are hollow."""
    gradients = np.arange(1, len(values) + 1)
    axes.plot(gradients[accepted], values[accepted], "o-", color=BLUE, ms=3, lw=1)
    if not accepted.all():
        x, y = gradients[~accepted], values[~accepted]
        axes.plot(x, y, "o", color=RED, ms=3.5, mfc="none", label="rejected")
        axes.legend(frameon=False, fontsize=8)
    axes.set_xlabel("gradients")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
