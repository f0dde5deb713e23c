"""`mace-functional check`: checks of the derivatives, symmetries and phonons of a model."""

from __future__ import annotations

import argparse

from mace_functional.certificate.certificate import WIDTH, Certificate
from mace_functional.certificate.checking import check_potential
from mace_functional.cli.console import Console
from mace_functional.cli.found_structures import find_structure
from mace_functional.cli.loaded_models import load
from mace_functional.cli.output_files import write_json
from mace_functional.cli.printed_results import print_written

FAILED = 1
"""Exit code if a check fails."""


def run(options: argparse.Namespace) -> int:
    """Run all checks, print the table, and return the exit code."""
    messages = Console(stderr=True)
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
    """Print the table; on a narrow terminal, reasons are below it and not in its last column."""
    console = Console()
    if not console.is_terminal:  # a file has no limit of width
        console = Console(width=WIDTH)
    wide = console.width >= WIDTH
    console.print(certificate.table(wide=wide))
    for check in certificate:
        if check.reason and not wide:
            console.print(f"{check.name}: {check.reason}")
