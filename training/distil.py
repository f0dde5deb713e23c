"""Train the embedded model: distil a foundation model into a small MACE.

    python training/distil.py --teacher MACE-MP-0_small.model --frameworks FOLDER --output FOLDER

generates the configurations, labels them with the teacher, trains the student, and writes the
model. An interrupted run continues from the existing labels and from the state of the last epoch.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import teacher
import torch
from samples import Sample, batches
from student import errors, evaluate, losses, new_student
from torch import Tensor

import mace_functional as mf
from mace_functional.support.atomic_write import atomic_write

VALIDATION = 0.03
"""Fraction of the configurations that is used for validation only."""

WEIGHTS, LAST_WEIGHTS, LAST_PART = (0.1, 1.0, 1.0, 1.0), (1.0, 1.0, 1.0, 1.0), 0.3
"""Weights of the losses of energies, forces, stresses and curvatures, at first and at the end.

`LAST_PART` is the fraction of the training with the last weights. There is one energy for hundreds
of other numbers. If it has full weight from the beginning, its noise makes all results, even
energies, worse for a long time.
"""

LARGEST_GRADIENT = 10.0
"""Norm to which the gradient of the loss is clipped."""


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--teacher", type=Path, required=True, help="MACE-MP-0 small")
    parser.add_argument(
        "--frameworks", type=Path, required=True, help="folder with structures/*.cif"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for all results")
    parser.add_argument("--start", type=Path, help="student with initial weights, *.safetensors")
    parser.add_argument("--channels", type=int, default=64, help="%(default)s")
    parser.add_argument("--max-ell", type=int, default=2, help="%(default)s")
    parser.add_argument("--epochs", type=int, default=125, help="%(default)s")
    parser.add_argument("--rate", type=float, default=0.01, help="learning rate (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="%(default)s")
    parser.add_argument("--workers", type=int, default=2, help="processes that label (%(default)s)")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    labels = options.output / "labels"
    teacher.label_all(options.teacher, options.frameworks, labels, options.workers, print)
    train(options, teacher.read_all(labels))


def train(options: argparse.Namespace, samples: Sequence[Sample]) -> None:
    """Train the student, and write the average of its weights after each epoch."""
    rng = np.random.default_rng(options.seed)
    number = max(1, int(VALIDATION * len(samples)))
    chosen = set(rng.choice(len(samples), number, replace=False).tolist())
    training = [s for k, s in enumerate(samples) if k not in chosen]
    validation = [samples[k] for k in sorted(chosen)]
    student = {"channels": options.channels, "max_ell": options.max_ell, "seed": options.seed}
    module = new_student(samples, **student)
    model = mf.load_model(module, dtype=torch.float32)
    trainable = [k for k, p in module.named_parameters() if p.numel() and k in model.params]
    initial = mf.load_model(options.start, dtype=torch.float32) if options.start else model
    fit = _Fit({k: initial.params[k] for k in trainable}, options.rate)
    torch.set_default_dtype(torch.float64)
    exact = mf.load_model(new_student(samples, **student))  # coupling coefficients in float64
    torch.set_default_dtype(torch.float32)

    state, log = options.output / "state.pt", options.output / "log.jsonl"
    first = fit.restore(torch.load(state, weights_only=True)) if state.exists() else 0
    count = sum(w.numel() for w in fit.weights.values())
    print(
        f"{len(training)} configurations, {len(validation)} for validation, {count} weights",
        flush=True,
    )
    for epoch in range(first, options.epochs):
        started, epoch_losses = time.perf_counter(), []
        all_batches = list(batches(training, model, np.random.default_rng([options.seed, epoch])))
        for position, batch in enumerate(all_batches):
            loss = losses(evaluate(model, model.params | fit.weights, batch), batch)
            fit.step(loss, (epoch + position / len(all_batches)) / options.epochs)
            epoch_losses.append(loss.detach())
        record = {
            "epoch": epoch + 1,
            "steps": fit.steps,
            "loss": [round(float(x), 4) for x in torch.stack(epoch_losses).mean(0)],
            **_validate(model, model.params | fit.average, validation),
            "seconds": round(time.perf_counter() - started, 1),
        }
        print(json.dumps(record), flush=True)
        with log.open("a") as file:
            file.write(json.dumps(record) + "\n")
        with atomic_write(state) as partial:
            torch.save(fit.state() | {"epoch": epoch + 1}, partial)
        params = exact.params | {k: w.double() for k, w in fit.average.items()}
        mf.save_model(
            replace(exact, params=params),
            options.output / "mace-embedded.safetensors",
            dtype=torch.float32,
        )


class _Fit:
    """Adam with a learning rate schedule, and an exponential moving average of the weights."""

    def __init__(self, weights: dict[str, Tensor], rate: float) -> None:
        self.weights = {k: w.clone().requires_grad_() for k, w in weights.items()}
        self.average = {k: w.clone() for k, w in weights.items()}
        self.rate, self.steps = rate, 0
        self.optimiser = torch.optim.Adam(self.weights.values(), lr=rate, betas=(0.9, 0.99))

    def step(self, loss: Tensor, progress: float) -> None:
        """Take one step; the learning rate has a warm-up, and decays to zero by a cosine.

        Args:
            loss: The four losses, (4,).
            progress: Fraction of the training that is done.
        """
        for group in self.optimiser.param_groups:
            cosine = 0.5 * (1 + math.cos(math.pi * progress))
            group["lr"] = self.rate * min(1.0, 100 * progress) * cosine
        self.optimiser.zero_grad()
        weights = WEIGHTS if progress < 1 - LAST_PART else LAST_WEIGHTS
        (loss * torch.tensor(weights)).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.weights.values(), LARGEST_GRADIENT)
        self.optimiser.step()
        self.steps += 1
        decay = min(0.999, (1 + self.steps) / (10 + self.steps))
        for k, w in self.weights.items():
            self.average[k].lerp_(w.detach(), 1 - decay)

    def state(self) -> dict[str, Any]:
        """Return the state for `restore`."""
        weights = {k: w.detach() for k, w in self.weights.items()}
        return {
            "optimiser": self.optimiser.state_dict(),
            "steps": self.steps,
            "average": self.average,
            "weights": weights,
        }

    def restore(self, saved: dict[str, Any]) -> int:
        """Restore a saved state, and return the number of completed epochs."""
        self.optimiser.load_state_dict(saved["optimiser"])
        self.steps, self.average = saved["steps"], saved["average"]
        for k, w in self.weights.items():
            w.data.copy_(saved["weights"][k])
        return int(saved["epoch"])


def _validate(
    model: mf.MaceModel, params: dict[str, Tensor], samples: Sequence[Sample]
) -> dict[str, float]:
    """Return mean absolute errors of energies per atom, forces, stresses and curvatures."""
    absolute: list[list[Tensor]] = [[], [], [], []]
    for batch in batches(samples, model, np.random.default_rng(0)):
        batch_errors = errors(evaluate(model, params, batch), batch)
        for values, error in zip(absolute, batch_errors, strict=True):
            values.append(error.detach().abs().flatten())
    energy, force, stress, curvature = (float(torch.cat(values).mean()) for values in absolute)
    return {
        "mae_energy_meV": round(1000 * energy, 2),
        "mae_force_meV_A": round(1000 * force, 2),
        "mae_stress_meV_A3": round(1000 * stress, 3),
        "mae_curvature_eV_A2": round(curvature, 3),
    }


if __name__ == "__main__":
    main()
