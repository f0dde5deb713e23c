"""The report of a screening: one page of HTML that holds all it shows, and figures beside it.

What needs a person's eye comes first: failures and doubts, each with what to do. Then heat
capacities, how they compare with references, the table of all structures, and the spectra.
"""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from mace_functional.atomic_write import atomic_write
from mace_functional.phonons.modes import LARGEST_FORCE, is_gamma
from mace_functional.screening.figures import (
    COLOURS,
    heat_capacity_figure,
    parity_figure,
    spectra_figures,
)
from mace_functional.screening.parity import SCALES, Errors, Parity, parity_of
from mace_functional.screening.record import Spectrum
from mace_functional.screening.rows import Reference, Row
from mace_functional.screening.settings import ScreenSettings
from mace_functional.screening.table import ROOM, heat_capacity, relative_error
from mace_functional.units import EV_PER_MOLECULE

REPORT, FIGURES = "report.html", "figures"
"""Names of the page, and of the folder of its figures."""

SOFT = 5.0
"""Below this, in cm-1, a vibration is hardly told from a free motion."""

ROUNDING = {"float64": 1e-6, "float32": 1e-2}
"""Sum rule and symmetry of a Hessian hold to this, eV/Å²; rounding is far below it."""

MANY = 10
"""More names than these are listed in columns."""

MISSING = "–"
"""In a cell without a value."""

STYLE = """
:root { color-scheme: light dark; --text: #1d2329; --faint: #5d6872; --line: #d9dee3;
  --back: #ffffff; --raised: #f4f6f8; --link: #2b5f99; --bad: #b3401f; }
@media (prefers-color-scheme: dark) { :root { --text: #e3e7ea; --faint: #9aa5ae; --line: #3a4249;
  --back: #15191d; --raised: #1e2429; --link: #86b4e3; --bad: #f0906f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 80rem; color: var(--text);
  background: var(--back); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .75rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; padding-top: .75rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p { margin: .5rem 0; max-width: 46rem; }
sub, sup { line-height: 0; }
code { white-space: nowrap; }
a { color: var(--link); text-decoration: none; }
a:hover { text-decoration: underline; }
.note { color: var(--faint); font-size: .875rem; }
.bad { color: var(--bad); }
.wide { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .5rem; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: top; white-space: nowrap; }
thead th { vertical-align: bottom; color: var(--faint); font-weight: 600; }
thead { display: table-header-group; }
th:first-child, td.text { text-align: left; }
td.text { white-space: normal; }
tbody th { font-weight: 600; position: sticky; left: 0; background: var(--back); max-width: 14rem;
  white-space: normal; overflow-wrap: anywhere; }
tr { break-inside: avoid; }
tr:target > * { background: var(--raised); }
table.numbers { width: max-content; }
table.doubts { width: 100%; }
table.doubts th { position: static; width: 11rem; max-width: none; }
table.doubts ul { margin: 0 0 .5rem; padding: 0; list-style: none; }
table.doubts ul.many { columns: 20rem; }
table.doubts p { margin: 0 0 .5rem; }
td.text div { max-width: min(32rem, 60vw); }
figure { margin: .75rem 0; break-inside: avoid; }
figure img { display: block; width: calc(var(--inches) * 7.5rem); max-width: 100%;
  background: #fff; border-radius: 4px; }
@media (prefers-color-scheme: dark) { figure img { padding: .4rem; filter: brightness(.92); } }
@media (max-width: 40rem) {
  tbody th { max-width: 8rem; }
  figure { overflow-x: auto; }
  figure img { width: calc(var(--inches) * 5rem); max-width: none; }
  table.doubts, table.doubts tbody, table.doubts tr, table.doubts th, table.doubts td {
    display: block; width: auto; }
  table.doubts thead { display: none; }
  table.doubts th { border: 0; padding-bottom: 0; }
}
@page { size: landscape; margin: 12mm; }
@media print {
  :root { --text: #000; --faint: #444; --line: #bbb; --back: #fff; --raised: #fff; --link: #000;
    --bad: #a03010; font-size: 62%; }
  body { max-width: none; padding: 0; }
  .wide { overflow: visible; }
  table.numbers { width: auto; }
  th, td { padding: .15rem .4rem; }
  tbody th { position: static; }
  figure img { filter: none; padding: 0; }
}
"""


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
    rows = sorted(rows, key=lambda row: (row.record.name.casefold(), row.record.name))
    done = [row for row in rows if row.spectrum is not None]
    comparisons = [(reference, parity_of(rows, reference)) for reference in references]
    images = _save(folder / FIGURES, _figures(done, max(temperatures), comparisons))
    temperature = min(temperatures, key=lambda kelvin: abs(kelvin - ROOM))
    title = f"Screening of {_count(len(rows), 'structure')}"
    body = [
        f"<h1>{title}</h1>",
        _summary(rows, settings),
        _doubts(rows, settings),
        _heat_capacities(images, len(done)),
        *(_comparison(images, i, *comparison) for i, comparison in enumerate(comparisons, 1)),
        _structures(rows, settings, temperature, references),
        _spectra(images),
        _definitions(),
    ]
    path = folder / REPORT
    with atomic_write(path) as partial:
        partial.write_text(_page(title, body), encoding="utf-8", errors="replace")
    return path


