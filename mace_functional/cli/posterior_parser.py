"""Options of `mace-functional posterior`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mace_functional.cli.arguments import Parser, number
from mace_functional.cli.label_options import add_labels
from mace_functional.cli.options import add_model, device
from mace_functional.cli.output_files import check_outputs
from mace_functional.support.defaults import LABEL_KINDS
from mace_functional.support.validation import between, count

FRACTION = 0.2
"""Default fraction of the data by which the distribution is calibrated."""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand to the command line."""
    parser: Parser = subparsers.add_parser(
        "posterior",
        help="how uncertain the weights of a model are, for error bars",
        description="Fit a normal distribution of weights of a model to labelled structures, and "
        "calibrate it on\nothers. `mace-functional thermo --uncertainty` turns it into standard "
        "deviations.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_labels(parser)
    add_model(parser)
    parser.add_argument(
        "--device", type=device("--device"), default="cpu", help="device: cpu, cuda, ... (cpu)"
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="file of labelled structures that the model was not trained on (a fraction of DATA, "
        "which is honest only if the model was not trained on DATA)",
    )
    parser.add_argument(
        "--fraction",
        type=number("--fraction", between, 0.01, 0.9),
        default=FRACTION,
        metavar="f",
        help="fraction of DATA for the calibration, without --calibration (%(default)s)",
    )
    parser.add_argument(
        "--kind",
        choices=LABEL_KINDS,
        default="forces",
        help="labels that the distribution is calibrated on (%(default)s)",
    )
    parser.add_argument(
        "--weights",
        default=None,
        metavar="NAME,NAME,...",
        help="names of the uncertain weights, with * for any text (those of the last layers)",
    )
    parser.add_argument(
        "--seed",
        type=number("--seed", count, 0),
        default=0,
        metavar="n",
        help="seed of the choice of --fraction (%(default)s)",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="OUT", help="file of the distribution, *.npz"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for the calibration")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    """Check the options, then import the code that computes, and run it."""
    given = [] if options.calibration is None else [str(options.calibration)]
    inputs = [*options.data, *given, options.model]
    check_outputs({"--output": options.output, "--json": options.json}, inputs)
    from mace_functional.cli import posterior_command

    posterior_command.run(options)
