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
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from mace_functional.figures.spectrum import HIGHEST
from mace_functional.screening.drawing import Draw, Drawn, drawn
from mace_functional.screening.findings import FINDINGS
from mace_functional.screening.missing import branches_of
from mace_functional.screening.page import ShownFigure, html_page
from mace_functional.screening.parity import parity_of
from mace_functional.screening.provenance import Provenance
from mace_functional.screening.references import Reference
from mace_functional.screening.report_comparison import comparison
from mace_functional.screening.report_facts import report_facts
from mace_functional.screening.report_figures import (
    COLOURS,
    DRAWN,
    HEAT,
    PARITY,
    SPECTRA,
    heat_capacity_figure,
    parity_figure,
    spectra_figures,
)
from mace_functional.screening.report_structures import (
    anchor_of,
    headings,
    structure_rows,
    without_folder,
)
from mace_functional.screening.rows import Row, checked
from mace_functional.screening.screen_settings import ScreenSettings
from mace_functional.screening.table import ROOM
from mace_functional.screening.wording import counted
from mace_functional.support.atomic_write import atomic_write

REPORT, FIGURES = "report.html", "figures"
"""Names of the page, and of the folder with its figures."""

MANY = 10
"""Number of names above which they are listed in columns."""


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
    done = [row for row in rows if row.has_result]
    with_modes = sum(row.spectrum is not None for row in done)
    figures = _figures(done, max(temperatures), references)
    _save(folder / FIGURES, figures)
    temperature = min(temperatures, key=lambda kelvin: abs(kelvin - ROOM))
    data = {
        "title": f"Screening of {counted(len(rows), 'structure')}",
        "facts": report_facts(rows, settings, provenance),
        "findings": _findings(rows, settings),
        "many": MANY,
        "n_done": len(done),
        "heat_capacities": _heat_capacities(figures, done),
        "comparisons": [
            comparison(figures, i, reference, rows) for i, reference in enumerate(references, 1)
        ],
        "headings": headings(settings, temperature, references),
        "structures": structure_rows(folder, rows, settings, temperature, references, figures),
        "cp": settings.cp,
        "n_with_modes": with_modes,
        "sampled": with_modes < len(done),
        "spectra": _spectra(figures, with_modes, len(done) - with_modes),
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
    figures[SPECTRA] = drawn(spectra_figures, [row for row in done if row.spectrum is not None])
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


def _findings(rows: Sequence[Row], settings: ScreenSettings) -> list[dict[str, Any]]:
    """Kinds of findings with advice, and what is found in each structure."""
    kinds = []
    for title, advice, finding in FINDINGS:
        found = [
            {
                "anchor": anchor_of(number),
                "name": row.record.name,
                "words": without_folder(words, row.record),
            }
            for number, row in enumerate(rows)
            if (words := finding(row, settings))
        ]
        if found:
            kinds.append({"title": title, "advice": advice(settings), "found": found})
    return kinds


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
    if any(row.sampled is not None for row in done):
        note += " Points with two standard errors are sampled by random vectors."
    return figures[HEAT].shown(HEAT, "heat capacity", note)


def _spectra(figures: Mapping[str, Drawn], count: int, n_sampled: int) -> ShownFigure:
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
    if n_sampled:
        note += f" The frequencies of {counted(n_sampled, 'structure')} are not known."
    return figures[SPECTRA].shown(SPECTRA, "spectra", note)
