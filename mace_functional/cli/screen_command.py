"""`mace-functional screen`: heat capacities of many structures."""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from mace_functional.cli.arguments import Parser, UsageError, is_any_of, number, words_of
from mace_functional.cli.console import BOLD, Console
from mace_functional.cli.found_structures import print_finding
from mace_functional.cli.mesh_options import AUTO, add_mesh, mesh_choice, mesh_tolerance
from mace_functional.cli.options import (
    add_limits,
    add_model,
    add_temperatures,
    check_needs,
    device,
    list_structures,
    set_limits,
    symprec_of,
)
from mace_functional.cli.printed_results import print_written
from mace_functional.screening.dask_workers import LOCAL, dask_executor
from mace_functional.screening.missing import missing_at_gamma
from mace_functional.screening.references import has_temperature, read_references
from mace_functional.screening.report import REPORT
from mace_functional.screening.rows import Reference, Row
from mace_functional.screening.run import TEMPERATURES, Screening, screen
from mace_functional.screening.screen_settings import COLDEST, ScreenSettings
from mace_functional.screening.table import CSV, JSON, ROOM, heat_capacity, relative_error
from mace_functional.support.validation import between, count

FAILED = 3
"""Exit code where one structure at least has no result. Tables and report are there all the same;
2 says that the command itself was wrong, and nothing was computed."""

GIB = 2**30

MOST_WORKERS = 1024
LEAST_MEMORY, MOST_MEMORY = 1e-3, 1e5
"""GiB; a column of the Hessian of two atoms takes some MiB."""

WIDE = 1000
"""Columns of a file or pipe, where a table needs no folding."""


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
        "--output", type=Path, required=True, metavar="OUT", help="folder for all results"
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
    parser.set_defaults(run=run)


def _add_what(parser: Parser) -> None:
    """Add what to compute."""
    parser.add_argument("--no-relax", action="store_true", help="take the structures as they are")
    parser.add_argument("--fixed-cell", action="store_true", help="keep the cells when relaxing")
    add_limits(parser)
    add_mesh(parser, "crystals")
    add_temperatures(
        parser,
        TEMPERATURES,
        "; to change them computes nothing anew, but for ones below "
        f"{COLDEST:g} K with --mesh {AUTO}",
    )


def _add_where(parser: Parser) -> None:
    """Add where to compute, and what again."""
    parser.add_several(
        "--device",
        can_be=is_any_of(r"(cpu|cuda)(:\d+)?"),
        type=words_of(device("--device")),
        default=["cpu"],
        metavar="DEVICE,DEVICE,...",
        help="cpu, or a GPU for each worker: cuda:0 cuda:1 ... (cpu)",
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
        f"or {LOCAL}, for --workers Dask workers on this machine",
    )
    parser.add_argument(
        "--retry", action="store_true", help="compute structures again that failed before"
    )


def run(options: argparse.Namespace) -> int:
    """Compute and report.

    Returns:
        0, or `FAILED`.
    """
    console = Console(stderr=True)
    _check(options)
    references = _references(options)
    with _executor(options) as executor:
        screening = screen(
            options.structures,
            options.output,
            _settings(options),
            temperatures=options.temperatures,
            references=references,
            executor=executor,
            workers=None if options.dask == LOCAL else options.workers,
            devices=options.device,
            memory=None if options.memory is None else int(options.memory * GIB),
            retry=options.retry,
        )
    rows = screening.rows()
    _print(rows, options.temperatures, references)
    written = [CSV, JSON]
    if not options.no_report:
        with console.status("report"):
            screening.report()
        written.append(REPORT)
    _print_end(console, screening)
    print_written(console, *(options.output / name for name in written))
    return FAILED if screening.failed else 0


def _check(options: argparse.Namespace) -> None:
    """Refuse options that contradict each other.

    Raises:
        UsageError: If there are such.
    """
    if options.no_relax:
        for name in "--fixed-cell", "--fmax", "--max-steps":
            check_needs(options, name, "a relaxation: leave out --no-relax")
    set_limits(options)
    if options.output.exists() and not options.output.is_dir():
        raise UsageError(f"--output {options.output} is a file: name a folder")


