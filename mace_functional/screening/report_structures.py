"""The table of all structures in a report, with links to their files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np

from mace_functional.screening.constant_pressure import GRUNEISEN
from mace_functional.screening.drawing import Drawn
from mace_functional.screening.findings import (
    failure,
    gamma_alone,
    imaginary,
    large_forces,
    no_cp,
    not_converged,
    off_the_minimum,
    soft,
)
from mace_functional.screening.missing import branches_of, missing_at_gamma
from mace_functional.screening.page import Cell, Heading, TableRow
from mace_functional.screening.record import RECORD, SPECTRUM, STRUCTURE, Record
from mace_functional.screening.references import Reference
from mace_functional.screening.report_figures import SPECTRA, spectra_groups
from mace_functional.screening.rows import Row
from mace_functional.screening.sampled_thermo import imaginary_words, method_words
from mace_functional.screening.saved_eigenvectors import EIGENVECTORS
from mace_functional.screening.screen_settings import ScreenSettings
from mace_functional.screening.table import (
    formula_words,
    heat_capacity,
    heat_capacity_at_constant_pressure,
    heat_capacity_words,
    relative_error,
)
from mace_functional.screening.wording import MISSING, duration, formatted, mesh_words
from mace_functional.units import K_B

FILES = {
    "structure": STRUCTURE,
    "frequencies": SPECTRUM,
    "eigenvectors": EIGENVECTORS,
    "Grüneisen parameters": GRUNEISEN,
    "record": RECORD,
}
"""Files of a structure that the page links to, by what they hold."""


def headings(
    settings: ScreenSettings, temperature: float, references: Sequence[Reference]
) -> list[Heading]:
    """Headings of the table of all structures."""
    at = f"{temperature:g}\N{NO-BREAK SPACE}K"
    compared = [
        heading
        for r in references
        for heading in (Heading(r.label, f"{r.temperature:g} K, J/(g K)"), Heading("error", "%"))
    ]
    return [
        Heading("structure"),
        Heading("formula"),
        Heading("atoms"),
        Heading("wave vectors"),
        *([Heading("method")] if settings.stochastic_above is not None else []),
        Heading(f"C_V({at})", "J/(g K)"),
        *([Heading(f"C_P({at})", "J/(g K)")] if settings.cp else []),
        Heading("missing at Γ", "J/(g K)"),
        Heading("C_V", "k_B/atom"),
        Heading(f"S({at})", "J/(mol K)"),
        Heading("zero-point energy", "eV"),
        *compared,
        Heading("imaginary modes"),
        Heading("lowest", "cm-1"),
        Heading("force", "eV/Å"),
        Heading("steps"),
        Heading("time"),
        Heading("files"),
    ]


def structure_rows(
    folder: Path,
    rows: Sequence[Row],
    settings: ScreenSettings,
    temperature: float,
    references: Sequence[Reference],
    figures: Mapping[str, Drawn],
) -> list[TableRow]:
    """Rows of the table of all structures.

    Args:
        folder: Folder of the screening.
        rows: The structures, failed ones too.
        settings: Settings of the screening.
        temperature: Temperature of the heat capacities, K.
        references: Heat capacities to compare with.
        figures: Figures of the report, by their names.
    """
    span = len(headings(settings, temperature, references)) - 2
    places = _places_of_spectra(rows, figures[SPECTRA])
    table = []
    for number, row in enumerate(rows):
        name = row.record.name
        files = Cell("", kind="text files", links=_links(folder, row, places.get(number)))
        if not row.has_result:
            reason = without_folder(failure(row, settings) or "", row.record)
            cells = [Cell(f"failed: {reason}", kind="text bad", span=span)]
        else:
            try:
                cells = _results(row, settings, temperature, references)
            except Exception as error:  # one row that cannot be shown takes no other away
                reason = f"cannot be shown: {type(error).__name__}: {error}"
                cells = [Cell(reason, kind="text bad", span=span)]
        table.append(TableRow(name, [*cells, files], anchor_of(number)))
    return table


def anchor_of(number: int) -> str:
    """Name to link to the row of a structure."""
    return f"s{number}"


def _places_of_spectra(rows: Sequence[Row], figure: Drawn) -> dict[int, int]:
    """Number of the image that shows the spectrum of a row, from 1, by the number of the row."""
    shown = [
        (number, row)
        for number, row in enumerate(rows)
        if row.spectrum is not None and row.record.name not in figure.left_out
    ]
    if not figure.images:
        return {}
    groups = spectra_groups([row for _, row in shown])
    return {shown[i][0]: image for image, group in enumerate(groups, 1) for i in group}


def _links(folder: Path, row: Row, spectrum: int | None) -> list[tuple[str, str]]:
    """Words and addresses of the files of a structure, relative to the page."""
    if row.folder is None:
        return []
    links = [("spectrum", f"#{SPECTRA}-{spectrum}")] if spectrum is not None else []
    for words, name in FILES.items():
        path = row.folder / name
        if path.exists() and path.is_relative_to(folder):
            address = quote(path.relative_to(folder).as_posix(), errors="surrogateescape")
            links.append((words, address))
    return links


def _results(
    row: Row,
    settings: ScreenSettings,
    temperature: float,
    references: Sequence[Reference],
) -> list[Cell]:
    """The cells of a structure that did not fail, between its name and its files."""
    record, thermo = row.record, row.thermo([temperature])
    per_atom = thermo.heat_capacity / (K_B * (record.n_atoms or 1))
    seconds = sum(
        s or 0.0 for s in (record.seconds_relaxation, record.seconds_modes, record.seconds_cp)
    )
    return [
        Cell(formula_words(record), kind="formula", formula=True),
        _number(record.n_atoms, "d"),
        _wave_vectors(row),
        *([Cell(method_words(record))] if settings.stochastic_above is not None else []),
        Cell(heat_capacity_words(row, temperature), heat_capacity(row, temperature)),
        *([_constant_pressure(row, settings, temperature)] if settings.cp else []),
        _missing(row, temperature, _bad(gamma_alone(row, settings))),
        _number(float(per_atom), ".3f"),
        _number(float(thermo.molar_entropy), ".1f"),
        _number(float(thermo.zero_point_energy), ".3f"),
        *(cell for reference in references for cell in _compared(row, reference)),
        Cell(imaginary_words(record), record.n_imaginary, _bad(imaginary(row, settings))),
        _lowest(row, settings),
        _number(record.largest_force, ".1e", _bad(large_forces(row, settings))),
        _number(record.n_gradients, "d", _bad(not_converged(row, settings))),
        Cell(duration(seconds), seconds if np.isfinite(seconds) else None),
    ]


def _number(value: float | None, form: str, kind: str = "") -> Cell:
    """A number that its column is sorted by."""
    known = value is not None and np.isfinite(value)
    return Cell(formatted(value, form), value if known else None, kind)


def _lowest(row: Row, settings: ScreenSettings) -> Cell:
    """The lowest frequency, or the lowest Ritz value, which it is not above."""
    found = row.sampled
    if row.record.lowest_frequency is None and found is not None:
        bad = _bad(imaginary(row, settings))
        return Cell(f"≤ {found.lowest_frequency:.1f}", found.lowest_frequency, bad)
    return _number(row.record.lowest_frequency, ".1f", _bad(soft(row, settings)))


def _constant_pressure(row: Row, settings: ScreenSettings, temperature: float) -> Cell:
    """The heat capacity at constant pressure; the findings say why there is none."""
    kind = _bad(no_cp(row, settings) or off_the_minimum(row, settings))
    return _number(heat_capacity_at_constant_pressure(row, temperature), ".4f", kind)


def _wave_vectors(row: Row) -> Cell:
    """The size of the mesh; Gamma for a crystal without one."""
    if row.record.mesh is not None:
        return Cell(mesh_words(row.record.mesh), float(np.prod(row.record.mesh)))
    return Cell(MISSING) if branches_of(row) is None else Cell("Γ", 1)


def _missing(row: Row, temperature: float, kind: str) -> Cell:
    """Estimate of the heat capacity that is missing at Gamma alone, or an upper bound."""
    missing = missing_at_gamma(row, temperature)
    if missing is None:
        return Cell(MISSING, kind=kind)
    if missing.estimate is None:
        return Cell(f"≤ {missing.bound:.4f}", missing.bound, kind)
    return Cell(f"{missing.estimate:.4f}", missing.estimate, kind)


def _compared(row: Row, reference: Reference) -> tuple[Cell, Cell]:
    """The value of a reference, and the relative error of ours at its temperature."""
    value = reference.values.get(row.record.name)
    if value is None or not np.isfinite(value) or not value > 0:
        return Cell(MISSING), Cell(MISSING)
    error = relative_error(row, reference)
    return _number(value, ".4f"), _number(None if error is None else 100 * error, "+.1f")


def _bad(finding: str | None) -> str:
    """Class of a cell that has a finding."""
    return "bad" if finding else ""


def without_folder(words: str, record: Record) -> str:
    """Text in which the file of a structure has no folder."""
    file = Path(record.file)
    return words.replace(str(file), file.name) if file.is_absolute() else words
