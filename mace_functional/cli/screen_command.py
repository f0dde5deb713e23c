"""`mace-functional screen`: heat capacities of many structures."""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from mace_functional.cli.console import BOLD, Console
from mace_functional.cli.found_structures import print_finding
from mace_functional.cli.mesh_options import mesh_choice, mesh_tolerance
from mace_functional.cli.options import symprec_of
from mace_functional.cli.printed_results import print_written
from mace_functional.cli.screen_parser import FAILED
from mace_functional.cli.stochastic_options import sampling_of
from mace_functional.parallel.dask_workers import dask_executor
from mace_functional.screening.constant_pressure import strain_words
from mace_functional.screening.missing import missing_at_gamma
from mace_functional.screening.references import Reference, read_references
from mace_functional.screening.rows import Row
from mace_functional.screening.run import Screening, screen
from mace_functional.screening.sampled_thermo import (
    imaginary_words,
    inaccurate_words,
    method_words,
)
from mace_functional.screening.screen_settings import COLDEST, ScreenSettings
from mace_functional.screening.table import (
    CSV,
    JSON,
    ROOM,
    heat_capacity_at_constant_pressure,
    heat_capacity_words,
    relative_error,
)
from mace_functional.screening.wording import counted
from mace_functional.support.defaults import LOCAL

GIB = 2**30
"""Bytes in a GiB."""

WIDE = 1000
"""Width of a table in a file or pipe, in characters; no line is folded there."""


def run(options: argparse.Namespace) -> int:
    """Screen the structures, write the tables and the report, and print the results.

    Returns:
        The exit code: 0, or `FAILED` if a structure failed.
    """
    console = Console(stderr=True)
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
            devices=options.devices,
            memory_budget=None if options.memory is None else int(options.memory * GIB),
            retry=options.retry,
            progress=True,
        )
    _print(screening, options.temperatures, references)
    written = [CSV, JSON]
    if not options.no_report:
        with console.status("report"):
            written.append(screening.report().name)
    _print_end(console, screening)
    print_written(console, *(options.output / name for name in written))
    return FAILED if screening.failed else 0


def _settings(options: argparse.Namespace) -> ScreenSettings:
    """Return the settings of the screening."""
    return ScreenSettings(
        model=options.model,
        head=options.head,
        dtype=options.dtype,
        dispersion=options.dispersion,
        relax=options.relax,
        relax_cell=not options.fixed_cell,
        fmax=options.fmax,
        max_steps=options.max_steps,
        mesh=mesh_choice(options),
        mesh_tolerance=mesh_tolerance(options),
        mesh_temperature=min([COLDEST, *(t for t in options.temperatures if t > 0)]),
        symprec=symprec_of(options),
        eigenvectors=options.eigenvectors,
        cp=options.cp,
        stochastic_above=options.stochastic_above,
        **sampling_of(options),
    )


def _references(options: argparse.Namespace) -> list[Reference]:
    """Read the columns of reference values.

    Raises:
        ValueError: If the file is given without columns, or columns without the file; see also
            `read_references`.
    """
    if (options.reference is None) != (options.compare is None):
        raise ValueError("--reference FILE and --compare COLUMN need each other")
    return [] if options.reference is None else read_references(options.reference, options.compare)


def _executor(options: argparse.Namespace) -> AbstractContextManager[Executor | None]:
    """Return an executor of Dask workers with --dask, else None."""
    if options.dask is None:
        return nullcontext()
    return dask_executor(options.dask, workers=options.workers)


def _print(screening: Screening, temperatures: list[float], references: list[Reference]) -> None:
    """Print the table, the failures and what is wrong with values of Cp to standard output."""
    rows, settings = screening.rows(), screening.settings
    temperature = min(temperatures, key=lambda t: abs(t - ROOM))
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column("structure", overflow="fold")
    headings = ["atoms", f"Cv {temperature:g} K\nJ/(g K)"]
    if settings.cp:
        headings.append("Cp\nJ/(g K)")
    if settings.stochastic_above is not None:
        headings.append("from")
    headings += ["wave\nvectors", "Γ lacks\n%"]
    for reference in references:
        headings += [f"{reference.label}\n{reference.temperature:g} K", "error\n%"]
    for heading in [*headings, "imaginary", "force\neV/Å", "s"]:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        if row.has_result:
            table.add_row(*_cells(row, temperature, settings, references))
    console = Console(width=None if sys.stdout.isatty() else WIDE)
    if table.row_count:
        console.print(table)
    n_sampled = sum(row.sampled is not None for row in rows)
    if n_sampled and settings.mesh is not None:
        words = f"more than {settings.stochastic_above} atoms, so Γ of the given cell and no mesh"
        _print_of(console, f"{counted(n_sampled, 'structure')}:", words)
    for row in rows:
        record, strain = row.record, strain_words(row.record)
        wide = None if row.sampled is None else inaccurate_words(row.sampled)
        if wide is not None:
            _print_of(console, f"{record.name} is less accurate than asked for:", wide)
        if record.failure is not None:
            _print_of(console, f"{record.name} failed:", record.failure)
        elif record.no_cp is not None:
            _print_of(console, f"{record.name} has no Cp:", record.no_cp)
        elif strain is not None:
            _print_of(console, f"{record.name}: Cp is that of another cell:", strain)


def _print_of(console: Console, subject: str, words: str) -> None:
    """Print a line about a structure, unfolded."""
    line = Text.assemble((subject, BOLD), f" {words}")
    console.print(line, highlight=False, soft_wrap=True)


def _cells(
    row: Row, temperature: float, settings: ScreenSettings, references: list[Reference]
) -> list[str]:
    """Return the cells of a row of the table."""
    record = row.record
    cells = [
        record.name,
        str(record.n_atoms),
        heat_capacity_words(row, temperature),
    ]
    if settings.cp:
        cells.append(_number(heat_capacity_at_constant_pressure(row, temperature), ".4f"))
    if settings.stochastic_above is not None:
        cells.append(method_words(record))
    cells += _sampling_cells(row, temperature)
    for reference in references:
        error = relative_error(row, reference)
        cells += [
            _number(reference.values.get(record.name), ".4f"),
            _number(None if error is None else 100 * error, "+.1f"),
        ]
    force = _number(record.largest_force, ".1e")
    seconds = sum(
        s or 0.0 for s in (record.seconds_relaxation, record.seconds_modes, record.seconds_cp)
    )
    relaxed = "" if record.converged is not False else " not relaxed"
    return [*cells, imaginary_words(record), force + relaxed, f"{seconds:.1f}"]


def _sampling_cells(row: Row, temperature: float) -> tuple[str, str]:
    """Return the mesh or Γ, and the share of the heat capacity missing at Gamma, %."""
    if row.record.mesh is not None:
        return "x".join(map(str, row.record.mesh)), ""
    missing = missing_at_gamma(row, temperature)
    if missing is None:
        return "", ""
    most = "" if missing.estimate is not None else "<"
    return "Γ", f"{most}{100 * missing.share:.1f}"


def _number(value: float | None, form: str) -> str:
    """Format a number; return an empty string for None."""
    return "" if value is None else format(value, form)


def _print_end(console: Console, screening: Screening) -> None:
    """Print the findings, the numbers of structures done and failed, and advice."""
    for record in screening.records:
        for finding in record.findings:
            print_finding(console, record.name, finding)
    failed = len(screening.failed)
    total = len(screening.records)
    console.print(f"structures: {total - failed} of {total} done, {failed} failed")
    if failed:
        console.print("failed structures are computed again only with --retry")
