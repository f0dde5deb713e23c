"""The result of a training: the potential, and what happened on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from mace_functional.potential.protocol import Trainable

Ending = Literal["finished", "stopped early"]
"""Why a training ended: all epochs are done, or validation did not improve for long enough."""


@dataclass(frozen=True, eq=False)
class FineTuned:
    """A trained potential.

    Attributes:
        potential: The potential with the weights of the best epoch: that with the smallest loss on
            the validation set, or the last one without such a set.
        history: A record for each epoch: `epoch`, `steps`, the mean `loss` of its steps, the mean
            norm of the `gradient`, the learning `rate`, `seconds`, and with a validation set its
            loss and errors under `validation`. Epoch 0, before training, has only the last.
        best_epoch: Epoch of the weights.
        ending: Why the training ended.
        weights: Names of the weights that were trained.
        shifts: Shifts of the reference energies of the elements, eV, by atomic number; empty if
            they were not fitted.
    """

    potential: Trainable
    history: list[dict[str, Any]]
    best_epoch: int
    ending: Ending
    weights: tuple[str, ...]
    shifts: dict[int, float]

    def __repr__(self) -> str:
        return (
            f"FineTuned({len(self.history) - 1} epochs, {self.ending}, best epoch "
            f"{self.best_epoch}, {self.potential})"
        )
