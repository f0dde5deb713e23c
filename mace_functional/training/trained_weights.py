"""The weights that training changes: chosen by name, moved by an optimiser, and averaged."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from mace_functional.potential.parameters import named_leaves, with_leaves
from mace_functional.potential.protocol import Trainable

MakeOptimizer = Callable[[Iterable[Tensor]], Optimizer]
"""Function of the weights to one of torch's optimisers."""

MakeScheduler = Callable[[Optimizer, int], LRScheduler]
"""Function of the optimiser and the number of all steps to one of torch's schedules of rates."""

WARM_UP = 0.02
"""Part of all steps in which the default schedule raises the learning rate from zero."""


def chosen_weights(potential: Trainable, trainable: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names of the weights to train.

    Args:
        potential: The potential.
        trainable: "all" for all weights of the potential, "readouts" for those of the readouts of a
            MACE model, or names, with `*` for any text.

    Raises:
        ValueError: If a name is not that of a weight.
    """
    if trainable == "all":
        return potential.weights
    patterns = ["*readouts.*"] if trainable == "readouts" else trainable
    if isinstance(patterns, str):
        raise ValueError(f"trainable must be 'all', 'readouts' or names, not {patterns!r}")
    chosen: set[str] = set()
    for pattern in patterns:
        found = fnmatch.filter(potential.weights, pattern)
        if not found:
            similar = difflib.get_close_matches(pattern, potential.weights, n=3, cutoff=0.4)
            hint = f"; did you mean {' or '.join(similar)}?" if similar else ""
            raise ValueError(f"the potential has no weights {pattern!r}{hint}")
        chosen.update(found)
    return tuple(name for name in potential.weights if name in chosen)


def cosine_schedule(optimizer: Optimizer, steps: int) -> LRScheduler:
    """Return the default schedule: a linear warm-up, then half a cosine down to zero."""
    warm_up = max(1, round(WARM_UP * steps))

    def factor(step: int) -> float:
        cosine = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / max(steps, 1))).item())
        return min(1.0, (step + 1) / warm_up) * cosine

    return LambdaLR(optimizer, factor)


class TrainedWeights:
    """Parameters of a potential that are trained, their optimiser and their average.

    The average is exponential: after step n, `average += (1 - decay) (weights - average)`, with
    `decay = min(average, (1 + n) / (10 + n))`, so that the first steps are soon forgotten.

    Args:
        params: Parameters of the potential.
        names: Names of the weights to train.
        rate: Learning rate of the default optimiser, Adam.
        steps: Number of all steps, for the schedule.
        average: Largest decay of the average; None for no average.
        optimizer: Function that makes another optimiser.
        scheduler: Function that makes another schedule.

    Attributes:
        weights: The weights, as they are now.
        average: Their average.
        steps: Number of steps that were taken.
        digest: Digest of the parameters before training, and of what moves them.
    """

    def __init__(
        self,
        params: Any,
        names: Sequence[str],
        *,
        rate: float,
        steps: int,
        average: float | None,
        optimizer: MakeOptimizer | None = None,
        scheduler: MakeScheduler | None = None,
    ) -> None:
        leaves = named_leaves(params)
        self._params, self._decay = params, average
        self.weights = {k: nn.Parameter(leaves[k].detach().clone()) for k in names}
        self.average = {k: w.detach().clone() for k, w in self.weights.items()}
        make = optimizer or (lambda weights: Adam(weights, lr=rate, betas=(0.9, 0.99)))
        self.optimizer = make(self.weights.values())
        self.scheduler = (scheduler or cosine_schedule)(self.optimizer, steps)
        self.steps = 0
        self.digest = self._digest(rate)

    def _digest(self, rate: float) -> str:
        """Return a digest of the parameters before training, and of what moves them."""
        digest = sha256(repr((rate, self._decay, list(self.weights))).encode())
        for name, tensor in sorted(named_leaves(self._params).items()):
            digest.update(repr((name, tensor.dtype)).encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def params(self) -> Any:
        """All parameters, with the weights as they are now; they require gradients."""
        return self.with_weights(self.weights)

    @property
    def averaged_params(self) -> Any:
        """All parameters, with the averages of the weights."""
        return self.with_weights(self.average)

    def with_weights(self, weights: Mapping[str, Tensor]) -> Any:
        """Return all parameters, with these in place of the weights."""
        return with_leaves(self._params, weights)

    @property
    def rate(self) -> float:
        """Learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self, largest_gradient: float | None) -> float:
        """Take a step along the gradients of the weights, and return their norm.

        Args:
            largest_gradient: Norm to which longer gradients are shortened; None for any.

        Raises:
            FloatingPointError: If the gradient is not finite.
        """
        limit = float("inf") if largest_gradient is None else largest_gradient
        norm = float(torch.nn.utils.clip_grad_norm_(self.weights.values(), limit))
        if not norm < float("inf"):
            raise FloatingPointError(
                f"the gradient of step {self.steps + 1} is not finite: lower the learning rate, or "
                "look for structures with atoms on top of each other"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()
        self.steps += 1
        decay = 0.0
        if self._decay is not None:
            decay = min(self._decay, (1 + self.steps) / (10 + self.steps))
        for name, weight in self.weights.items():
            self.average[name].lerp_(weight.detach(), 1 - decay)
        return norm

    def state(self) -> dict[str, Any]:
        """Return everything that `restore` needs to go on exactly from here."""
        return {
            "weights": {k: w.detach() for k, w in self.weights.items()},
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "steps": self.steps,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        for name, weight in self.weights.items():
            weight.data.copy_(state["weights"][name])
            self.average[name].copy_(state["average"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.steps = int(state["steps"])
