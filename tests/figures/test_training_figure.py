"""Figure of a training: its curves are those of the records."""

from __future__ import annotations

import numpy as np
import pytest

from mace_functional.figures import training_figure
from mace_functional.figures.axes import BLUE, RED

LOSSES = [np.nan, 4.0, 2.0, 1.0]
VALIDATION = [8.0, 3.0, 1.5, 2.0]
FORCES = [0.2, 0.1, 0.05, 0.06]


def history(*, validated: bool = True) -> list[dict[str, object]]:
    records = []
    for epoch, loss in enumerate(LOSSES):
        record: dict[str, object] = {"epoch": epoch} | ({"loss": loss} if epoch else {})
        if validated:
            errors = {"rmse_forces_eV_per_A": FORCES[epoch], "rmse_energy_eV_per_atom": 0.0}
            record["validation"] = {"loss": VALIDATION[epoch], **errors}
        records.append(record)
    return records


def test_losses_and_errors_are_drawn_and_the_best_epoch_is_marked():
    losses, errors = training_figure(history()).axes
    steps, validation, best = losses.lines
    assert losses.get_yscale() == errors.get_yscale() == "log"
    np.testing.assert_array_equal(steps.get_xydata(), np.c_[range(4), LOSSES])
    np.testing.assert_array_equal(validation.get_ydata(), VALIDATION)
    assert (steps.get_color(), validation.get_color()) == (BLUE, RED)
    assert list(best.get_xdata()) == [2, 2]
    assert best.get_label() == "best epoch, 2"
    forces, mark = errors.lines  # no energies, whose errors are zero
    np.testing.assert_allclose(forces.get_ydata(), np.array(FORCES) / FORCES[0])
    assert list(mark.get_xdata()) == [2, 2]
    assert [t.get_text() for t in errors.get_legend().get_texts()] == ["forces\n200 → 50.0 meV/Å"]


def test_without_a_validation_set_there_is_the_loss_of_the_steps():
    figure = training_figure(history(validated=False))
    ((line,),) = (panel.lines for panel in figure.axes)
    np.testing.assert_array_equal(line.get_ydata(), LOSSES)
    assert figure.axes[0].get_legend() is None
    with pytest.raises(ValueError, match="no epoch of the training is complete"):
        training_figure(history()[:1])
