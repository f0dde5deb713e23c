"""Training of a potential on labelled structures, from its present weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mace_functional.autodiff.columns import columns_bar
from mace_functional.potential.protocol import HasReferenceEnergies, Trainable
from mace_functional.support.defaults import AVERAGE, BATCH_SIZE, EPOCHS, RATE, VALIDATION
from mace_functional.support.validation import between, count, in_order, positive
from mace_functional.training.finetuned import FineTuned
from mace_functional.training.held_back import held_back
from mace_functional.training.label_batches import Example
from mace_functional.training.labelled_structure import LabelledStructure
from mace_functional.training.losses import LossWeights
from mace_functional.training.reference_energies import element_shifts
from mace_functional.training.trained_weights import (
    MakeOptimizer,
    MakeScheduler,
    TrainedWeights,
    chosen_weights,
)
from mace_functional.training.training_run import Objective, TrainingPlan, TrainingRun


def finetune(
    potential: Trainable,
    data: Sequence[LabelledStructure],
    *,
    validation: float | Sequence[LabelledStructure] = VALIDATION,
    replay: Sequence[LabelledStructure] = (),
    epochs: int = EPOCHS,
    batch_size: int = BATCH_SIZE,
    rate: float = RATE,
    loss: LossWeights | None = None,
    objectives: Mapping[str, Objective] | None = None,
    trainable: str | Sequence[str] = "all",
    fit_references: bool = False,
    optimizer: MakeOptimizer | None = None,
    scheduler: MakeScheduler | None = None,
    average: float | None = AVERAGE,
    largest_gradient: float | None = 10.0,
    patience: int | None = None,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    log: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> FineTuned:
    """Train a potential on energies, forces, stresses and Hessian products, from its weights.

    Each step takes `batch_size` structures, and for each that has curvature a single product of the
    Hessian along a random direction: an unbiased estimate of the squared error of the whole Hessian
    (see `training/losses.py`). A step with products takes about twice the time of one with forces
    alone. The same arguments give the same result.

    In a process group of `torch.distributed` (`torchrun`), the processes share the structures of
    each step by torch's data-parallel engine. The result is that of one process, to rounding.

    Args:
        potential: A MACE model, a `FunctionPotential`, or a sum. It is trained in its own dtype and
            on its own device; float32 is twice as fast. It is not changed.
        data: Labelled structures, such as those of `read_labelled` or `labelled_by`.
        validation: Structures that measure the errors and are not trained on; or the fraction of
            `data` to keep for that, chosen at random; 0 for none.
        replay: Structures against forgetting, with the results of the model before training, such
            as those of `labelled_by`. Each step takes half as many of them, at random, as of the
            data.
        epochs: Number of passes through the data.
        batch_size: Structures of a step.
        rate: Learning rate of Adam.
        loss: Weights of the loss; None for the defaults of `LossWeights`.
        objectives: Further losses by name: functions of the parameters whose values are added to
            the loss of each step, such as those of `phonon_objective`.
        trainable: "all", "readouts" or names of weights, with `*` for any text.
        fit_references: True to shift the reference energies of the elements first, so that energies
            fit best; for labels of another electronic-structure method. Energies of `replay` are
            shifted with them.
        optimizer: Function of the weights that makes one of torch's optimisers, in place of Adam.
        scheduler: Function of optimiser and number of steps that makes one of torch's schedules of
            learning rates, in place of a short warm-up and half a cosine.
        average: Decay of the exponential average of the weights, which is the result; None for the
            weights themselves.
        largest_gradient: Norm to which longer gradients are shortened; None for any.
        patience: Epochs without a smaller loss on the validation set after which the training
            stops; None to do all.
        seed: Seed of the validation set, the order and the directions.
        checkpoint: File that holds the state, rewritten at least every minute. If it exists, the
            training goes on from there, to the same result.
        log: File of JSON lines to which the record of each epoch is written.
        progress: Show a progress bar.

    Returns:
        The trained potential and the records of all epochs.

    Raises:
        TypeError: If arguments are of other classes.
        ValueError: If there are no structures, no labels for the loss, an option is out of range,
            the potential cannot compute a structure, or the checkpoint belongs to another training.
        FloatingPointError: If a gradient is not finite.
    """
    in_order("finetune(potential, data)", (potential, "Trainable"))
    loss = LossWeights() if loss is None else loss
    rng = np.random.default_rng([seed, 0])
    training, held = _split(data, validation, rng)
    examples = [Example.of(labelled, potential) for labelled in training]
    shifts: dict[int, float] = {}
    if fit_references:
        potential, shifts = _with_fitted_references(potential, examples)
        replay = [_shifted(labelled, shifts) for labelled in replay]
    plan = TrainingPlan(
        examples=examples,
        validation=[Example.of(labelled, potential) for labelled in held],
        replay=[Example.of(labelled, potential) for labelled in replay],
        loss=loss,
        objectives=dict(objectives or {}),
        epochs=count("epochs", epochs),
        batch_size=count("batch_size", batch_size),
        largest_gradient=_optional(positive, "largest_gradient", largest_gradient),
        patience=_optional(count, "patience", patience),
        seed=count("seed", seed, 0),
    )
    plan.check()
    names = chosen_weights(potential, trainable)
    weights = TrainedWeights(
        potential.params,
        names,
        rate=positive("rate", rate),
        steps=plan.epochs * plan.steps_per_epoch,
        average=None if average is None else between("average", average, 0.0, 1.0),
        optimizer=optimizer,
        scheduler=scheduler,
    )
    run = TrainingRun(potential, weights, plan, _path(checkpoint), _path(log))
    run.resume()
    with columns_bar("Training", plan.epochs * plan.steps_per_epoch, progress) as advance:
        advance(weights.steps)
        ending = run.finish(advance)
    trained = potential.with_params(run.best_params)
    return FineTuned(trained, run.history, run.best_epoch, ending, names, shifts)


def _split(
    data: Sequence[LabelledStructure],
    validation: float | Sequence[LabelledStructure],
    rng: np.random.Generator,
) -> tuple[list[LabelledStructure], list[LabelledStructure]]:
    """Return the structures for training and for validation."""
    data = list(data)
    if not all(isinstance(labelled, LabelledStructure) for labelled in data):
        raise TypeError("data must be LabelledStructures, such as those of read_labelled")
    if not isinstance(validation, (int, float)):
        return data, list(validation)
    return held_back(data, between("validation", validation, 0.0, 0.9), rng)


def _with_fitted_references(
    potential: Trainable, examples: Sequence[Example]
) -> tuple[Any, dict[int, float]]:
    """Return the potential with reference energies that fit the examples, and their shifts."""
    if not isinstance(potential, HasReferenceEnergies):
        raise TypeError(
            f"{type(potential).__name__} has no reference energies of elements: leave out "
            "fit_references, or subtract such energies from the labels"
        )
    shifts = element_shifts(potential, examples)
    return potential.with_shifted_references(shifts), shifts


def _shifted(labelled: LabelledStructure, shifts: dict[int, float]) -> LabelledStructure:
    """Return a structure with an energy that follows the shifted references."""
    if labelled.energy is None:
        return labelled
    shift = sum(shifts.get(int(z), 0.0) for z in labelled.atoms.numbers)
    return replace(labelled, energy=labelled.energy + shift)


def _optional(check: Callable[..., Any], name: str, value: Any) -> Any:
    return None if value is None else check(name, value)


def _path(path: str | os.PathLike[str] | None) -> Path | None:
    return None if path is None else Path(path)
