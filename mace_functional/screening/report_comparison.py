"""The part of a report that compares heat capacities with one reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mace_functional.screening.drawing import Drawn
from mace_functional.screening.findings import MODES
from mace_functional.screening.missing import LARGE
from mace_functional.screening.page import Cell, Heading, TableRow
from mace_functional.screening.parity import FEWEST, SCALES, Errors, Parity, parity_of
from mace_functional.screening.record import Record
from mace_functional.screening.references import Reference
from mace_functional.screening.report_figures import PARITY
from mace_functional.screening.rows import Row
from mace_functional.screening.wording import counted, formatted
from mace_functional.units import EV_PER_MOLECULE, K_B

ABOVE = 1.25
"""References above this times 3 k_B an atom get a warning. Anharmonic parts and the difference
between constant pressure and volume are up to a tenth at room temperature; a value per mole instead
of per gram is ten times too large."""

NAMED = 10
"""Largest number of names in a warning."""


ERRORS = [
    Heading(""),
    Heading("structures"),
    Heading("mean absolute error", "J/(g K)"),
    Heading("mean absolute error", "%"),
    Heading("largest error", "%"),
    Heading("structure with it"),
]
"""Headings of the table of errors."""


def comparison(
    figures: Mapping[str, Drawn], number: int, reference: Reference, rows: Sequence[Row]
) -> dict[str, Any]:
    """The comparison with one reference: errors, a note, a figure, and a warning.

    Args:
        figures: Figures of the report, by their names.
        number: Number of the reference, from 1.
        reference: The reference.
        rows: The structures, failed ones too.
    """
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
        "figure": figures[name].shown(name, f"parity {number}", caption),
    }


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
    left_out = zip(parity.names, ~parity.fitted & ~parity.sampled, strict=True)
    alone = [name for name, out in left_out if out]
    if alone:
        notes.append(
            f"The heat capacity of {counted(len(alone), 'structure')} is for Gamma alone and lacks "
            f"more than {100 * LARGE:g} % ({', '.join(alone)}). Errors as computed contain this"
            + ("; the factor is fitted without them." if parity.scaled_errors is not None else ".")
        )
    if parity.sampled.any() and parity.scaled_errors is not None:
        notes.append(
            f"The factor is fitted without {counted(int(parity.sampled.sum()), 'structure')} "
            "sampled by random vectors."
        )
    return " ".join(notes)


def _above_dulong_petit(rows: Sequence[Row], reference: Reference) -> str | None:
    """Warning of references above the classical limit, mostly because of another unit."""
    names = [row.record.name for row in rows if row.has_result and _is_above(row.record, reference)]
    if not names:
        return None
    some = ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
    return (
        f"{counted(len(names), 'value')} of the reference above 3 k_B an atom, which vibrations do "
        f"not have: {some}. Are they in J/(g K)?"
    )


def _is_above(record: Record, reference: Reference) -> bool:
    most = MODES * K_B * EV_PER_MOLECULE * (record.n_atoms or 1) / (record.mass or 1.0)
    return reference.values.get(record.name, 0.0) > ABOVE * most
