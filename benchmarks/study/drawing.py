"""Panels and colours of the figures of the study; the style is that of the package."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mace_functional.figures.axes import BLUE, ELEMENTS, RED

__all__ = ["BLUE", "ELEMENTS", "ORANGE", "RED", "panels"]

ORANGE = ELEMENTS[0]


def panels(count: int, *, sharex: bool = False) -> tuple[Figure, list[Axes]]:
    """Return a figure with panels side by side, and their axes.

    Args:
        count: Number of panels.
        sharex: Use one horizontal scale for all panels.
    """
    figure = Figure(figsize=(3.6 * count, 2.9), layout="constrained")
    axes = list(figure.subplots(1, count, sharex=sharex, squeeze=False)[0])
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        axis.xaxis.label.set_size(9)
        axis.yaxis.label.set_size(9)
    return figure, axes
