"""Figures as images, of which one structure that cannot be drawn takes nothing away.

A figure is drawn of all structures. Only if that fails, halves of them are drawn, and halves of
those that fail, down to single structures; and then the figure once more without these.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from matplotlib.figure import Figure

from mace_functional.screening.page import PngFigure
from mace_functional.screening.rows import Row

RESOLUTION = 160
"""Pixels in an inch."""

LARGEST = 2**22
"""Most pixels of an image. The largest that figures here ask for have half of that; an image beyond
it comes from a bad size, and is not drawn."""


@dataclass
class Drawn:
    """Images of figures, and what is not on them.

    Attributes:
        images: In their order.
        left_out: Names of structures that could not be drawn, with the reason.
        failure: Why there are no images; None if there are, or there is nothing to draw.
    """

    images: list[PngFigure] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    failure: str | None = None


Draw = Callable[[Sequence[Row]], Sequence[Figure]]


def drawn(draw: Draw, rows: Sequence[Row]) -> Drawn:
    """Draw figures of structures, without those that cannot be drawn.

    Args:
        draw: Makes figures of any of the structures; may raise anything.
        rows: The structures.
    """
    if not rows:
        return Drawn()
    try:
        return Drawn(_images(draw(rows)))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    left_out = _culprits(draw, rows)
    good = [row for row in rows if row.record.name not in left_out]
    if not left_out or not good:
        return Drawn(left_out=left_out, failure=reason)
    try:
        return Drawn(_images(draw(good)), left_out)
    except Exception as error:
        return Drawn(left_out=left_out, failure=f"{type(error).__name__}: {error}")


def _culprits(draw: Draw, rows: Sequence[Row]) -> dict[str, str]:
    """Structures that cannot be drawn even alone, with the reason."""
    try:
        _images(draw(rows))
    except Exception as error:
        if len(rows) == 1:
            return {rows[0].record.name: f"{type(error).__name__}: {error}"}
        half = len(rows) // 2
        return _culprits(draw, rows[:half]) | _culprits(draw, rows[half:])
    return {}


def _images(figures: Sequence[Figure]) -> list[PngFigure]:
    return [_image(figure) for figure in figures]


def _image(figure: Figure) -> PngFigure:
    """A figure as PNG.

    Raises:
        ValueError: If it has more than `LARGEST` pixels.
    """
    width, height = (int(RESOLUTION * inches) for inches in figure.get_size_inches())
    if width * height > LARGEST:
        raise ValueError(f"the figure would have {width} x {height} pixels")
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # names in any script
        figure.savefig(buffer, format="png", dpi=RESOLUTION)
    return PngFigure(buffer.getvalue(), figure.get_figwidth())
