"""The options of `mace-functional check`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mace_functional.cli.arguments import Parser, number
from mace_functional.cli.options import add_structure_and_model
from mace_functional.cli.output_files import check_outputs
from mace_functional.support.defaults import CHECK_DISPLACEMENT, LARGEST_CHECK_DISPLACEMENT
from mace_functional.support.validation import between, count


def add_parser(verbs: Any) -> None:
    """Add the verb to the command line."""
    parser: Parser = verbs.add_parser(
        "check",
        help="check derivatives, symmetries and phonons of a model at a structure",
        description="Check a model at a structure: forces, stress, Hessian products and third "
        "derivatives against\ndifferences, nested transforms, symmetries, neighbour lists, "
        "precision, dispersion and D(q).\nThe exit code is 0 if all checks that apply hold, 1 if "
        "one does not, 2 if the input is bad.",
    )
    add_structure_and_model(parser)
    parser.add_argument(
        "--displacement",
        type=number("--displacement", between, 0.0, LARGEST_CHECK_DISPLACEMENT, "Å"),
        default=CHECK_DISPLACEMENT,
        metavar="D",
        help="largest random displacement of the atoms, which removes symmetry before anything is "
        f"checked, Å, from 0 to {LARGEST_CHECK_DISPLACEMENT:g} (%(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=number("--seed", count, 0),
        default=0,
        metavar="n",
        help="of random displacements and directions (%(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the table here")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    """Check the options, and only then import what computes."""
    check_outputs({"--json": options.json}, [options.file, options.model])
    from mace_functional.cli import check_command

    return check_command.run(options)
