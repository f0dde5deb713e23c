"""A training run: its steps, epochs and validation, and the state from which it resumes.

Structures are taken in an order that depends on seed and epoch, and directions of products on seed,
epoch and step, so a run that is resumed does the same as one that was never interrupted.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mace_functional.potential.protocol import Trainable
from mace_functional.support.atomic_write import atomic_write
from mace_functional.training.data_parallel import Processes
from mace_functional.training.finetuned import Ending
from mace_functional.training.label_batches import Example, LabelBatch, batches_of, counts_of
from mace_functional.training.label_errors import validated
from mace_functional.training.losses import LossWeights
from mace_functional.training.trained_weights import TrainedWeights

Objective = Callable[[Any], Tensor]
"""A further loss: a function of the parameters to a number."""

SAVE_SECONDS = 60.0
"""Time between two writings of the checkpoint, s."""


@dataclass(frozen=True, eq=False)
class TrainingPlan:
    """Everything that a run does, but for the weights; see `finetune` for the meaning."""

    examples: list[Example]
    validation: list[Example]
    replay: list[Example]
    loss: LossWeights
    objectives: dict[str, Objective]
    epochs: int
    batch_size: int
    largest_gradient: float | None
    patience: int | None
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps of an epoch; one without structures, for the objectives alone."""
        return max(1, math.ceil(len(self.examples) / self.batch_size))

    def check(self) -> None:
        """Raise ValueError if there is nothing to train on."""
        counts = counts_of([*self.examples, *self.replay])
        labelled = any(n and w for n, w in zip(counts, self.loss.weights, strict=True))
        if not self.examples and not self.objectives:
            raise ValueError("there are no structures to train on: give data, or objectives")
        if not labelled and not self.objectives:
            raise ValueError(
                "no structure has a label whose weight in the loss is not zero: give energies, "
                "forces, stresses or curvature, or other weights"
            )
        if self.patience is not None and not self.validation:
            raise ValueError("patience needs a validation set: give validation, or no patience")

    def step(self, epoch: int, step: int) -> tuple[list[Example], np.random.Generator]:
        """Return the structures of a step, and the generator of its directions."""
        order = np.random.default_rng([self.seed, 1, epoch]).permutation(len(self.examples))
        rng = np.random.default_rng([self.seed, 2, epoch, step])
        chosen = [self.examples[k] for k in order[step :: self.steps_per_epoch]]
        if self.replay:
            n = min(len(self.replay), math.ceil(len(chosen) / 2))
            chosen += [self.replay[k] for k in rng.choice(len(self.replay), n, replace=False)]
        return chosen, rng

    @property
    def digest(self) -> str:
        """Digest of structures, labels and settings, by which a checkpoint knows its run."""
        digest = sha256(
            repr((self.loss, sorted(self.objectives), self.epochs, self.batch_size)).encode()
        )
        digest.update(repr((self.largest_gradient, self.patience, self.seed)).encode())
        for part in self.examples, self.validation, self.replay:
            digest.update(b"|")
            for labelled in (e.labelled for e in part):
                atoms, curvature = labelled.atoms, labelled.curvature
                digest.update(repr((labelled.energy, labelled.weight)).encode())
                arrays = [atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc]
                arrays += [labelled.forces, labelled.stress]
                arrays += [] if curvature is None else [curvature.directions, curvature.products]
                for array in arrays:
                    digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


