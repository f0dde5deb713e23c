"""Options of `mace-functional check`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mace_functional.cli.arguments import Parser, number
from mace_functional.cli.options import add_structure_and_model
from mace_functional.cli.output_files import check_outputs
from mace_functional.support.defaults import CHECK_DISPLACEMENT, LARGEST_CHECK_DISPLACEMENT
from mace_functional.support.validation import between, count


def add_parser(subparsers: Any) -> None:
    """Add the subcommand to the command line."""
    parser: Parser = subparsers.add_parser(
        "check",
        help="check derivatives, symmetries and phonons of a model at a structure",
        description="Check a model at a structure: forces, stress, Hessian products and third "
        "derivatives against\ndifferences, nested transforms, symmetries, neighbour lists, "
        "precision, dispersion and D(q).\nThe exit code is 0 if all applicable checks pass, 1 if "
        "one fails, 2 if the input is invalid.",
    )
    add_structure_and_model(parser)
    parser.add_argument(
        "--displacement",
        type=number("--displacement", between, 0.0, LARGEST_CHECK_DISPLACEMENT, "Å"),
        default=CHECK_DISPLACEMENT,
        metavar="D",
        help="largest random displacement of the atoms before the checks, which breaks their "
        f"symmetry, Å, from 0 to {LARGEST_CHECK_DISPLACEMENT:g} (%(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=number("--seed", count, 0),
        default=0,
        metavar="n",
        help="seed of random displacements and directions (%(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for the table")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    """Check the options, then import the code that computes, and run it."""
    check_outputs({"--json": options.json}, [options.file, options.model])
    from mace_functional.cli import check_command

    return check_command.run(options)
