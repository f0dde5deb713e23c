"""The options of `mace-functional screen`."""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path
from typing import Any

from mace_functional.cli.arguments import Parser, UsageError, is_any_of, number, words_of
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
from mace_functional.screening.references import has_temperature
from mace_functional.screening.screen_settings import COLDEST, LOCAL
from mace_functional.support.validation import between, count

FAILED = 3
"""Exit code where one structure at least has no result. Tables and report are there all the same;
2 says that the command itself was wrong, and nothing was computed."""

MOST_WORKERS = 1024
LEAST_MEMORY, MOST_MEMORY = 1e-3, 1e5
"""GiB; a column of the Hessian of two atoms takes some MiB."""


def add_parser(verbs: Any) -> None:
    """Add the verb to the command line."""
    parser: Parser = verbs.add_parser(
        "screen",
        help="heat capacities of many structures, by several workers",
        description="Relaxation, frequencies and harmonic thermodynamics of many structures, with "
        "a table and a\nreport. The same command goes on from where it was interrupted; what is "
        "done is not done\nagain. A structure that fails is recorded with the reason and stops "
        "nothing.\n\n"
        f"Exit code: 0 if every structure has a result, {FAILED} if some or all failed (the table "
        "says which),\n2 if the command is wrong and nothing was computed, 130 if interrupted.",
    )
    list_structures(parser)
    parser.add_argument(
        "structures",
        nargs="+",
        metavar="STRUCTURES",
        help="files, folders with files, or names of those below",
    )
    add_model(parser)
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="OUT",
        help="what is made: the folder for all results, relaxed structures included",
    )
    _add_what(parser)
    _add_where(parser)
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="FILE",
        help="CSV table of heat capacities in J/(g K) to compare with; its column `name`, or the "
        "first one, has the names of structures: those of their files, without the suffix",
    )
    parser.add_several(
        "--compare",
        can_be=_is_column,
        type=lambda words: words.split(","),
        metavar="COLUMN@T,COLUMN@T,...",
        help="columns of the reference, with the temperature in K where the name does not end in "
        "it, as in cv@300 or cv_300K",
    )
    parser.add_argument("--no-report", action="store_true", help="write no report.html")
    parser.set_defaults(run=_run)


def _add_what(parser: Parser) -> None:
    """Add what to compute."""
    add_relax(parser, True)
    parser.add_argument("--fixed-cell", action="store_true", help="keep the cells when relaxing")
    add_limits(parser)
    add_mesh(parser, "crystals")
    parser.add_argument(
        "--eigenvectors",
        action="store_true",
        help="write the eigenvectors of each structure too, as eigenvectors.npz",
    )
    add_temperatures(
        parser,
        "; to change them computes nothing anew, but for ones below "
        f"{COLDEST:g} K with --mesh {AUTO}",
    )


def _add_where(parser: Parser) -> None:
    """Add where to compute, and what again."""
    names = is_any_of(r"(cpu|cuda)(:\d+)?")
    parser.add_several(
        "--devices",
        can_be=names,
        type=words_of(device("--devices")),
        default=["cpu"],
        metavar="DEVICE,DEVICE,...",
        help="cpu, or a GPU for each worker: cuda:0 cuda:1 ... (cpu)",
    )
    parser.add_several(
        "--device",
        can_be=names,
        type=_devices_by_their_old_name,
        dest="devices",
        default=argparse.SUPPRESS,
        help=argparse.SUPPRESS,
    )
    parser.add_argument(
        "--workers",
        type=number("--workers", count, 1, MOST_WORKERS),
        metavar="n",
        help=f"structures at once on CPU, from 1 to {MOST_WORKERS} (as many as there are cores)",
    )
    parser.add_argument(
        "--memory",
        type=number("--memory", between, LEAST_MEMORY, MOST_MEMORY, "GiB"),
        metavar="GiB",
        help="for the second derivatives of each worker, GiB, from "
        f"{LEAST_MEMORY:g} to {MOST_MEMORY:g} (its share of half of what is free)",
    )
    parser.add_argument(
        "--dask",
        metavar="ADDRESS",
        help="have it done by the workers of this Dask scheduler, which must see the same files; "
        f"or {LOCAL}, for --workers Dask workers on this machine; needs the extra `dask`",
    )
    parser.add_argument(
        "--retry", action="store_true", help="compute structures again that failed before"
    )


def _devices_by_their_old_name(words: str) -> list[str]:
    """Devices of --device, which is now --devices."""
    warnings.warn(
        "--device is now --devices; the old spelling will go with the next release",
        FutureWarning,
        stacklevel=2,
    )
    return words_of(device("--device"))(words)


def _run(options: argparse.Namespace) -> int:
    """Check the options, and only then import what computes."""
    _check(options)
    mesh_choice(options)
    from mace_functional.cli import screen_command

    return screen_command.run(options)


def _check(options: argparse.Namespace) -> None:
    """Refuse options that contradict each other.

    Raises:
        UsageError: If there are such.
    """
    if not options.relax:
        for name in "--fixed-cell", "--fmax", "--max-steps":
            check_needs(options, name, "a relaxation: leave out --no-relax")
    set_limits(options)
    if options.output.exists() and not options.output.is_dir():
        raise UsageError(f"--output {options.output} is a file: name a folder")


def _is_column(word: str) -> bool:
    """Whether a word behind --compare is a column of a table, with a temperature, and no file."""
    return not os.path.exists(word) and ("@" in word or has_temperature(word))
