"""Options for heat capacities of large cells without a Hessian."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mace_functional.cli.arguments import Parser, UsageError, number
from mace_functional.cli.ideal_gas_options import OPTIONS as IDEAL_GAS
from mace_functional.cli.options import check_needs, is_given
from mace_functional.support.defaults import ENTROPY_ERROR, REL_ERROR
from mace_functional.support.validation import count, positive

SAMPLING = ("--rel-error", "--entropy-error", "--max-products", "--seed")
"""Options of the sampling by random vectors."""

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
    add_sampling(parser, "--stochastic")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="file (npz) to which finished passes of --stochastic are written, and from which an "
        "interrupted calculation continues",
    )


def add_sampling(parser: Parser, switch: str) -> None:
    """Add the options of the sampling by random vectors.

    Args:
        parser: Parser of the subcommand.
        switch: Option that they need.
    """
    parser.add_argument(
        "--rel-error",
        type=number("--rel-error", positive),
        metavar="r",
        help="largest relative standard error of the heat capacity at each temperature, with "
        f"{switch} ({REL_ERROR:g})",
    )
    parser.add_argument(
        "--entropy-error",
        type=number("--entropy-error", positive),
        metavar="r",
        help=f"largest relative standard error of the entropy, with {switch} ({ENTROPY_ERROR:g})",
    )
    parser.add_argument(
        "--max-products",
        type=number("--max-products", count),
        metavar="n",
        help=f"largest number of Hessian-vector products, with {switch} (6 for each atom)",
    )
    parser.add_argument(
        "--seed",
        type=number("--seed", count, 0),
        metavar="n",
        help=f"seed of the random vectors, with {switch} (0)",
    )


def sampling_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of the sampling by the names of `stochastic_thermo`."""
    return {
        "rel_error": REL_ERROR if options.rel_error is None else options.rel_error,
        "entropy_error": ENTROPY_ERROR if options.entropy_error is None else options.entropy_error,
        "max_products": options.max_products,
        "seed": options.seed or 0,
    }


def check_sampling(options: argparse.Namespace, switch: str) -> None:
    """Raise an error for options of the sampling, which are given without the one they need.

    Raises:
        UsageError: If one is given.
    """
    for name in SAMPLING:
        check_needs(options, name, switch)


def check_stochastic(options: argparse.Namespace) -> None:
    """Raise an error if options of --stochastic are given without it, or contradict it.

    Raises:
        UsageError: If they do.
    """
    if not options.stochastic:
        check_sampling(options, "--stochastic")
        check_needs(options, "--checkpoint", "--stochastic")
        return
    for name in CONTRADICTING:
        if is_given(options, name):
            raise UsageError(f"{name} needs all modes: leave out --stochastic or {name}")
