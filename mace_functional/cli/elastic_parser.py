"""Options of `mace-functional elastic`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_args

from mace_functional.cli.arguments import Parser, checked, is_number
from mace_functional.cli.options import add_options, add_pressure, check_options
from mace_functional.cli.output_files import FIGURES
from mace_functional.cli.worker_options import add_workers, check_workers
from mace_functional.support.defaults import FMAX, ElasticSolver
from mace_functional.support.validation import finite


def add_parser(subparsers: Any) -> None:
    """Add the subcommand to the command line."""
    parser: Parser = subparsers.add_parser(
        "elastic",
        help="elastic constants, moduli and speeds of sound of a crystal or a slab",
        description="Compute elastic constants from exact second derivatives, with ions that "
        "follow a strain and with\nclamped ions: moduli of polycrystals, Young's moduli and "
        "speeds of sound along directions,\nanisotropy, stability, Debye temperature. The "
        "structure is relaxed first.",
    )
    add_options(parser, relax=True, fmax=FMAX)
    add_pressure(parser)
    add_workers(parser, "columns of the Hessian")
    parser.add_argument(
        "--solver",
        choices=get_args(ElasticSolver),
        default="auto",
        help="response of the ions by a dense Hessian, or by conjugate gradients without a matrix "
        "(%(default)s: dense up to 200 atoms)",
    )
    parser.add_several(
        "--directions",
        can_be=is_number,
        type=checked("--directions", _directions),
        metavar="x,y,z,...",
        help="Cartesian directions for Young's moduli and speeds of sound, three numbers each "
        "(the axes)",
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for all results")
    parser.add_argument(
        "--figure",
        type=Path,
        metavar="OUT",
        help=f"file for a figure of Young's modulus over directions ({', '.join(FIGURES)})",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    """Check the options, then import the code that computes, and run it."""
    check_options(options, {"--json": options.json})
    check_workers(options)
    from mace_functional.cli import elastic_command

    elastic_command.run(options)


def _directions(words: str) -> list[list[float]]:
    """Convert the value of --directions to vectors.

    Raises:
        ValueError: If it is not three numbers for each direction, or a direction is zero.
    """
    values = [finite("a direction", _number(word)) for word in words.split(",")]
    vectors = [values[k : k + 3] for k in range(0, len(values), 3)]
    if len(values) % 3 or not all(any(vector) for vector in vectors):
        raise ValueError(f"directions are three numbers each, not all zero, not {words!r}")
    return vectors


def _number(word: str) -> float | str:
    """Return a word as a number; the word itself if it is none."""
    try:
        return float(word)
    except ValueError:
        return word