Comparison = tuple[Reference, Parity | None]


class Image(NamedTuple):
    """A figure as PNG, and its width in inches."""

    data: bytes
    inches: float


def _figures(
    done: Sequence[Row], highest: float, comparisons: Sequence[Comparison]
) -> dict[str, Figure]:
    """All figures, by the names of their files."""
    figures = {}
    if done:
        figures["heat_capacity"] = heat_capacity_figure(done, highest)
    for number, (_, parity) in enumerate(comparisons, 1):
        if parity is not None:
            figures[f"parity-{number}"] = parity_figure(parity)
    for number, figure in enumerate(spectra_figures(done), 1):
        figures[f"spectra-{number}"] = figure
    return figures


def _save(folder: Path, figures: Mapping[str, Figure]) -> dict[str, Image]:
    """Write figures as PNG, and take away those of an earlier report that are none of them."""
    folder.mkdir(parents=True, exist_ok=True)
    images = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # names in any script
        for name, figure in figures.items():
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=160)
            images[name] = Image(buffer.getvalue(), figure.get_figwidth())
            with atomic_write(folder / f"{name}.png") as partial:
                partial.write_bytes(images[name].data)
    for pattern in "heat_capacity.png", "parity-*.png", "spectra-*.png":
        for path in folder.glob(pattern):
            if path.stem not in figures:
                path.unlink()
    return images


def _page(title: str, body: Sequence[str]) -> str:
    content = "\n".join(part for part in body if part)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{content}\n</body>\n</html>\n"
    )


def _summary(rows: Sequence[Row], settings: ScreenSettings) -> str:
    """What was computed, and how it went, in words."""
    done = [row.record for row in rows if row.spectrum is not None]
    failed = len(rows) - len(done)
    went = f"{len(done)} done, {failed} failed" if failed else "all done"
    head = f", head {_text(settings.head)}" if settings.head else ""
    dispersion = "no dispersion correction"
    if settings.dispersion:
        dispersion = f"D3 dispersion for {_text(settings.dispersion.upper())}"
    relaxed = "not relaxed: as they are in the files"
    if settings.relax:
        what = "positions and cells" if settings.cell else "positions, in the cells of the files"
        converged = sum(record.converged is True for record in done)
        relaxed = (
            f"{what}, to forces below {settings.fmax:g} eV/Å in at most {settings.max_steps} "
            f"steps: {converged} of {len(done)} converged"
        )
    modes = "at the Gamma point"
    if settings.mesh is not None:
        size = " × ".join(map(str, settings.mesh))
        modes = f"on a mesh of {size} wave vectors, molecules as they are"
    relaxing = sum(record.seconds_relaxation or 0.0 for record in done)
    vibrating = sum(record.seconds_modes or 0.0 for record in done)
    facts = {
        "Structures": f"{len(rows)}: {went}",
        "Model": f"{_text(settings.model)}{head}, {_text(settings.dtype)}, {dispersion}",
        "Relaxation": relaxed,
        "Vibrations": f"harmonic, from exact Hessians, {modes}",
        "Computing time": f"{_duration(relaxing + vibrating)}, of which relaxations "
        f"{_duration(relaxing)} and vibrations {_duration(vibrating)}",
    }
    lines = [[_head(name), _cell(value, "text")] for name, value in facts.items()]
    return _table([], lines, "facts")


