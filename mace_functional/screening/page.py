"""The page of a report: a Jinja2 template with its style and script, filled with plain data.

The page holds all it shows. All text is escaped, so that names and reasons may have any characters.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

LONGEST = 1000
"""Most characters of a name or a reason, so that a page grows with its structures alone."""


class PngFigure(NamedTuple):
    """A figure as PNG, and its width in inches."""

    data: bytes
    inches: float


class Heading(NamedTuple):
    """Heading of a column, and the unit below it."""

    words: str
    unit: str = ""


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
        words: Text of the cell.
        value: Number to sort by; None to sort by the text.
        kind: Classes of the cell in the style sheet.
        span: Number of columns that the cell takes.
        formula: True for a chemical formula, whose numbers are subscripts.
        links: Words and addresses to show in place of the text.
    """

    words: str
    value: float | None = None
    kind: str = ""
    span: int = 1
    formula: bool = False
    links: Sequence[tuple[str, str]] = ()


class TableRow(NamedTuple):
    """A row of a table: its name, its cells, and a name to link to."""

    name: str
    cells: Sequence[Cell]
    anchor: str = ""


@dataclass(frozen=True)
class ShownFigure:
    """Images with a caption, and the structures that are not on them.

    Attributes:
        name: Beginning of the names to link to: `spectra` for `spectra-1`, `spectra-2`.
        alt: Text in place of an image that is not seen.
        caption: Text below the first image.
        images: The images in their order.
        left_out: Reasons by the names of structures that cannot be drawn.
        failure: Reason why there are no images.
    """

    name: str
    alt: str
    caption: str
    images: Sequence[PngFigure] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    failure: str | None = None


def html_page(data: Mapping[str, Any]) -> str:
    """Fill the template.

    Args:
        data: Values by the names that `template/report.html` uses.
    """
    return _environment().get_template("report.html").render(data)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("mace_functional.screening", "template"),
        autoescape=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "text": as_text,
        "prose": as_prose,
        "formula": as_formula,
        "data_address": data_address,
    }
    return environment


def as_text(words: str) -> Markup:
    """Text of any origin: the middle of long ones is left out, exponents of units are raised."""
    if len(words) > LONGEST:
        words = f"{words[: LONGEST // 2]} … {words[-LONGEST // 2 :]}"
    return Markup(escape(words).replace("cm-1", Markup("cm<sup>-1</sup>")))


def as_prose(words: str) -> Markup:
    """Text of this package: `x` is code, and C_V, C_P, k_B, R^2 and cm-1 are set as formulas."""
    html = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(words)))
    html = re.sub(r"\b([CkR])_([VPB])\b", r"\1<sub>\2</sub>", html)
    return Markup(html.replace("R^2", "R<sup>2</sup>").replace("cm-1", "cm<sup>-1</sup>"))


def as_formula(words: str) -> Markup:
    """A chemical formula with its numbers as subscripts, and a number of units behind it."""
    formula, times, number = str(as_text(words)).partition(" × ")
    return Markup(re.sub(r"(\d+)", r"<sub>\1</sub>", formula) + times + number)


def data_address(image: PngFigure) -> str:
    """Address that holds the image itself."""
    return f"data:image/png;base64,{base64.b64encode(image.data).decode()}"
