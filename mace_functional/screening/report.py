"""The report of a screening: one page of HTML that holds all it shows, and figures beside it.

Failures and findings come first, each with advice. Then come heat capacities, comparisons with
references, the table of all structures with links to their files, and the spectra.

A structure whose results cannot be used, shown or drawn is named with the reason, and does not
affect the others. The page takes about 3 kB for each structure, and at most 3 MB for each image:
one of heat capacities, one for each reference, and one of spectra for 24 structures or, for more
structures, for each 50 of the `DRAWN` smallest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from matplotlib.figure import Figure

from mace_functional.figures.spectrum import HIGHEST
from mace_functional.screening.constant_pressure import GRUNEISEN
from mace_functional.screening.drawing import Draw, Drawn, drawn
from mace_functional.screening.findings import (
    FINDINGS,
    MODES,
    failure,
    gamma_alone,
    imaginary,
    large_forces,
    no_cp,
    not_converged,
    off_the_minimum,
    soft,
)
from mace_functional.screening.missing import LARGE, branches_of, missing_at_gamma
from mace_functional.screening.page import Cell, Heading, ShownFigure, TableRow, html_page
from mace_functional.screening.parity import FEWEST, SCALES, Errors, Parity, parity_of
from mace_functional.screening.provenance import Provenance, model_name
from mace_functional.screening.record import RECORD, SPECTRUM, STRUCTURE, Record, Spectrum
from mace_functional.screening.references import Reference
from mace_functional.screening.report_figures import (
    COLOURS,
    DRAWN,
    heat_capacity_figure,
    parity_figure,
    spectra_figures,
    spectra_groups,
)
from mace_functional.screening.rows import Row, checked
from mace_functional.screening.saved_eigenvectors import EIGENVECTORS
from mace_functional.screening.screen_settings import ScreenSettings
from mace_functional.screening.table import (
    ROOM,
    formula_words,
    heat_capacity,
    heat_capacity_at_constant_pressure,
    relative_error,
)
from mace_functional.screening.wording import MISSING, counted, duration, formatted
from mace_functional.support.atomic_write import atomic_write
from mace_functional.units import EV_PER_MOLECULE, K_B

REPORT, FIGURES = "report.html", "figures"
"""Names of the page, and of the folder with its figures."""

ABOVE = 1.25
"""References above this times 3 k_B an atom get a warning. Anharmonic parts and the difference
between constant pressure and volume are up to a tenth at room temperature; a value per mole instead
of per gram is ten times too large."""

MANY = 10
"""Number of names above which they are listed in columns."""

HEAT, PARITY, SPECTRA = "heat_capacity", "parity-{}", "spectra"
"""Names of figures."""


FILES = {
    "structure": STRUCTURE,
    "frequencies": SPECTRUM,
    "eigenvectors": EIGENVECTORS,
    "Grüneisen parameters": GRUNEISEN,
    "record": RECORD,
}
"""Files of a structure that the page links to, by what they hold."""


def write_report(
    folder: Path,
    rows: Sequence[Row],
    settings: ScreenSettings,
    temperatures: Sequence[float],
    references: Sequence[Reference] = (),
    provenance: Provenance | None = None,
) -> Path:
    """Write the page, and its figures in a folder beside it.

    Args:
        folder: Folder of the screening; made if it is not there.
        rows: The structures, failed ones too.
        settings: Settings of the screening.
        temperatures: K; the table is for the one nearest to `ROOM`, and curves go to the highest.
        references: Heat capacities to compare with.
        provenance: Date, versions and digest of the model; not shown if None.

    Returns:
        Path of the page.

    Raises:
        ValueError: If there are no temperatures.
    """
    if not temperatures:
        raise ValueError("a report needs a temperature: give at least one, such as 300 K")
    rows = sorted(map(checked, rows), key=lambda row: (row.record.name.casefold(), row.record.name))
    done = [row for row in rows if row.spectrum is not None]
    figures = _figures(done, max(temperatures), references)
    _save(folder / FIGURES, figures)
    temperature = min(temperatures, key=lambda kelvin: abs(kelvin - ROOM))
    data = {
        "title": f"Screening of {counted(len(rows), 'structure')}",
        "facts": _facts(rows, settings, provenance),
        "findings": _findings(rows, settings),
        "many": MANY,
        "n_done": len(done),
        "heat_capacities": _heat_capacities(figures, done),
        "comparisons": [
            _comparison(figures, i, reference, rows) for i, reference in enumerate(references, 1)
        ],
        "headings": _headings(settings, temperature, references),
        "structures": _structures(folder, rows, settings, temperature, references, figures),
        "cp": settings.cp,
        "spectra": _spectra(figures, len(done)),
    }
    path = folder / REPORT
    with atomic_write(path) as partial:
        partial.write_text(html_page(data), encoding="utf-8", errors="replace")
    return path


def _figures(
    done: Sequence[Row], highest: float, references: Sequence[Reference]
) -> dict[str, Drawn]:
    """All figures, by the names of their files."""

    def parity(reference: Reference) -> Draw:
        def draw(rows: Sequence[Row]) -> list[Figure]:
            found = parity_of(rows, reference)
            return [] if found is None else [parity_figure(found)]

        return draw

    figures = {HEAT: drawn(lambda rows: [heat_capacity_figure(rows, highest)], done)}
    for number, reference in enumerate(references, 1):
        figures[PARITY.format(number)] = drawn(parity(reference), done)
    figures[SPECTRA] = drawn(spectra_figures, done)
    return figures


def _save(folder: Path, figures: Mapping[str, Drawn]) -> None:
    """Write images as PNG, and remove images of an earlier report that are not written again."""
    folder.mkdir(parents=True, exist_ok=True)
    written = set()
    for name, figure in figures.items():
        for number, image in enumerate(figure.images, 1):
            path = folder / (f"{name}-{number}.png" if name == SPECTRA else f"{name}.png")
            with atomic_write(path) as partial:
                partial.write_bytes(image.data)
            written.add(path)
    for pattern in "heat_capacity.png", "parity-*.png", "spectra-*.png":
        for path in set(folder.glob(pattern)) - written:
            path.unlink()


def _facts(
    rows: Sequence[Row], settings: ScreenSettings, provenance: Provenance | None
) -> dict[str, str]:
    """Rows of the first table: structures, model, settings, time and versions, in words."""
    done = [row.record for row in rows if row.spectrum is not None]
    failed = len(rows) - len(done)
    relaxing = sum(record.seconds_relaxation or 0.0 for record in done)
    vibrating = sum(record.seconds_modes or 0.0 for record in done)
    expanding = sum(record.seconds_cp or 0.0 for record in done)
    facts = {
        "Structures": f"{len(rows)}: "
        + (f"{len(done)} done, {failed} failed" if failed else "all done"),
        "Model": _model(settings, provenance),
        "Relaxation": _relaxation(settings, done),
        "Vibrations": f"harmonic, from exact Hessians, {_sampling(settings)}",
        "Computing time": f"{duration(relaxing + vibrating + expanding)}: relaxations "
        f"{duration(relaxing)}, vibrations {duration(vibrating)}"
        + (f", constant pressure {duration(expanding)}" if settings.cp else ""),
    }
    dates = sorted(record.computed for record in done if record.computed)
    if dates:
        days = dict.fromkeys([_day(dates[0]), _day(dates[-1])])
        facts["Computed"] = f"{' to '.join(days)}, with {_software(done)}"
    if provenance is not None:
        versions = _versions(provenance.versions)
        facts["Report"] = f"{_day(provenance.date)}, by {versions}"
    return facts


def _model(settings: ScreenSettings, provenance: Provenance | None) -> str:
    """The model with its digest, head, precision and dispersion correction."""
    words = [model_name(settings.model)]
    if provenance is not None:
        words.append(f"sha256 of weights and settings {provenance.model_digest}")
    if settings.head:
        words.append(f"head {settings.head}")
    words.append(str(settings.dtype))
    words.append(
        f"D3 dispersion for {settings.dispersion.upper()}"
        if settings.dispersion
        else "no dispersion correction"
    )
    return ", ".join(words)


def _relaxation(settings: ScreenSettings, done: Sequence[Record]) -> str:
    """Relaxed coordinates and limits, and the number of structures that converged."""
    if not settings.relax:
        return "not relaxed: as they are in the files"
    what = "positions and cells" if settings.relax_cell else "positions, in the cells of the files"
    converged = sum(record.converged is True for record in done)
    return (
        f"{what}, to forces below {settings.fmax:g} eV/Å in at most {settings.max_steps} steps: "
        f"{converged} of {len(done)} converged"
    )


def _day(date: str) -> str:
    """A date in ISO format as 1 January 2026, 12:00 UTC; as it is if it is none."""
    try:
        moment = datetime.fromisoformat(date)
    except ValueError:
        return date
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"


def _software(done: Sequence[Record]) -> str:
    """The versions that computed the records."""
    known = {_versions(record.versions) for record in done if record.versions}
    return " and with ".join(sorted(known)) or "unknown versions"


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def _sampling(settings: ScreenSettings) -> str:
    """The wave vectors of crystals and molecules, in words."""
    mesh = settings.mesh
    if mesh is None:
        return "at the Gamma point alone"
    if isinstance(mesh, str):
        return (
            f"on meshes of wave vectors that are refined until heat capacities at "
            f"{settings.mesh_temperature:g} K change by less than {settings.mesh_tolerance:g}; "
            "molecules without a mesh"
        )
    if isinstance(mesh, float):
        return f"on meshes of wave vectors at most {mesh:g} 1/Å apart; molecules without a mesh"
    return f"on a mesh of {_size(mesh)} wave vectors; molecules without a mesh"


def _size(mesh: Sequence[int]) -> str:
    return " × ".join(map(str, mesh))


def _findings(rows: Sequence[Row], settings: ScreenSettings) -> list[dict[str, Any]]:
    """Kinds of findings with advice, and what is found in each structure."""
    kinds = []
    for title, advice, finding in FINDINGS:
        found = [
            {
                "anchor": _anchor(number),
                "name": row.record.name,
                "words": _without_folder(words, row.record),
            }
            for number, row in enumerate(rows)
            if (words := finding(row, settings))
        ]
        if found:
            kinds.append({"title": title, "advice": advice(settings), "found": found})
    return kinds


def _without_folder(words: str, record: Record) -> str:
    """Text in which the file of a structure has no folder."""
    file = Path(record.file)
    return words.replace(str(file), file.name) if file.is_absolute() else words


def _heat_capacities(figures: Mapping[str, Drawn], done: Sequence[Row]) -> ShownFigure:
    """The figure of heat capacities and its caption."""
    alone = sum(branches_of(row) is not None for row in done)
    note = "Harmonic, at constant volume. "
    if alone:
        note += f"For {counted(alone, 'crystal')}, at the Gamma point alone. "
    if len(done) <= len(COLOURS):
        note += "Dashed lines leave out imaginary modes."
    else:
        note += "The highest and the lowest at the right end are named."
    return _shown(figures[HEAT], HEAT, "heat capacity", note)


def _comparison(
    figures: Mapping[str, Drawn], number: int, reference: Reference, rows: Sequence[Row]
) -> dict[str, Any]:
    """The comparison with one reference: errors, a note, a figure, and a warning."""
    parity = parity_of(rows, reference)
    name = PARITY.format(number)
    compared: dict[str, Any] = {
        "title": f"{reference.label}, {reference.temperature:g} K",
        "headings": [],
        "errors": [],
        "figure": None,
        "warning": _above_dulong_petit(rows, reference),
    }
    if parity is None:
        values = counted(len(reference.values), "value")
        note = (
            "No structure with a result has a value there: compare the names "
            f"({values} in the reference)."
        )
        return compared | {"note": note}
    caption = "Structures with errors above 10 %, outside the grey band, are red."
    return compared | {
        "headings": [*ERRORS, Heading("R^2")] if _has_r_squared(parity) else ERRORS,
        "errors": _error_rows(parity),
        "note": _note(parity),
        "figure": _shown(figures[name], name, f"parity {number}", caption),
    }


ERRORS = [
    Heading(""),
    Heading("structures"),
    Heading("mean absolute error", "J/(g K)"),
    Heading("mean absolute error", "%"),
    Heading("largest error", "%"),
    Heading("structure with it"),
]
"""Headings of the table of errors."""


def _error_rows(parity: Parity) -> list[TableRow]:
    """Errors as computed and, if a factor is fitted, with scaled frequencies."""
    with_r = _has_r_squared(parity)
    rows = [_errors("as computed", parity.names, parity.errors, with_r)]
    if parity.scaled_errors is not None:
        fitted = [name for name, kept in zip(parity.names, parity.fitted, strict=True) if kept]
        title = f"frequencies times {parity.scale:.4f}"
        rows.append(_errors(title, fitted, parity.scaled_errors, with_r))
    return rows


def _has_r_squared(parity: Parity) -> bool:
    """True if there are enough different references for R²."""
    return parity.errors.r_squared is not None


def _errors(title: str, names: Sequence[str], errors: Errors, with_r_squared: bool) -> TableRow:
    cells = [
        Cell(str(len(names))),
        Cell(f"{errors.mean_absolute:.4f}"),
        Cell(f"{100 * errors.mean_relative:.2f}"),
        Cell(f"{100 * errors.largest_relative:+.1f}"),
        Cell(names[errors.worst], kind="text"),
    ]
    if with_r_squared:
        cells.append(Cell(formatted(errors.r_squared, ".4f")))
    return TableRow(title, cells)


def _note(parity: Parity) -> str:
    """Explanation of R² and the common factor on frequencies, or of their absence."""
    notes = []
    if not _has_r_squared(parity) and len(parity.names) < FEWEST:
        notes.append(
            f"R² and a common factor on frequencies need {FEWEST} structures, and there are too "
            f"few: {len(parity.names)}."
        )
    elif parity.scaled_errors is not None:
        notes.append(
            f"The factor {parity.scale:.4f} on all frequencies of all structures minimises the "
            "mean relative error. It is fitted to these references, so errors for other structures "
            "may be larger than those given here."
        )
    elif int(parity.fitted.sum()) < FEWEST:
        notes.append(
            f"A common factor on frequencies needs {FEWEST} structures, and there are too few."
        )
    else:
        notes.append(
            f"No common factor on frequencies between {SCALES[0]:g} and {SCALES[1]:g} is best."
        )
    alone = [name for name, fit in zip(parity.names, parity.fitted, strict=True) if not fit]
    if alone:
        notes.append(
            f"The heat capacity of {counted(len(alone), 'structure')} is for Gamma alone and lacks "
            f"more than {100 * LARGE:g} % ({', '.join(alone)}). Errors as computed contain this"
            + ("; the factor is fitted without them." if parity.scaled_errors is not None else ".")
        )
    return " ".join(notes)


def _above_dulong_petit(rows: Sequence[Row], reference: Reference) -> str | None:
    """Warning of references above the classical limit, mostly because of another unit."""
    names = [
        row.record.name
        for row in rows
        if row.spectrum is not None and _is_above(row.record, reference)
    ]
    if not names:
        return None
    some = ", ".join(names[:MANY]) + (", ..." if len(names) > MANY else "")
    return (
        f"{counted(len(names), 'value')} of the reference above 3 k_B an atom, which vibrations do "
        f"not have: {some}. Are they in J/(g K)?"
    )


def _is_above(record: Record, reference: Reference) -> bool:
    most = MODES * K_B * EV_PER_MOLECULE * (record.n_atoms or 1) / (record.mass or 1.0)
    return reference.values.get(record.name, 0.0) > ABOVE * most


def _headings(
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


def _structures(
    folder: Path,
    rows: Sequence[Row],
    settings: ScreenSettings,
    temperature: float,
    references: Sequence[Reference],
    figures: Mapping[str, Drawn],
) -> list[TableRow]:
    """The table of all structures."""
    span = len(_headings(settings, temperature, references)) - 2
    places = _places_of_spectra(rows, figures[SPECTRA])
    table = []
    for number, row in enumerate(rows):
        name = row.record.name
        files = Cell("", kind="text files", links=_links(folder, row, places.get(number)))
        if row.spectrum is None:
            reason = _without_folder(failure(row, settings) or "", row.record)
            cells = [Cell(f"failed: {reason}", kind="text bad", span=span)]
        else:
            try:
                cells = _results(row, row.spectrum, settings, temperature, references)
            except Exception as error:  # one row that cannot be shown takes no other away
                reason = f"cannot be shown: {type(error).__name__}: {error}"
                cells = [Cell(reason, kind="text bad", span=span)]
        table.append(TableRow(name, [*cells, files], _anchor(number)))
    return table


def _anchor(number: int) -> str:
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
    spectrum: Spectrum,
    settings: ScreenSettings,
    temperature: float,
    references: Sequence[Reference],
) -> list[Cell]:
    """The cells of a structure that did not fail, between its name and its files."""
    record, thermo = row.record, spectrum.thermo(temperature)
    seconds = sum(
        s or 0.0 for s in (record.seconds_relaxation, record.seconds_modes, record.seconds_cp)
    )
    return [
        Cell(formula_words(record), kind="formula", formula=True),
        _number(record.n_atoms, "d"),
        _wave_vectors(row),
        _number(heat_capacity(row, temperature), ".4f"),
        *([_constant_pressure(row, settings, temperature)] if settings.cp else []),
        _missing(row, temperature, _bad(gamma_alone(row, settings))),
        _number(float(thermo.heat_capacity_per_atom(record.n_atoms or 1)), ".3f"),
        _number(float(thermo.molar_entropy), ".1f"),
        _number(float(thermo.zero_point_energy), ".3f"),
        *(cell for reference in references for cell in _compared(row, reference)),
        _number(record.n_imaginary, "d", _bad(imaginary(row, settings))),
        _number(record.lowest_frequency, ".1f", _bad(soft(row, settings))),
        _number(record.largest_force, ".1e", _bad(large_forces(row, settings))),
        _number(record.n_gradients, "d", _bad(not_converged(row, settings))),
        Cell(duration(seconds), seconds if np.isfinite(seconds) else None),
    ]


def _number(value: float | None, form: str, kind: str = "") -> Cell:
    """A number that its column is sorted by."""
    known = value is not None and np.isfinite(value)
    return Cell(formatted(value, form), value if known else None, kind)


def _constant_pressure(row: Row, settings: ScreenSettings, temperature: float) -> Cell:
    """The heat capacity at constant pressure; the findings say why there is none."""
    kind = _bad(no_cp(row, settings) or off_the_minimum(row, settings))
    return _number(heat_capacity_at_constant_pressure(row, temperature), ".4f", kind)


def _wave_vectors(row: Row) -> Cell:
    """The size of the mesh; Gamma for a crystal without one."""
    if row.record.mesh is not None:
        return Cell(_size(row.record.mesh), float(np.prod(row.record.mesh)))
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


def _spectra(figures: Mapping[str, Drawn], count: int) -> ShownFigure:
    """The figures of spectra and their caption."""
    note = (
        "Vibrational densities of states; imaginary modes are red, below zero. Modes beyond "
        f"{HIGHEST:g} cm-1 are counted and not drawn."
    )
    if len(figures[SPECTRA].images) > 1:
        note += " Darker where there are more modes, on a scale of its own for each structure."
        note += " Structures are sorted by size."
    if count > DRAWN:
        note += f" The {DRAWN} smallest of {count} structures are drawn."
    return _shown(figures[SPECTRA], SPECTRA, "spectra", note)


def _bad(finding: str | None) -> str:
    """Class of a cell that has a finding."""
    return "bad" if finding else ""


def _shown(figure: Drawn, name: str, alt: str, caption: str) -> ShownFigure:
    return ShownFigure(name, alt, caption, figure.images, figure.left_out, figure.failure)
