"""Train the embedded model: distil a foundation model into a small MACE.

    python training/distil.py --teacher MACE-MP-0_small.model --frameworks FOLDER --output FOLDER

generates the configurations, labels them with the teacher, trains the student by `mf.finetune`, and
writes the model. An interrupted run continues from the existing labels and from the state of the
last minute. With `torchrun --nproc-per-node 2` before the name of the script, two processes share
the structures of each step. `--weights` starts from a model that was trained before: the embedded
model was made in four such stages, whose log is log.jsonl and which its card describes.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

import teacher
import torch
from student import new_student

import mace_functional as mf
from mace_functional.cli.process_groups import is_first, process_group
from mace_functional.training import LabelledStructure, LossWeights

VALIDATION = 0.03
"""Fraction of the configurations that is used for validation only."""

THRESHOLDS = {
    "energy_threshold": 0.005,
    "forces_threshold": 0.05,
    "stress_threshold": 0.003,
    "products_threshold": 0.5,
}
"""Errors above which losses are linear: eV per atom, eV/Å, eV/Å³ and eV/Å²."""

FIRST, LAST = (
    LossWeights(energy=energy, forces=200.0, stress=5.6e4, products=2.0, **THRESHOLDS)
    for energy in (2e3, 2e4)
)
"""Losses of the two parts of the training.

All terms have the same size for errors as large as the thresholds, but that of energies a tenth of
it in the first part. There is one energy for hundreds of other numbers. If it has full weight from
the beginning, its noise makes all results, even energies, worse for a long time.
"""

LAST_PART, LAST_RATE = 0.3, 0.2
"""Number of epochs and learning rate of the second part, in units of those of the first."""


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--teacher", type=Path, required=True, help="MACE-MP-0 small")
    parser.add_argument(
        "--frameworks", type=Path, required=True, help="folder with structures/*.cif"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for all results")
    parser.add_argument("--weights", type=Path, help="student with initial weights, *.safetensors")
    parser.add_argument("--channels", type=int, default=96, help="%(default)s")
    parser.add_argument("--max-ell", type=int, default=2, help="%(default)s")
    parser.add_argument("--epochs", type=int, default=125, help="%(default)s")
    parser.add_argument("--batch-size", type=int, default=12, help="%(default)s")
    parser.add_argument("--rate", type=float, default=0.01, help="learning rate (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="%(default)s")
    parser.add_argument("--workers", type=int, default=2, help="processes that label (%(default)s)")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    labels = options.output / "labels"
    if is_first():  # the other processes wait at the entry of the group
        teacher.label_all(options.teacher, options.frameworks, labels, options.workers, print)
    with process_group("cpu"):
        train(options, teacher.read_all(labels))


def train(options: argparse.Namespace, data: Sequence[LabelledStructure]) -> None:
    """Train the student in two parts, and write it with coupling coefficients in float64."""
    student = {"channels": options.channels, "max_ell": options.max_ell, "seed": options.seed}
    torch.set_default_dtype(torch.float64)
    exact = mf.load_model(
        new_student(data, **student) if options.weights is None else options.weights
    )
    torch.set_default_dtype(torch.float32)
    model = exact.to(dtype="float32")
    parts = ((FIRST, 1.0, 1.0), (LAST, LAST_PART, LAST_RATE))
    for part, (loss, length, rate) in enumerate(parts, 1):
        found = mf.finetune(
            model,
            data,
            validation=VALIDATION,
            epochs=max(1, round(length * options.epochs)),
            batch_size=options.batch_size,
            rate=rate * options.rate,
            loss=loss,
            average=0.999,
            seed=options.seed,
            checkpoint=options.output / f"state-{part}.pt",
            log=options.output / f"log-{part}.jsonl",
            progress=is_first(),
        )
        if is_first():
            print(found, flush=True)
        model = found.potential
    if not is_first():
        return
    weights = {name: model.params[name].double() for name in model.weights}
    mf.save_model(
        exact.with_params({**exact.params, **weights}),
        options.output / "mace-embedded.safetensors",
        dtype=torch.float32,
    )


if __name__ == "__main__":
    main()