def _doubts(rows: Sequence[Row], settings: ScreenSettings) -> str:
    """Failures and results to look at, each with what to do; nothing if there are none."""
    lines = []
    for title, advice, finding in _FINDINGS:
        found = [(i, row, words) for i, row in enumerate(rows) if (words := finding(row, settings))]
        if found:
            items = "".join(
                f"<li>{_link(i, row.record.name)}: {_text(words)}</li>" for i, row, words in found
            )
            what = f'<span class="bad">{title}</span> ({len(found)})'
            kind = "many" if len(found) > MANY else ""
            content = f'<p>{advice}</p><ul class="{kind}">{items}</ul>'
            lines.append([_head(what), _cell(content, "text")])
    if not lines:
        return ""
    return "<h2>To look at first</h2>" + _table([], lines, "doubts")


def _failure(row: Row, settings: ScreenSettings) -> str | None:
    return None if row.spectrum is not None else row.record.failure or "no reason is known"


def _not_converged(row: Row, settings: ScreenSettings) -> str | None:
    record = row.record
    if record.converged is not False:
        return None
    return f"{record.relaxation}, largest force {_number(record.largest_force, '.2g')} eV/Å"


def _not_at_rest(row: Row, settings: ScreenSettings) -> str | None:
    force, limit = row.record.largest_force, LARGEST_FORCE
    if force is None or row.record.converged is False:
        return None
    if row.record.converged:
        limit = min(limit, 1.01 * settings.fmax)  # not what rounding adds
    return f"largest force {force:.2g} eV/Å" if force > limit else None


def _imaginary(row: Row, settings: ScreenSettings) -> str | None:
    count, lowest = row.record.imaginary_modes, row.record.lowest_frequency
    return f"{_count(count, 'mode')}, down to {_number(lowest, '.1f')} cm-1" if count else None


def _soft(row: Row, settings: ScreenSettings) -> str | None:
    if row.spectrum is None:
        return None
    # Close to Gamma, acoustic modes of a dense mesh are soft by right.
    frequencies = row.spectrum.frequencies[is_gamma(row.spectrum.q)]
    soft = frequencies[(frequencies > 0) & (frequencies < SOFT)]
    if not len(soft):
        return None
    return f"{_count(len(soft), 'mode')}, the lowest at {float(soft.min()):.2f} cm-1"


def _rough_hessian(row: Row, settings: ScreenSettings) -> str | None:
    record, limit = row.record, ROUNDING[settings.dtype]
    found = [
        f"{name} {value:.1e} eV/Å²"
        for name, value in (
            ("acoustic sum rule broken by", record.acoustic_sum_residual),
            ("asymmetry of the Hessian", record.asymmetry),
        )
        if value is not None and not value < limit
    ]
    return ", ".join(found) or None


