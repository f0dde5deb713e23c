"""Options of `mace-functional finetune`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mace_functional.cli.arguments import Parser, UsageError, number
from mace_functional.cli.label_options import add_labels
from mace_functional.cli.options import add_model, device
from mace_functional.cli.output_files import FIGURES, check_figure, check_outputs
from mace_functional.cli.process_groups import is_first
from mace_functional.support.defaults import (
    AVERAGE,
    BATCH_SIZE,
    ENERGY_WEIGHT,
    EPOCHS,
    FORCES_WEIGHT,
    PRODUCTS_WEIGHT,
    RATE,
    STRESS_WEIGHT,
    VALIDATION,
)
from mace_functional.support.validation import between, count, positive

WEIGHTS = {
    "energy": (ENERGY_WEIGHT, "energies per atom", "eV^-2"),
    "forces": (FORCES_WEIGHT, "forces", "(eV/Å)^-2"),
    "stress": (STRESS_WEIGHT, "stresses", "(eV/Å³)^-2"),
    "products": (PRODUCTS_WEIGHT, "Hessian products", "(eV/Å²)^-2"),
}
"""Terms of the loss, with the default of the weight, the errors and the unit."""

HEAVIEST = 1e12
"""Largest accepted weight of a term of the loss; 1e6 of energies weighs 1 meV per atom as 1."""

STATE = ".checkpoint"
"""Suffix of the file that holds the state of a training."""

WRITTEN = (".safetensors", ".model")
"""Suffixes of the files of a model: that of this package, and that of mace-torch."""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand to the command line."""
    parser: Parser = subparsers.add_parser(
        "finetune",
        help="train a model further on energies, forces, stresses and Hessians",
        description="Train a model on labelled structures, from its present weights: on energies, "
        "forces and stresses,\nand on products of the Hessian along random directions. The same "
        "command continues an interrupted\ntraining. With --dispersion, the labels contain "
        "dispersion: D3, which has no weights, is part of the\nenergy, and the files hold the "
        "model without it. Processes that torchrun starts share the work.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_labels(parser)
    add_model(parser)
    parser.add_argument(
        "--device",
        type=device("--device"),
        default="cpu",
        help="device: cpu, cuda, cuda:1, ...; of several processes, each takes the GPU of its "
        "number (%(default)s)",
    )
    _add_held_out(parser)
    _add_training(parser)
    _add_files(parser)
    parser.set_defaults(run=_run)


def _add_held_out(parser: Parser) -> None:
    """Add the options for validation and replay."""
    parser.add_argument(
        "--validation",
        type=_validation,
        default=VALIDATION,
        metavar="FILE",
        help="file of labelled structures that measure the errors, or the fraction of the data to "
        "keep for that, from 0 to 0.9 (%(default)s)",
    )
    parser.add_argument(
        "--replay",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="file of structures at which the model shall stay as it is, without labels; can be "
        "given several times",
    )


def _add_training(parser: Parser) -> None:
    """Add the options for the loss, the weights and the steps."""
    for term, (default, errors, unit) in WEIGHTS.items():
        name = f"--{term}-weight"
        parser.add_argument(
            name,
            type=number(name, between, 0.0, HEAVIEST, unit),
            default=default,
            metavar="w",
            help=f"weight of the squared errors of {errors} in the loss, {unit} (%(default)g)",
        )
    counts: tuple[tuple[str, int | None, str], ...] = (
        ("--epochs", EPOCHS, "passes through the data (%(default)s)"),
        ("--batch-size", BATCH_SIZE, "structures of a step (%(default)s)"),
        ("--patience", None, "stop after n epochs without a smaller loss on the validation set"),
    )
    for name, default_count, words in counts:
        parser.add_argument(
            name, type=number(name, count), default=default_count, metavar="n", help=words
        )
    parser.add_argument(
        "--rate",
        type=number("--rate", positive),
        default=RATE,
        metavar="r",
        help="learning rate of Adam (%(default)g)",
    )
    parser.add_argument(
        "--average",
        type=number("--average", between, 0.0, 1.0),
        default=AVERAGE,
        metavar="d",
        help="decay of the average of the weights, which is the result; 0 for no average "
        "(%(default)g)",
    )
    parser.add_argument(
        "--trainable",
        default="all",
        metavar="NAME,NAME,...",
        help="weights to train: all, readouts, or names with * for any text (%(default)s)",
    )
    parser.add_argument(
        "--fit-references",
        action="store_true",
        help="shift the reference energies of the elements first, so that energies fit best; for "
        "labels of another electronic-structure method",
    )
    parser.add_argument(
        "--seed",
        type=number("--seed", count, 0),
        default=0,
        metavar="n",
        help="seed of the validation set, the order and the directions (%(default)s)",
    )


def _add_files(parser: Parser) -> None:
    """Add the options for files."""
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="NAME",
        help="name of the trained model: NAME.safetensors, and NAME.model for mace-torch",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="OUT",
        help="file of the state, from which the same command continues an interrupted training; "
        f"removed at its end (NAME{STATE})",
    )
    parser.add_argument(
        "--log", type=Path, metavar="OUT", help="file of JSON lines, one for each epoch"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for the results")
    parser.add_argument(
        "--figure",
        type=Path,
        metavar="OUT",
        help=f"file for a figure of loss and errors over the epochs ({', '.join(FIGURES)})",
    )


def model_file(options: argparse.Namespace, suffix: str) -> Path:
    """Return the file of the trained model with one of the suffixes `WRITTEN`."""
    return options.output.with_name(options.output.name + suffix)


def _validation(word: str) -> float | Path:
    """Read a fraction, or the name of a file."""
    fraction: Callable[[str], float] = number("--validation", between, 0.0, 0.9)
    try:
        float(word)
    except ValueError:
        return Path(word)
    return fraction(word)


def _run(options: argparse.Namespace) -> None:
    """Check the options, then import the code that computes, and run it."""
    _check_name(options)
    check_figure("--figure", options.figure)
    if options.hessians is not None and len(options.data) > 1:
        raise UsageError("--hessians is for one file of DATA: put NAME.hessians.npz beside each")
    if options.patience is not None and options.validation == 0:
        raise UsageError("--patience needs a validation set: leave out --validation 0")
    if is_first():
        _check_files(options)
    from mace_functional.cli import finetune_command

    finetune_command.run(options)


def _check_name(options: argparse.Namespace) -> None:
    """Set the default of --checkpoint, and raise an error for a name that is none.

    Raises:
        UsageError: If it has the suffix of a model, or is a folder.
    """
    name = options.output
    if name.suffix in WRITTEN:
        raise UsageError(
            f"--output takes a name without suffix: {name.stem} for {name.stem}.safetensors and "
            f"{name.stem}.model"
        )
    if not name.name or name.is_dir():
        raise UsageError(f"--output {name} is a folder: name a model in it, such as {name}/tuned")
    if options.checkpoint is None:
        options.checkpoint = model_file(options, STATE)


def _check_files(options: argparse.Namespace) -> None:
    """Raise an error for files that cannot be written, and for a model that exists.

    Raises:
        ValueError: If there is such a file.
    """
    models = {f"--output, {suffix}:": model_file(options, suffix) for suffix in WRITTEN}
    others = {
        "--checkpoint": options.checkpoint,
        "--log": options.log,
        "--json": options.json,
        "--figure": options.figure,
    }
    validation = [] if isinstance(options.validation, float) else [str(options.validation)]
    inputs = [*options.data, *validation, *map(str, options.replay), options.model]
    check_outputs({**models, **others}, inputs)
    existing = [str(path) for path in models.values() if path.exists()]
    if existing and not options.checkpoint.exists():
        raise ValueError(
            f"the result of a complete training is there already, {' and '.join(existing)}: give "
            "another --output, or remove it"
        )
