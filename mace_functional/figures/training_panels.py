"""Figure of a training: its loss, and the errors on the validation set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mace_functional.figures.axes import BLUE, ELEMENTS, RED, new_figure, tidy
from mace_functional.training.label_errors import QUANTITIES

COLOURS = (BLUE, RED, ELEMENTS[0], ELEMENTS[1])
"""Colours of the errors of energies, forces, stresses and products."""


def training_figure(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the loss over the epochs of a training, and the errors on its validation set.

    Errors are divided by those before the training. The legend has them before the training and at
    the best epoch, that with the smallest loss on the validation set, which a line marks.

    Args:
        history: Records of the epochs: `FineTuned.history`, or the lines of the log, which is also
            there while the training goes on.

    Returns:
        The figure. `figure.axes` are the loss and, with a validation set, the errors.

    Raises:
        ValueError: If no epoch is complete.
    """
    if len(history) < 2:
        raise ValueError("no epoch of the training is complete: there is nothing to draw")
    validated = all("validation" in record for record in history)
    figure, panels = new_figure(2 if validated else 1)
    _draw_losses(panels[0], history, validated)
    if validated:
        best = _best_epoch(history)
        _draw_errors(panels[1], history, best)
        for panel, label in zip(panels, (f"best epoch, {best}", "_"), strict=True):
            panel.axvline(best, color="0.6", lw=0.8, ls="--", zorder=0, label=label)
        panels[0].legend(frameon=False, fontsize=7)
        panels[1].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    tidy(panels)
    return figure


def _best_epoch(history: Sequence[Mapping[str, Any]]) -> int:
    """Return the first epoch with the smallest loss on the validation set."""
    best = min(history, key=lambda record: record["validation"]["loss"])
    return int(best["epoch"])


def _draw_losses(panel: Axes, history: Sequence[Mapping[str, Any]], validated: bool) -> None:
    """Draw the mean loss of the steps of each epoch, and the loss on the validation set."""
    epochs = [record["epoch"] for record in history]
    losses = [record.get("loss", math.nan) for record in history]  # epoch 0 has none
    _draw(panel, epochs, losses, BLUE, "steps" if validated else "")
    if validated:
        _draw(panel, epochs, [r["validation"]["loss"] for r in history], RED, "validation")
    panel.set_ylabel("loss")


def _draw_errors(panel: Axes, history: Sequence[Mapping[str, Any]], best: int) -> None:
    """Draw the errors of each kind of label on the validation set."""
    epochs = [record["epoch"] for record in history]
    for (name, shown), colour in zip(QUANTITIES.items(), COLOURS, strict=True):
        errors = [record["validation"].get(f"rmse_{name}", 0.0) for record in history]
        if not errors[0]:
            continue
        at_best = errors[epochs.index(best)]
        numbers = " → ".join(f"{shown.factor * e:#.3g}".rstrip(".") for e in (errors[0], at_best))
        label = f"{shown.name}\n{numbers} {shown.unit}"
        _draw(panel, epochs, [error / errors[0] for error in errors], colour, label)
    panel.set_ylabel("error over that before")


def _draw(
    panel: Axes, epochs: Sequence[int], values: Sequence[float], colour: str, label: str
) -> None:
    """Draw a value for each epoch on a logarithmic axis."""
    shown = [value if math.isfinite(value) and value > 0 else math.nan for value in values]
    panel.plot(epochs, shown, "o-", color=colour, ms=2, lw=1, label=label or "_")
    panel.set_yscale("log")
    panel.tick_params(which="minor", labelsize=7)
    panel.set_xlabel("epoch")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
