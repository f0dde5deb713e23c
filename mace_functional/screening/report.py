"""The report of a screening: one page of HTML that holds all it shows, and figures beside it.

What needs a person's eye comes first: failures and doubts, each with what to do. Then heat
capacities, how they compare with references, the table of all structures, and the spectra.

A structure whose results cannot be used, shown or drawn is named with the reason, and all others
are there. The page takes about 3 kB for each structure, and at most 3 MB for each of its images:
one of heat capacities, one for each reference, and one of spectra for 24 structures or, of many,
for each 50 of the `DRAWN` smallest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from mace_functional.figures.spectrum import HIGHEST
from mace_functional.screening.drawing import Draw, Drawn, drawn
from mace_functional.screening.findings import (
    FINDINGS,
    MODES,
    failure,
    gamma_alone,
    imaginary,
    not_at_rest,
    not_converged,
    soft,
)
from mace_functional.screening.missing import LARGE, branches_of, missing_at_gamma
from mace_functional.screening.page import (
    MISSING,
    as_text,
    cell,
    counted,
    duration,
    formatted,
    head_cell,
    html_figure,
    html_page,
    html_table,
)
from mace_functional.screening.parity import SCALES, Errors, Parity, parity_of
from mace_functional.screening.record import Record, Spectrum
from mace_functional.screening.references import Reference
from mace_functional.screening.report_figures import (
    COLOURS,
    DRAWN,
    heat_capacity_figure,
    parity_figure,
    spectra_figures,
)
from mace_functional.screening.rows import Row, checked
from mace_functional.screening.screen_settings import ScreenSettings
from mace_functional.screening.table import ROOM, heat_capacity, relative_error
from mace_functional.support.atomic_write import atomic_write
from mace_functional.units import EV_PER_MOLECULE, K_B

REPORT, FIGURES = "report.html", "figures"
"""Names of the page, and of the folder of its figures."""

ABOVE = 1.25
"""References larger than this times 3 k_B an atom are named. Anharmonic parts and the difference
between constant pressure and volume are up to a tenth at room temperature; a value for a mole in
place of a gram is ten times too large."""

MANY = 10
"""More names than these are listed in columns."""


def write_report(
    folder: Path,
    rows: Sequence[Row],
    settings: ScreenSettings,
    temperatures: Sequence[float],
    references: Sequence[Reference] = (),
) -> Path:
    """Write the page, and its figures in a folder beside it too.

    Args:
        folder: Of the screening; made if it is not there.
        rows: The structures, failed ones too.
        settings: What was computed.
        temperatures: K; the table is for the one nearest to `ROOM`, and curves go to the highest.
        references: Heat capacities to compare with.

    Returns:
        Path of the page.

    Raises:
        ValueError: If there are no temperatures.
    """
    if not temperatures:
        raise ValueError("a report needs a temperature: give at least one, such as 300 K")
    rows = sorted(map(checked, rows), key=lambda row: (row.record.name.casefold(), row.record.name))
    done = [row for row in rows if row.spectrum is not None]
    comparisons = [(reference, parity_of(rows, reference)) for reference in references]
    figures = _figures(done, max(temperatures), references)
    _save(folder / FIGURES, figures)
    temperature = min(temperatures, key=lambda kelvin: abs(kelvin - ROOM))
    title = f"Screening of {counted(len(rows), 'structure')}"
    body = [
        f"<h1>{title}</h1>",
        _summary(rows, settings),
        _doubts(rows, settings),
        _heat_capacities(figures, done),
        *(
            _comparison(figures, i, *comparison) + _above_dulong_petit(done, comparison[0])
            for i, comparison in enumerate(comparisons, 1)
        ),
        _structures(rows, settings, temperature, references),
        _spectra(figures, len(done)),
        _definitions(),
    ]
    path = folder / REPORT
    with atomic_write(path) as partial:
        partial.write_text(html_page(title, body), encoding="utf-8", errors="replace")
    return path


HEAT, PARITY, SPECTRA = "heat_capacity", "parity-{}", "spectra"
"""Names of figures."""


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
    """Write images as PNG, and take away those of an earlier report that are none of them."""
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


def _summary(rows: Sequence[Row], settings: ScreenSettings) -> str:
    """What was computed, and how it went, in words."""
    done = [row.record for row in rows if row.spectrum is not None]
    failed = len(rows) - len(done)
    went = f"{len(done)} done, {failed} failed" if failed else "all done"
    head = f", head {as_text(settings.head)}" if settings.head else ""
    dispersion = "no dispersion correction"
    if settings.dispersion:
        dispersion = f"D3 dispersion for {as_text(settings.dispersion.upper())}"
    relaxed = "not relaxed: as they are in the files"
    if settings.relax:
        what = (
            "positions and cells" if settings.relax_cell else "positions, in the cells of the files"
        )
        converged = sum(record.converged is True for record in done)
        relaxed = (
            f"{what}, to forces below {settings.fmax:g} eV/Å in at most {settings.max_steps} "
            f"steps: {converged} of {len(done)} converged"
        )
    relaxing = sum(record.seconds_relaxation or 0.0 for record in done)
    vibrating = sum(record.seconds_modes or 0.0 for record in done)
    facts = {
        "Structures": f"{len(rows)}: {went}",
        "Model": f"{as_text(settings.model)}{head}, {as_text(str(settings.dtype))}, {dispersion}",
        "Relaxation": relaxed,
        "Vibrations": f"harmonic, from exact Hessians, {_sampling(settings)}",
        "Computing time": f"{duration(relaxing + vibrating)}, of which relaxations "
        f"{duration(relaxing)} and vibrations {duration(vibrating)}",
    }
    lines = [[head_cell(name), cell(value, "text")] for name, value in facts.items()]
    return html_table([], lines, "facts")


def _sampling(settings: ScreenSettings) -> str:
    """Which wave vectors there are."""
    mesh = settings.mesh
    if mesh is None:
        return "at the Gamma point alone"
    if isinstance(mesh, str):
        return (
            f"on meshes of wave vectors that are refined until heat capacities at "
            f"{settings.mesh_temperature:g} K change by less than {settings.mesh_tolerance:g}, "
            "molecules as they are"
        )
    if isinstance(mesh, float):
        return f"on meshes of wave vectors at most {mesh:g} 1/Å apart, molecules as they are"
    return f"on a mesh of {_size(mesh)} wave vectors, molecules as they are"


def _size(mesh: Sequence[int]) -> str:
    return " × ".join(map(str, mesh))


def _doubts(rows: Sequence[Row], settings: ScreenSettings) -> str:
    """Failures and results to look at, each with what to do; nothing if there are none."""
    lines = []
    for title, advice, finding in FINDINGS:
        found = [(i, row, words) for i, row in enumerate(rows) if (words := finding(row, settings))]
        if found:
            items = "".join(
                f"<li>{_link(i, row.record.name)}: {as_text(words)}</li>" for i, row, words in found
            )
            what = f'<span class="bad">{title}</span> ({len(found)})'
            kind = "many" if len(found) > MANY else ""
            content = f'<p>{advice(settings)}</p><ul class="{kind}">{items}</ul>'
            lines.append([head_cell(what), cell(content, "text")])
    if not lines:
        return ""
    return "<h2>To look at first</h2>" + html_table([], lines, "doubts")


def _heat_capacities(figures: Mapping[str, Drawn], done: Sequence[Row]) -> str:
    count = len(done)
    if not count:
        return "<h2>Heat capacity</h2><p>No structure has a result.</p>"
    alone = sum(branches_of(row) is not None for row in done)
    note = "Harmonic, at constant volume. "
    if alone:
        note += f"Of {counted(alone, 'crystal')} it is that of the Gamma point alone. "
    if count <= len(COLOURS):
        note += "Lines are dashed where imaginary modes are left out."
    else:
        note += "The highest and the lowest at the right end are named."
    return f"<h2>Heat capacity</h2>{_shown(figures[HEAT], 'heat capacity', note)}"


def _comparison(
    figures: Mapping[str, Drawn], number: int, reference: Reference, parity: Parity | None
) -> str:
    """Parity with one reference: a figure and its statistics."""
    at = f"{as_text(reference.label)}, {reference.temperature:g} K"
    title = f"<h2>Against {at}</h2>"
    if parity is None:
        return (
            f"{title}<p>No structure with a result has a value there: compare the names "
            f"({counted(len(reference.values), 'value')} in the reference).</p>"
        )
    lines = [_errors("as computed", parity.names, parity.errors)]
    fitted = [name for name, kept in zip(parity.names, parity.fitted, strict=True) if kept]
    if parity.scaled_errors is not None:
        lines.append(_errors(f"scaled by {parity.scale:.4f}", fitted, parity.scaled_errors))
        note = (
            f"The factor {parity.scale:.4f} on all frequencies of all structures makes the mean "
            "relative error smallest. It is fitted to these very references, so that the "
            "errors beside it are a lower bound for other structures."
        )
    elif len(fitted) < 2:
        note = "A common scale of frequencies needs two structures at least."
    else:
        note = f"No common scale of frequencies between {SCALES[0]:g} and {SCALES[1]:g} is best."
    alone = [name for name, kept in zip(parity.names, parity.fitted, strict=True) if not kept]
    if alone:
        note += (
            f" Of {counted(len(alone), 'structure')} the heat capacity is that of Gamma alone and "
            f"lacks more than {100 * LARGE:g} % ({as_text(', '.join(alone))}): errors as computed "
            "have that in them, and the scale is fitted without them."
        )
    headings = [
        "",
        "structures",
        "mean absolute error<br>%",
        "largest error<br>%",
        "where",
        "R<sup>2</sup>",
    ]
    headings.insert(2, "mean absolute error<br>J/(g K)")
    caption = "Errors above 10 %, outside of the grey band, are red."
    return (
        title
        + html_table(headings, lines, "numbers")
        + f'<p class="note">{note}</p>'
        + _shown(figures[PARITY.format(number)], f"parity {number}", caption)
    )


def _above_dulong_petit(done: Sequence[Row], reference: Reference) -> str:
    """References that no vibrations can have, mostly because they are in another unit."""
    names = [row.record.name for row in done if _is_above(row.record, reference)]
    if not names:
        return ""
    some = ", ".join(names[:MANY]) + (", ..." if len(names) > MANY else "")
    return (
        f'<p class="bad">{counted(len(names), "value")} of the reference above 3 k<sub>B</sub> an '
        f"atom, which vibrations do not have: {as_text(some)}. Are they in J/(g K)?</p>"
    )


def _is_above(record: Record, reference: Reference) -> bool:
    most = MODES * K_B * EV_PER_MOLECULE * (record.n_atoms or 1) / (record.mass or 1.0)
    return reference.values.get(record.name, 0.0) > ABOVE * most


def _errors(title: str, names: Sequence[str], errors: Errors) -> list[str]:
    return [
        head_cell(title),
        cell(str(len(names))),
        cell(f"{errors.mean_absolute:.4f}"),
        cell(f"{100 * errors.mean_relative:.2f}"),
        cell(f"{100 * errors.largest_relative:+.1f}"),
        cell(as_text(names[errors.worst]), "text"),
        cell(formatted(errors.r_squared, ".4f")),
    ]


def _structures(
    rows: Sequence[Row],
    settings: ScreenSettings,
    temperature: float,
    references: Sequence[Reference],
) -> str:
    """The table of all structures."""
    at = f"{temperature:g} K"
    headings = [
        "structure",
        "formula",
        "atoms",
        "wave<br>vectors",
        f"C<sub>V</sub>({at})<br>J/(g K)",
        "missing at &Gamma;<br>J/(g K)",
        "C<sub>V</sub><br>k<sub>B</sub>/atom",
        f"S({at})<br>J/(mol K)",
        "zero-point<br>energy, eV",
        *(
            heading
            for r in references
            for heading in (f"{as_text(r.label)}<br>{r.temperature:g} K, J/(g K)", "error<br>%")
        ),
        "imaginary<br>modes",
        "lowest<br>cm<sup>-1</sup>",
        "force<br>eV/Å",
        "steps",
        "time",
    ]
    lines = []
    for number, row in enumerate(rows):
        if row.spectrum is None:
            reason = f"<div>failed: {as_text(failure(row, settings) or '')}</div>"
            cells = [cell(reason, "text bad", len(headings) - 1)]
        else:
            try:
                cells = _results(row, row.spectrum, settings, temperature, references)
            except Exception as error:  # one row that cannot be shown takes no other away
                reason = as_text(f"cannot be shown: {type(error).__name__}: {error}")
                cells = [cell(f"<div>{reason}</div>", "text bad", len(headings) - 1)]
        lines.append([head_cell(as_text(row.record.name), f"s{number}"), *cells])
    return f"<h2>Structures</h2>{html_table(headings, lines, 'numbers')}"


def _results(
    row: Row,
    spectrum: Spectrum,
    settings: ScreenSettings,
    temperature: float,
    references: Sequence[Reference],
) -> list[str]:
    """The cells of a structure that did not fail, after its name."""
    record, thermo = row.record, spectrum.thermo(temperature)
    seconds = (record.seconds_relaxation or 0.0) + (record.seconds_modes or 0.0)
    compared = [each for reference in references for each in _compared(row, reference)]
    return [
        cell(re.sub(r"(\d+)", r"<sub>\1</sub>", as_text(record.formula or MISSING))),
        cell(formatted(record.n_atoms, "d")),
        cell(_waves(row)),
        cell(formatted(heat_capacity(row, temperature), ".4f")),
        cell(_missing(row, temperature), _bad(gamma_alone(row, settings))),
        cell(formatted(float(thermo.heat_capacity_per_atom(record.n_atoms or 1)), ".3f")),
        cell(formatted(EV_PER_MOLECULE * float(thermo.entropy), ".1f")),
        cell(formatted(float(thermo.zero_point_energy), ".3f")),
        *compared,
        cell(formatted(record.n_imaginary, "d"), _bad(imaginary(row, settings))),
        cell(formatted(record.lowest_frequency, ".1f"), _bad(soft(row, settings))),
        cell(formatted(record.largest_force, ".1e"), _bad(not_at_rest(row, settings))),
        cell(formatted(record.n_gradients, "d"), _bad(not_converged(row, settings))),
        cell(duration(seconds)),
    ]


def _waves(row: Row) -> str:
    """The mesh; Gamma for a crystal without one."""
    if row.record.mesh is not None:
        return _size(row.record.mesh)
    return MISSING if branches_of(row) is None else "&Gamma;"


def _missing(row: Row, temperature: float) -> str:
    """What Gamma alone lacks: estimated, or at most."""
    missing = missing_at_gamma(row, temperature)
    if missing is None:
        return MISSING
    if missing.estimate is None:
        return f"&le; {missing.bound:.4f}"
    return f"{missing.estimate:.4f}"


def _compared(row: Row, reference: Reference) -> tuple[str, str]:
    """The value of a reference, and the relative error of ours at its temperature."""
    value = reference.values.get(row.record.name)
    if value is None or not np.isfinite(value) or not value > 0:
        return cell(MISSING), cell(MISSING)
    error = relative_error(row, reference)
    return cell(f"{value:.4f}"), cell(MISSING if error is None else f"{100 * error:+.1f}")


def _spectra(figures: Mapping[str, Drawn], count: int) -> str:
    if not count:
        return ""
    note = (
        "Vibrational densities of states, imaginary modes below zero, in red. Modes beyond "
        f"{HIGHEST:g} cm<sup>-1</sup> are counted and not drawn."
    )
    if len(figures[SPECTRA].images) > 1:
        note += " Darker where there are more modes, each structure for itself; sorted by size."
    if count > DRAWN:
        note += f" The {DRAWN} smallest of {count} structures are drawn."
    return f"<h2>Spectra</h2>{_shown(figures[SPECTRA], 'spectra', note)}"


def _definitions() -> str:
    return (
        '<h2>Definitions</h2><p class="note">C<sub>V</sub> is the harmonic heat capacity at '
        "constant volume, without electronic and anharmonic parts, and for molecules without "
        "translation and rotation, and so is the entropy S. Entropy is per mole, and zero-point "
        "energy is that, of cells or molecules as the formula counts them. Rigid motions (three "
        "translations of a crystal, five or six motions of a molecule) are taken out by projection "
        "and not by a threshold. Imaginary modes, written as negative wavenumbers, are left "
        "out of all sums and counted, on a mesh over all its wave vectors. The Gamma "
        "point alone stands for the vibrations of one cell, and is accurate for large cells; a "
        "mesh averages over waves through many cells. What is missing at &Gamma; are the three "
        "acoustic modes of each cell, which hold at most 3 k<sub>B</sub>; it is not part of "
        "C<sub>V</sub> here, and is estimated from speeds of sound with a sine dispersion, or "
        "given as at most that (&le;) where there is no estimate. Errors are "
        "C<sub>V</sub>/reference - 1, and R<sup>2</sup> is the share of the variance of the "
        "references that the values explain as they are. Force is the largest on any atom, steps "
        "are energies with gradients that the relaxation took, and time is that of relaxation and "
        "vibrations.</p>"
    )


def _bad(finding: str | None) -> str:
    return "bad" if finding else ""


def _link(number: int, name: str) -> str:
    """A way to the line of a structure."""
    return f'<a href="#s{number}">{as_text(name)}</a>'


def _shown(figure: Drawn, alt: str, caption: str) -> str:
    """Images with a caption below the first, and what is not on them."""
    words = ""
    if figure.failure is not None:
        words += f'<p class="bad">This figure could not be drawn: {as_text(figure.failure)}</p>'
    if figure.left_out:
        names = "; ".join(f"{as_text(n)} ({as_text(why)})" for n, why in figure.left_out.items())
        words += f'<p class="bad">Left out, because they cannot be drawn: {names}</p>'
    captions = [caption] + [""] * len(figure.images)
    return words + "".join(
        html_figure(image, alt, text) for image, text in zip(figure.images, captions, strict=False)
    )
