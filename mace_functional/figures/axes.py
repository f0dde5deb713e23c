"""Style of all figures: colours, sizes, labels of frequency axes."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, RED = "#3b6ea5", "#c8553d"
"""Colours of regular results, and of imaginary modes and failures."""

ELEMENTS = ("#d08a1d", "#4d8f5b", "#7d5ba6", "#2b9bab", "#9c6b4a", "#b5527f")
"""Colours of the elements in a density of states, in the order of their first atoms."""

FREQUENCY_LABELS = {
    "THz": ("frequency (THz)", "THz"),
    "cm-1": ("wavenumber (cm$^{-1}$)", "cm$^{-1}$"),
    "meV": ("energy (meV)", "meV"),
}
"""Label of the frequency axis for each unit, and the unit alone."""

HEIGHT = 2.7
"""Height of a figure with one row of panels, inches; two panels are 7 inches wide, one is 3.6."""


def new_figure(panels: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure that is not registered with pyplot, and its row of panels.

    Args:
        panels: Number of panels, 1 or 2.
    """
    figure = Figure(figsize=(3.6 if panels == 1 else 7.0, HEIGHT), layout="constrained")
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def tidy(panels: Sequence[Axes]) -> None:
    """Remove the upper and the right spine of panels, and set their font sizes."""
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        set_sizes(axes)


def set_sizes(axes: Axes) -> None:
    """Set the font sizes of a panel."""
    axes.tick_params(labelsize=8)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(9)
