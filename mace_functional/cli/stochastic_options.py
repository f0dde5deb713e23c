"""Options for heat capacities of large cells without a Hessian."""

from __future__ import annotations

import argparse
from pathlib import Path

from mace_functional.cli.arguments import Parser, UsageError, number
from mace_functional.cli.ideal_gas_options import OPTIONS as IDEAL_GAS
from mace_functional.cli.options import check_needs
from mace_functional.support.defaults import ENTROPY_ERROR, REL_ERROR
from mace_functional.support.validation import count, positive

NEEDING = ("--rel-error", "--entropy-error", "--max-products", "--seed", "--checkpoint")
"""Options that need --stochastic."""

CONTRADICTING = ("--mesh", "--mesh-spacing", "--cp", "--free", "--figure", *IDEAL_GAS)
"""Options that need all modes."""


def add_stochastic(parser: Parser) -> None:
    """Add --stochastic and the options that belong to it."""
    parser.add_argument(
        "--stochastic",
        action="store_true",
        help="compute large cells without their Hessian, from products with random vectors, at "
        "Gamma; each result has a standard error",
    )
    parser.add_argument(
        "--rel-error",
        type=number("--rel-error", positive),
        metavar="r",
        help="largest relative standard error of the heat capacity at each temperature, with "
        f"--stochastic ({REL_ERROR:g})",
    )
    parser.add_argument(
        "--entropy-error",
        type=number("--entropy-error", positive),
        metavar="r",
        help=f"largest relative standard error of the entropy, with --stochastic "
        f"({ENTROPY_ERROR:g})",
    )
    parser.add_argument(
        "--max-products",
        type=number("--max-products", count),
        metavar="n",
        help="largest number of Hessian-vector products, with --stochastic (6 for each atom)",
    )
    parser.add_argument(
        "--seed",
        type=number("--seed", count, 0),
        metavar="n",
        help="seed of the random vectors, with --stochastic (0)",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="file (npz) to which finished passes of --stochastic are written, and from which an "
        "interrupted calculation continues",
    )


def check_stochastic(options: argparse.Namespace) -> None:
    """Raise an error if options of --stochastic are given without it, or contradict it.

    Raises:
        UsageError: If they do.
    """
    if not options.stochastic:
        for name in NEEDING:
            check_needs(options, name, "--stochastic")
        return
    for name in CONTRADICTING:
        if getattr(options, name[2:].replace("-", "_")) not in (None, False):
            raise UsageError(f"{name} needs all modes: leave out --stochastic or {name}")