def _is_column(word: str) -> bool:
    """Whether a word behind --compare is a column of a table, with a temperature, and no file."""
    return not os.path.exists(word) and ("@" in word or has_temperature(word))


def _settings(options: argparse.Namespace) -> ScreenSettings:
    return ScreenSettings(
        model=options.model,
        head=options.head,
        dtype=options.dtype,
        dispersion=options.dispersion,
        relax=not options.no_relax,
        cell=not options.fixed_cell,
        fmax=options.fmax,
        max_steps=options.max_steps,
        mesh=mesh_choice(options),
        mesh_tolerance=mesh_tolerance(options),
        mesh_temperature=min([COLDEST, *(t for t in options.temperatures if t > 0)]),
        symprec=symprec_of(options),
    )


def _references(options: argparse.Namespace) -> list[Reference]:
    """The columns to compare with.

    Raises:
        ValueError: If there is a file without columns, or the other way round; or as
            `read_references`.
    """
    if (options.reference is None) != (options.compare is None):
        raise ValueError("--reference FILE and --compare COLUMN need each other")
    return [] if options.reference is None else read_references(options.reference, options.compare)


def _executor(options: argparse.Namespace) -> AbstractContextManager[Executor | None]:
    """Workers of Dask, if they are asked for."""
    if options.dask is None:
        return nullcontext()
    return dask_executor(options.dask, options.workers)


def _print(rows: list[Row], temperatures: list[float], references: list[Reference]) -> None:
    """The table, on standard output."""
    temperature = min(temperatures, key=lambda t: abs(t - ROOM))
    shown = Table(box=SIMPLE_HEAD, padding=(0, 1))
    shown.add_column("structure", overflow="fold")
    headings = ["atoms", f"Cv {temperature:g} K\nJ/(g K)", "wave\nvectors", "Γ lacks\n%"]
    for reference in references:
        headings += [f"{reference.label}\n{reference.temperature:g} K", "error\n%"]
    for heading in [*headings, "imaginary", "force\neV/Å", "s"]:
        shown.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        if row.spectrum is not None:
            shown.add_row(*_cells(row, temperature, references))
    console = Console(width=None if sys.stdout.isatty() else WIDE)
    if shown.row_count:
        console.print(shown)
    for record in (row.record for row in rows):
        if record.failure is not None:
            console.print(
                Text.assemble((f"{record.name} failed:", BOLD), f" {record.failure}"),
                highlight=False,
                soft_wrap=True,
            )


def _cells(row: Row, temperature: float, references: list[Reference]) -> list[str]:
    """A line of the table."""
    record = row.record
    cells = [
        record.name,
        str(record.atoms),
        _number(heat_capacity(row, temperature), ".4f"),
        *_waves(row, temperature),
    ]
    for reference in references:
        error = relative_error(row, reference)
        cells += [
            _number(reference.values.get(record.name), ".4f"),
            _number(None if error is None else 100 * error, "+.1f"),
        ]
    force = _number(record.largest_force, ".1e")
    seconds = (record.seconds_relaxation or 0) + (record.seconds_modes or 0)
    relaxed = "" if record.converged is not False else " not relaxed"
    return [*cells, str(record.imaginary_modes), force + relaxed, f"{seconds:.1f}"]


def _waves(row: Row, temperature: float) -> tuple[str, str]:
    """The mesh, or Gamma; and which part of the heat capacity Gamma alone lacks."""
    if row.record.mesh is not None:
        return "x".join(map(str, row.record.mesh)), ""
    missing = missing_at_gamma(row, temperature)
    if missing is None:
        return "", ""
    most = "" if missing.estimate is not None else "<"
    return "Γ", f"{most}{100 * missing.share:.1f}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _print_end(console: Console, screening: Screening) -> None:
    """How many are done, and what to do about the others."""
    for record in screening.records:
        for finding in record.findings:
            print_finding(console, record.name, finding)
    failed = len(screening.failed)
    total = len(screening.records)
    console.print(f"structures: {total - failed} of {total} done, {failed} failed")
    if failed:
        console.print("failed ones are not computed again unless you add --retry")
