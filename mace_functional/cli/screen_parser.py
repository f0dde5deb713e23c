"""Options of `mace-functional screen`."""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path
from typing import Any

from mace_functional.cli.arguments import Parser, UsageError, number, words_of
from mace_functional.cli.mesh_options import AUTO, add_mesh, mesh_choice
from mace_functional.cli.options import (
    add_limits,
    add_model,
    add_relax,
    add_temperatures,
    check_needs,
    device,
    list_structures,
    set_limits,
)
from mace_functional.cli.stochastic_options import add_sampling, check_sampling
from mace_functional.cli.worker_options import DEVICES, MAX_WORKERS
from mace_functional.screening.references import has_temperature
from mace_functional.screening.screen_settings import COLDEST
from mace_functional.support.defaults import LOCAL
from mace_functional.support.validation import between, count

FAILED = 3
"""Exit code if at least one structure failed.

Tables and report are written all the same. After exit code 2, invalid input, nothing is computed.
"""

ABOVE = "--stochastic-above"
"""Option for the size above which structures are computed without their Hessian."""

MIN_MEMORY, MAX_MEMORY = 1e-3, 1e5
"""Smallest and largest accepted memory of a worker, GiB.

A column of the Hessian of two atoms takes some MiB.
"""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand to the command line."""
    parser: Parser = subparsers.add_parser(
        "screen",
        help="heat capacities of many structures, by several workers",
        description="Compute relaxations, frequencies and harmonic thermodynamics of many "
        "structures, with a\ntable and a report. The same command continues an interrupted "
        "screening and does not repeat\nfinished structures. A failed structure is recorded with "
        "the reason, and the others continue.\n\n"
        f"Exit code: 0 if every structure has a result, {FAILED} if some or all failed (see the "
        "table),\n2 if the input is invalid and nothing was computed, 130 if interrupted.",
    )
    list_structures(parser)
    parser.add_argument(
        "structures",
        nargs="+",
        metavar="STRUCTURES",
        help="files, folders with files, or names of examples below",
    )
    add_model(parser)
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="OUT",
        help="folder for all results, including relaxed structures",
    )
    _add_computation(parser)
    _add_resources(parser)
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="FILE",
        help="CSV table of reference heat capacities in J/(g K); its column `name`, or the first "
        "one, has the names of the structures, which are file names without the suffix",
    )
    parser.add_several(
        "--compare",
        can_be=_is_column,
        type=lambda words: words.split(","),
        metavar="COLUMN@T,COLUMN@T,...",
        help="columns of the reference and their temperatures in K, such as cv@300; the "
        "temperature can be left out if the name ends with it, as in cv_300K",
    )
    parser.add_argument("--no-report", action="store_true", help="do not write report.html")
    parser.set_defaults(run=_run)


def _add_computation(parser: Parser) -> None:
    """Add the options for the computation of each structure."""
    add_relax(parser, True)
    parser.add_argument(
        "--fixed-cell", action="store_true", help="keep the cells in the relaxations"
    )
    add_limits(parser)
    add_mesh(parser, "crystals")
    parser.add_argument(
        ABOVE,
        type=number(ABOVE, count, 0),
        metavar="n",
        help="compute structures of more than n atoms without their Hessian, from products with "
        "random vectors, with standard errors; at Gamma, also with a mesh for the others, and "
        "without --cp and --eigenvectors, which need all modes",
    )
    add_sampling(parser, ABOVE)
    parser.add_argument(
        "--eigenvectors",
        action="store_true",
        help="also write the eigenvectors of each structure, as eigenvectors.npz",
    )
    parser.add_argument(
        "--cp",
        action="store_true",
        help="add the heat capacities of crystals at constant pressure, to first order in their "
        "thermal expansion; takes third derivatives of the energy along all modes, much longer "
        "than the modes",
    )
    add_temperatures(
        parser,
        "; finished structures are not computed again for other temperatures, except for those "
        f"below {COLDEST:g} K with --mesh {AUTO}, and those of {ABOVE}, whose relaxed structures "
        "are kept",
    )


def _add_resources(parser: Parser) -> None:
    """Add the options for devices, workers and memory, and --retry."""
    parser.add_several(
        "--devices",
        can_be=DEVICES,
        type=words_of(device("--devices")),
        default=["cpu"],
        metavar="DEVICE,DEVICE,...",
        help="cpu, or one GPU for each worker: cuda:0 cuda:1 ... (cpu)",
    )
    parser.add_several(
        "--device",
        can_be=DEVICES,
        type=_devices_by_their_old_name,
        dest="devices",
        default=argparse.SUPPRESS,
        help=argparse.SUPPRESS,
    )
    parser.add_argument(
        "--workers",
        type=number("--workers", count, 1, MAX_WORKERS),
        metavar="n",
        help=f"structures at once on the CPU, from 1 to {MAX_WORKERS} (the number of cores)",
    )
    parser.add_argument(
        "--memory",
        type=number("--memory", between, MIN_MEMORY, MAX_MEMORY, "GiB"),
        metavar="GiB",
        help="memory of each worker for second derivatives, GiB, from "
        f"{MIN_MEMORY:g} to {MAX_MEMORY:g} (its share of half of the free memory)",
    )
    parser.add_argument(
        "--dask",
        metavar="ADDRESS",
        help="use the workers of this Dask scheduler, which must have access to the same files, or "
        f"{LOCAL} for --workers Dask workers on this machine; needs the extra `dask`",
    )
    parser.add_argument(
        "--retry", action="store_true", help="compute failed structures again, and Cp that failed"
    )


def _devices_by_their_old_name(words: str) -> list[str]:
    """Read the value of --device, the old name of --devices."""
    warnings.warn(
        "--device is now --devices; the old name will be removed in the next release",
        FutureWarning,
        stacklevel=2,
    )
    return words_of(device("--device"))(words)


def _run(options: argparse.Namespace) -> int:
    """Check the options, then import the code that computes, and run it."""
    _check(options)
    mesh_choice(options)
    from mace_functional.cli import screen_command

    return screen_command.run(options)


def _check(options: argparse.Namespace) -> None:
    """Raise an error for options that contradict each other.

    Raises:
        UsageError: If options contradict each other.
    """
    if not options.relax:
        for name in "--fixed-cell", "--fmax", "--max-steps":
            check_needs(options, name, "a relaxation: leave out --no-relax")
    set_limits(options)
    if options.stochastic_above is None:
        check_sampling(options, ABOVE)
    if options.output.exists() and not options.output.is_dir():
        raise UsageError(f"--output {options.output} is a file: name a folder")


def _is_column(word: str) -> bool:
    """Return True if a word after --compare is a column with a temperature and not a file."""
    return not os.path.exists(word) and ("@" in word or has_temperature(word))
