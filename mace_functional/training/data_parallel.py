"""Gradients of a step, by one process or by several that share its structures.

Several processes form a process group of `torch.distributed`, as `torchrun` starts them. Torch's
`DistributedDataParallel` averages the gradients of the processes in the last backward pass of each
step; passes before that only add them up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from mace_functional.potential.protocol import Trainable
from mace_functional.training.label_batches import (
    CALL,
    Example,
    LabelBatch,
    batches_of,
    counts_of,
)
from mace_functional.training.losses import LossTerms, LossWeights, weighted_loss
from mace_functional.training.trained_weights import TrainedWeights


class Processes:
    """The processes of a training, or the only one.

    Args:
        potential: The potential.
        weights: The weights, whose gradients are computed.
        loss: Weights of the loss.

    Attributes:
        first: True in the process that writes files.
    """

    def __init__(self, potential: Trainable, weights: TrainedWeights, loss: LossWeights) -> None:
        grouped = distributed.is_available() and distributed.is_initialized()
        self._rank = distributed.get_rank() if grouped else 0
        self._count = distributed.get_world_size() if grouped else 1
        self._loss = loss
        self._module: Any = _Losses(potential, weights, loss)
        if self._count > 1:
            self._module = DistributedDataParallel(self._module)
        self.first = self._rank == 0

    def backward(
        self,
        examples: list[Example],
        rng: np.random.Generator,
        objectives: Mapping[str, Callable[[Any], Tensor]],
    ) -> float:
        """Add the gradients of a step to those of the weights, and return its loss.

        Args:
            examples: Structures of all processes.
            rng: Generator of the directions; in the same state in all processes.
            objectives: Further losses; each process takes some of them.
        """
        own = shares([n * k + CALL for n, k in (e.size for e in examples)], self._count)[self._rank]
        batches = batches_of(examples, rng, products=self._loss.products > 0, chosen=own)
        counts = counts_of(examples)
        work: list[Any] = [*batches, *list(objectives.items())[self._rank :: self._count]]
        total = torch.zeros((), dtype=torch.float64)
        for k, item in enumerate(work or [None]):
            last = k + 1 >= len(work)
            with nullcontext() if last or self._count == 1 else self._module.no_sync():
                loss = self._count * self._module(item, counts)
                loss.backward()
            total += loss.detach().double().cpu() / self._count
        if self._count > 1:
            distributed.all_reduce(total)
        return float(total)


def shares(costs: Sequence[float], count: int) -> list[list[int]]:
    """Share tasks so that all processes take about the same time.

    Each task, the dearest first, goes to the process that has least to do.

    Args:
        costs: Time of each task, in any unit.
        count: Number of processes.

    Returns:
        The numbers of the tasks of each process.
    """
    parts: list[list[int]] = [[] for _ in range(count)]
    loads = [0.0] * count
    for k in sorted(range(len(costs)), key=lambda k: -costs[k]):
        least = loads.index(min(loads))
        parts[least].append(k)
        loads[least] += costs[k]
    return parts


class _Losses(nn.Module):
    """The loss of a batch, as a module whose parameters are the weights."""

    def __init__(self, potential: Trainable, weights: TrainedWeights, loss: LossWeights) -> None:
        super().__init__()
        self.potential, self.trained, self.loss = potential, weights, loss
        for k, weight in enumerate(weights.weights.values()):
            self.register_parameter(f"weight_{k}", weight)

    def forward(
        self, item: LabelBatch | tuple[str, Callable[[Any], Tensor]] | None, counts: LossTerms
    ) -> Tensor:
        """Return the loss of a batch, or that of an objective by its name, or zero."""
        # Torch waits for the gradients of all weights, those on which a loss does not depend too.
        nothing = 0 * torch.stack([w.sum() for w in self.trained.weights.values()]).sum()
        if isinstance(item, LabelBatch):
            squares = item.squares(self.potential, self.trained.params, self.loss)
            return weighted_loss(squares, counts, self.loss) + nothing
        if item is not None:
            name, objective = item
            value = objective(self.trained.params)
            if not value.requires_grad:
                raise ValueError(f"the objective {name!r} does not depend on the trained weights")
            return value + nothing
        return nothing