_FINDINGS: tuple[tuple[str, str, Callable[[Row, ScreenSettings], str | None]], ...] = (
    (
        "Failed",
        "There is no result. Correct the file, or what else the reason names, and run the same "
        "command with <code>--retry</code>.",
        _failure,
    ),
    (
        "Not relaxed",
        "The relaxation ended too early, and what follows is of a structure that is not at rest. "
        "Allow more steps (<code>--max-steps</code>), or start from a better geometry.",
        _not_converged,
    ),
    (
        "Imaginary modes",
        "The structure is no minimum of the energy along them. They are left out of all sums, so "
        "that heat capacity and entropy are too low. Relax further (lower <code>--fmax</code>), "
        "move the atoms a little along the mode and relax again, or, if a mesh shows them away "
        "from Gamma, take a larger cell.",
        _imaginary,
    ),
    (
        "Not at rest",
        "Forces are left, and harmonic frequencies mean little where they are. Relax the structure "
        "with this model (without <code>--no-relax</code>).",
        _not_at_rest,
    ),
    (
        "Very soft modes",
        f"Vibrations below {SOFT:g} cm<sup>-1</sup> count in full, each with nearly k<sub>B</sub> "
        "in the heat capacity. Entropy and free energy depend on how soft they are, and are not to "
        "be trusted. Relax further, and look whether a part of the structure is free to move.",
        _soft,
    ),
    (
        "Inexact Hessian",
        "Sum rule and symmetry hold to rounding in a sound calculation. Compute in "
        "<code>--dtype float64</code>, and look for atoms that nearly touch.",
        _rough_hessian,
    ),
)
"""What is found in a structure: a title, what to do, and the words for one structure, or None."""


def _heat_capacities(images: Mapping[str, Image], count: int) -> str:
    if not count:
        return "<h2>Heat capacity</h2><p>No structure has a result.</p>"
    note = "Harmonic, at constant volume. "
    if count <= len(COLOURS):
        note += "Lines are dashed where imaginary modes are left out."
    else:
        note += "The highest and the lowest at the right end are named."
    return f"<h2>Heat capacity</h2>{_figure(images, 'heat_capacity', note)}"


def _comparison(
    images: Mapping[str, Image], number: int, reference: Reference, parity: Parity | None
) -> str:
    """Parity with one reference: a figure and its statistics."""
    at = f"{_text(reference.label)}, {reference.temperature:g} K"
    title = f"<h2>Against {at}</h2>"
    if parity is None:
        return (
            f"{title}<p>No structure with a result has a value there: compare the names "
            f"({_count(len(reference.values), 'value')} in the reference).</p>"
        )
    lines = [_errors("as computed", parity, parity.errors)]
    if parity.scaled_errors is not None:
        lines.append(_errors(f"scaled by {parity.scale:.4f}", parity, parity.scaled_errors))
        note = (
            f"The factor {parity.scale:.4f} on all frequencies of all structures makes the mean "
            "relative error smallest. It is fitted to these very references, so that the "
            "errors beside it are a lower bound for other structures."
        )
    elif len(parity.names) == 1:
        note = "A common scale of frequencies needs two structures at least."
    else:
        note = f"No common scale of frequencies between {SCALES[0]:g} and {SCALES[1]:g} is best."
    headings = ["", "structures", "mean error<br>%", "largest error<br>%", "where", "R<sup>2</sup>"]
    headings.insert(2, "mean absolute error<br>J/(g K)")
    caption = "Errors above 10 %, outside of the grey band, are red."
    return (
        title
        + _table(headings, lines, "numbers")
        + f'<p class="note">{note}</p>'
        + _figure(images, f"parity-{number}", caption)
    )


