"""`mace-functional check`: whether a model's derivatives, symmetries and phonons hold."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mace_functional.certificate.checking import (
    DISPLACEMENT,
    LARGEST_DISPLACEMENT,
    check_potential,
)
from mace_functional.certificate.table import WIDTH, Certificate
from mace_functional.cli.arguments import Parser, number
from mace_functional.cli.console import Console
from mace_functional.cli.found_structures import find_structure
from mace_functional.cli.options import add_structure_and_model, load
from mace_functional.cli.output_files import check_outputs, write_json
from mace_functional.cli.printed_results import print_written
from mace_functional.support.validation import between, count

FAILED = 1
"""Exit code where a check does not hold."""


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
        type=number("--displacement", between, 0.0, LARGEST_DISPLACEMENT, "Å"),
        default=DISPLACEMENT,
        metavar="D",
        help="largest random displacement of the atoms, which removes symmetry before anything is "
        f"checked, Å, from 0 to {LARGEST_DISPLACEMENT:g} (%(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=number("--seed", count, 0),
        default=0,
        metavar="n",
        help="of random displacements and directions (%(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the table here")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Check, print the table, and return the exit code."""
    messages = Console(stderr=True)
    check_outputs({"--json": options.json}, [options.file, options.model])
    atoms = find_structure(options.file, messages).atoms
    model = load(options, messages)
    certificate = check_potential(
        model,
        atoms,
        displacement=options.displacement,
        seed=options.seed,
        progress=messages.is_terminal,
    )
    if options.json is not None:
        write_json(
            options.json,
            {"file": options.file, "model": str(options.model), **certificate.as_dict()},
        )
    _print(certificate)
    print_written(messages, options.json)
    return 0 if certificate.passed else FAILED


def _print(certificate: Certificate) -> None:
    """The table; on a narrow terminal without its last column, and with the reasons below it."""
    console = Console()
    if not console.is_terminal:  # a file has any width
        console = Console(width=WIDTH)
    wide = console.width >= WIDTH
    console.print(certificate.table(wide=wide))
    for check in certificate:
        if check.reason and not wide:
            console.print(f"{check.name}: {check.reason}")