@dataclass(eq=False)
class TrainingRun:
    """A run and its state.

    Attributes:
        potential: The potential.
        weights: The weights that are trained.
        plan: What is done.
        checkpoint: File of the state; None for none.
        log: File of the records; None for none.
        history: Records of the epochs that are complete.
        best_epoch: Epoch with the smallest loss on the validation set.
    """

    potential: Trainable
    weights: TrainedWeights
    plan: TrainingPlan
    checkpoint: Path | None
    log: Path | None
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    _best: dict[str, Tensor] = field(default_factory=dict)
    _losses: list[float] = field(default_factory=list)
    _gradients: list[float] = field(default_factory=list)
    _saved: float = 0.0
    _seconds: float = 0.0

    def __post_init__(self) -> None:
        self.processes = Processes(self.potential, self.weights, self.plan.loss)

    @property
    def best_params(self) -> Any:
        """Parameters with the averaged weights of the best epoch."""
        return self.weights.with_weights(self._best)

    @property
    def _digest(self) -> str:
        return self.plan.digest + self.weights.digest

    def resume(self) -> None:
        """Read the checkpoint, if there is one, or begin with the errors before training."""
        if self.checkpoint is not None and self.checkpoint.exists():
            self._read(self.checkpoint)
        else:
            self._best = {k: w.clone() for k, w in self.weights.average.items()}
            self.history.append({"epoch": 0, **self._validation()})
        self._write_log()

    def finish(self, advance: Callable[[int], None]) -> Ending:
        """Do all steps that remain.

        Args:
            advance: Function that is called after each step with the number one.
        """
        per_epoch = self.plan.steps_per_epoch
        self._saved = time.monotonic()
        try:
            while self.weights.steps < self.plan.epochs * per_epoch and not self._stops_early:
                started = time.perf_counter()
                epoch, step = divmod(self.weights.steps, per_epoch)
                self._take(epoch, step)
                self._seconds += time.perf_counter() - started
                if step + 1 == per_epoch:
                    self._end_epoch(epoch + 1)
                advance(1)
                if step + 1 == per_epoch or time.monotonic() - self._saved > SAVE_SECONDS:
                    self._write()
        except KeyboardInterrupt:
            self._write()
            raise
        return "stopped early" if self._stops_early else "finished"

    @property
    def _stops_early(self) -> bool:
        patience, done = self.plan.patience, self.history[-1]["epoch"]
        return patience is not None and done - self.best_epoch >= patience

    def _take(self, epoch: int, step: int) -> None:
        """Take one step: gradients of all batches and objectives, then the optimiser."""
        chosen, rng = self.plan.step(epoch, step)
        loss = self.processes.backward(chosen, rng, self.plan.objectives)
        self._losses.append(loss)
        self._gradients.append(self.weights.step(self.plan.largest_gradient))

    def _end_epoch(self, epoch: int) -> None:
        record = {
            "epoch": epoch,
            "steps": self.weights.steps,
            "loss": float(np.mean(self._losses)),
            "gradient": float(np.mean(self._gradients)),
            "rate": self.weights.rate,
            "seconds": self._seconds,
            **self._validation(),
        }
        self._losses, self._gradients, self._seconds = [], [], 0.0
        self.history.append(record)
        best = self.history[self.best_epoch].get("validation", {"loss": math.inf})["loss"]
        if not self.plan.validation or record["validation"]["loss"] < best:
            self.best_epoch = epoch
            self._best = {k: w.clone() for k, w in self.weights.average.items()}
        self._write_log()

    def _validation(self) -> dict[str, Any]:
        if not self.plan.validation:
            return {}
        params, loss = self.weights.averaged_params, self.plan.loss
        errors = validated(self.potential, params, self.plan.validation, self._held, loss)
        return {"validation": errors}

    @cached_property
    def _held(self) -> list[LabelBatch]:
        """Batches of the validation set, with directions that are the same for all epochs."""
        products = self.plan.loss.products > 0
        return batches_of(self.plan.validation, np.random.default_rng(0), products=products)

    def _write(self) -> None:
        """Write the state."""
        self._saved = time.monotonic()
        if self.checkpoint is None or not self.processes.first:
            return
        state = {
            "digest": self._digest,
            "training": self.weights.state(),
            "history": self.history,
            "best_epoch": self.best_epoch,
            "best": self._best,
            "losses": self._losses,
            "gradients": self._gradients,
            "seconds": self._seconds,
        }
        with atomic_write(self.checkpoint) as partial, partial.open("wb") as file:
            torch.save(state, file)  # it refuses paths whose only dot is the first character

    def _read(self, path: Path) -> None:
        try:
            state = torch.load(path, weights_only=True)
            digest, training = state["digest"], state["training"]
        except Exception as error:
            raise ValueError(f"{path} is no checkpoint of finetune: {error}") from error
        if digest != self._digest:
            raise ValueError(
                f"{path} belongs to another training, with another model, other structures or "
                "options: remove it, or name another file"
            )
        self.weights.restore(training)
        self.history, self.best_epoch = state["history"], state["best_epoch"]
        self._best = {k: w.to(self.weights.average[k]) for k, w in state["best"].items()}
        self._losses, self._gradients = state["losses"], state["gradients"]
        self._seconds = state["seconds"]

    def _write_log(self) -> None:
        if self.log is not None and self.processes.first:
            with atomic_write(self.log) as partial:
                partial.write_text("".join(json.dumps(r) + "\n" for r in self.history))