def _errors(title: str, parity: Parity, errors: Errors) -> list[str]:
    return [
        _head(title),
        _cell(str(len(parity.names))),
        _cell(f"{errors.mean_absolute:.4f}"),
        _cell(f"{100 * errors.mean_relative:.2f}"),
        _cell(f"{100 * errors.largest_relative:+.1f}"),
        _cell(_text(parity.names[errors.worst]), "text"),
        _cell(_number(errors.r_squared, ".4f")),
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
        f"C<sub>V</sub>({at})<br>J/(g K)",
        "C<sub>V</sub><br>k<sub>B</sub>/atom",
        f"S({at})<br>J/(mol K)",
        "zero-point<br>energy, eV",
        *(
            heading
            for r in references
            for heading in (f"{_text(r.label)}<br>{r.temperature:g} K, J/(g K)", "error<br>%")
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
            reason = f"<div>failed: {_text(_failure(row, settings) or '')}</div>"
            cells = [_cell(reason, "text bad", len(headings) - 1)]
        else:
            cells = _results(row, row.spectrum, settings, temperature, references)
        lines.append([_head(_text(row.record.name), f"s{number}"), *cells])
    return f"<h2>Structures</h2>{_table(headings, lines, 'numbers')}"


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
    compared = [cell for reference in references for cell in _compared(row, reference)]
    return [
        _cell(re.sub(r"(\d+)", r"<sub>\1</sub>", _text(record.formula or MISSING))),
        _cell(_number(record.atoms, "d")),
        _cell(_number(heat_capacity(row, temperature), ".4f")),
        _cell(f"{float(thermo.heat_capacity_per_atom(record.atoms or 1)):.3f}"),
        _cell(f"{EV_PER_MOLECULE * float(thermo.entropy):.1f}"),
        _cell(f"{float(thermo.zero_point_energy):.3f}"),
        *compared,
        _cell(_number(record.imaginary_modes, "d"), _bad(_imaginary(row, settings))),
        _cell(_number(record.lowest_frequency, ".1f"), _bad(_soft(row, settings))),
        _cell(_number(record.largest_force, ".1e"), _bad(_not_at_rest(row, settings))),
        _cell(_number(record.gradients, "d"), _bad(_not_converged(row, settings))),
        _cell(_duration(seconds)),
    ]


def _compared(row: Row, reference: Reference) -> tuple[str, str]:
    """The value of a reference, and the relative error of ours at its temperature."""
    value = reference.values.get(row.record.name)
    if value is None or not np.isfinite(value) or not value > 0:
        return _cell(MISSING), _cell(MISSING)
    error = relative_error(row, reference)
    return _cell(f"{value:.4f}"), _cell(MISSING if error is None else f"{100 * error:+.1f}")


def _spectra(images: Mapping[str, Image]) -> str:
    names = [name for name in images if name.startswith("spectra")]
    if not names:
        return ""
    note = "Vibrational densities of states, imaginary modes below zero, in red."
    if len(names) > 1:
        note += " Darker where there are more modes, each structure for itself; sorted by size."
    figures = [_figure(images, name, note if name == names[0] else "") for name in names]
    return "<h2>Spectra</h2>" + "".join(figures)


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
        "mesh averages over waves through many cells. Errors are C<sub>V</sub>/reference - 1, and "
        "R<sup>2</sup> is the share of the variance of the references that the values explain as "
        "they are. Force is the largest on any atom, steps are energies with gradients that "
        "the relaxation took, and time is that of relaxation and vibrations.</p>"
    )


def _figure(images: Mapping[str, Image], name: str, caption: str) -> str:
    data = base64.b64encode(images[name].data).decode()
    note = f'<figcaption class="note">{caption}</figcaption>' if caption else ""
    alt = escape(name.replace("_", " ").replace("-", " "))
    style = f"--inches: {images[name].inches:g}"
    image = f'<img alt="{alt}" style="{style}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}{note}</figure>"


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]], kind: str) -> str:
    """A table that scrolls where it is too wide, of cells from `_head` and `_cell`."""
    head = "".join(f'<th scope="col">{heading}</th>' for heading in headings)
    head = f"<thead><tr>{head}</tr></thead>" if headings else ""
    body = "\n".join(f"<tr>{''.join(line)}</tr>" for line in lines)
    return f'<div class="wide"><table class="{kind}">{head}<tbody>\n{body}\n</tbody></table></div>'


def _head(content: str, anchor: str = "") -> str:
    place = f' id="{anchor}"' if anchor else ""
    return f'<th scope="row"{place}>{content}</th>'


def _cell(content: str, kind: str = "", span: int = 1) -> str:
    return f'<td class="{kind}" colspan="{span}">{content}</td>'


def _bad(finding: str | None) -> str:
    return "bad" if finding else ""


def _link(number: int, name: str) -> str:
    """A way to the line of a structure."""
    return f'<a href="#s{number}">{_text(name)}</a>'


def _text(words: str) -> str:
    """Text as HTML, with exponents of units raised."""
    return escape(words).replace("cm-1", "cm<sup>-1</sup>")


def _number(value: float | None, form: str) -> str:
    return MISSING if value is None else format(value, form)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
