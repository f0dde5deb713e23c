"""Pieces of a page of HTML that holds all it shows: no scripts, no files beside it."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

MISSING = "–"
"""In a cell without a value."""

LONGEST = 1000
"""Most characters of a name or a reason, so that a page grows with its structures alone."""

LARGE = 1e7
"""Numbers from here on are written with an exponent: 1e300 has 300 digits otherwise."""

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
table.doubts td { overflow-wrap: anywhere; }
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


class PngFigure(NamedTuple):
    """A figure as PNG, and its width in inches."""

    data: bytes
    inches: float


def html_page(title: str, body: Sequence[str]) -> str:
    """The page, of a title and parts; empty ones are left out."""
    content = "\n".join(part for part in body if part)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{content}\n</body>\n</html>\n"
    )


def html_figure(image: PngFigure, alt: str, caption: str) -> str:
    """An image in the page itself, with what stands for it where it is not seen, and a caption."""
    data = base64.b64encode(image.data).decode()
    note = f'<figcaption class="note">{caption}</figcaption>' if caption else ""
    style = f"--inches: {image.inches:g}"
    shown = f'<img alt="{escape(alt)}" style="{style}" src="data:image/png;base64,{data}">'
    return f"<figure>{shown}{note}</figure>"


def html_table(headings: Sequence[str], lines: Sequence[Sequence[str]], kind: str) -> str:
    """A table that scrolls where it is too wide, of cells from `head_cell` and `cell`."""
    head = "".join(f'<th scope="col">{heading}</th>' for heading in headings)
    head = f"<thead><tr>{head}</tr></thead>" if headings else ""
    body = "\n".join(f"<tr>{''.join(line)}</tr>" for line in lines)
    return f'<div class="wide"><table class="{kind}">{head}<tbody>\n{body}\n</tbody></table></div>'


def head_cell(content: str, anchor: str = "") -> str:
    """The heading of a row, and a place to link to."""
    place = f' id="{anchor}"' if anchor else ""
    return f'<th scope="row"{place}>{content}</th>'


def cell(content: str, kind: str = "", span: int = 1) -> str:
    """A cell of a row, of one or more columns."""
    return f'<td class="{kind}" colspan="{span}">{content}</td>'


def as_text(words: str) -> str:
    """Text as HTML, with exponents of units raised; of long ones the middle is left out."""
    if len(words) > LONGEST:
        words = f"{words[: LONGEST // 2]} … {words[-LONGEST // 2 :]}"
    return escape(words).replace("cm-1", "cm<sup>-1</sup>")


def printable(words: str) -> str:
    """Words on one line, without characters that a terminal obeys or that cannot be drawn."""
    line = " ".join(words.split())
    return "".join(c if c.isprintable() else "\ufffd" for c in line)


def formatted(value: float | None, form: str) -> str:
    """A number, or a sign that there is none."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:.3g}" if abs(value) >= LARGE else format(value, form)


def counted(number: int, noun: str) -> str:
    """A number of things."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    if not math.isfinite(seconds):
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
