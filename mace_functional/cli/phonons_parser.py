"""Options of `mace-functional phonons`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_args

from mace_functional.cli.arguments import Parser, UsageError, is_number, number, numbers
from mace_functional.cli.options import (
    add_options,
    add_symprec,
    add_temperatures,
    add_three,
    check_needs,
    check_options,
)
from mace_functional.cli.output_files import FIGURES
from mace_functional.cli.worker_options import add_workers, check_workers
from mace_functional.support.defaults import MESH_SPACING, PhononMethod
from mace_functional.support.validation import MOST_WAVE_VECTORS, between, count
from mace_functional.units import FREQUENCY_UNITS

DISPLACEMENTS = (0.1, 0.03, 0.01)
"""Default displacements for a comparison with finite differences, Å."""

SHORTEST, LONGEST = 1e-6, 1.0
"""Smallest and largest accepted displacement, Å.

Below, rounding errors dominate. Above, atoms come too close to each other.
"""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand to the command line."""
    parser: Parser = subparsers.add_parser(
        "phonons",
        help="band structure, density of states and heat capacity of a crystal",
        description="Compute phonons of a crystal at any wave vector, from exact second "
        "derivatives of a MACE\npotential in the primitive cell: band structure, density of "
        "states, heat capacity on a mesh.",
    )
    add_options(parser)
    add_workers(parser, "wave vectors")
    parser.add_argument(
        "--path",
        help="special points of the band structure, with commas at jumps, for example GXWKGL,UX "
        "(the standard path of the crystal)",
    )
    parser.add_argument(
        "--points",
        type=number("--points", count, 2, MOST_WAVE_VECTORS),
        default=150,
        metavar="n",
        help=f"number of wave vectors on the path, from 2 to {MOST_WAVE_VECTORS} (%(default)s)",
    )
    add_three(
        parser,
        "--mesh",
        "mesh of n x n x n wave vectors for density of states and heat capacity; n is 1 along "
        f"directions that are not periodic (neighbours at most {MESH_SPACING} 1/Å apart)",
    )
    add_symprec(parser)
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="OUT",
        help="npz file that keeps the modes on the mesh if the run is interrupted; the next run "
        "continues from it",
    )
    parser.add_argument(
        "--unit",
        choices=list(FREQUENCY_UNITS),
        default="cm-1",
        help="unit of frequencies (%(default)s)",
    )
    parser.add_argument(
        "--method",
        choices=get_args(PhononMethod),
        default="auto",
        help="force constants of all cells, computed once, or replicas of the cell for "
        "each wave vector; both are exact (%(default)s: the cheaper method)",
    )
    add_temperatures(parser)
    add_three(
        parser,
        "--supercell",
        "supercell of n x n x n cells for --phonopy and --compare-finite-differences (2 along "
        "periodic directions)",
    )
    parser.add_argument(
        "--compare-finite-differences",
        action="store_true",
        help="print the errors of frequencies from phonopy's displacements in the supercell; "
        "needs the extra `phonons`",
    )
    parser.add_several(
        "--displacements",
        can_be=is_number,
        type=numbers("--displacements", between, SHORTEST, LONGEST, "Å"),
        metavar="d,d,...",
        help="displacements for --compare-finite-differences, Å, "
        f"from {SHORTEST:g} to {LONGEST:g} "
        f"({' '.join(f'{d:g}' for d in DISPLACEMENTS)})",
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for all results")
    parser.add_argument(
        "--npz", type=Path, metavar="OUT", help="file for arrays, with eigenvectors"
    )
    parser.add_argument(
        "--phonopy",
        type=Path,
        metavar="OUT",
        help="phonopy_params.yaml file for phonopy; needs the extra `phonons`",
    )
    parser.add_argument(
        "--figure",
        type=Path,
        metavar="OUT",
        help=f"file for a figure of bands and density of states ({', '.join(FIGURES)})",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    """Check the options, then import the code that computes, and run it."""
    _check(options)
    from mace_functional.cli import phonons_command

    phonons_command.run(options)


def _check(options: argparse.Namespace) -> None:
    """Raise an error for contradictory options and for files that cannot be written."""
    check_options(
        options,
        {
            "--json": options.json,
            "--npz": options.npz,
            "--phonopy": options.phonopy,
            "--checkpoint": options.checkpoint,
        },
    )
    check_workers(options)
    if not options.compare_finite_differences:
        check_needs(options, "--displacements", "--compare-finite-differences")
        if options.phonopy is None and options.supercell is not None:
            raise UsageError("--supercell needs --phonopy or --compare-finite-differences")
