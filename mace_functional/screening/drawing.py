"""Figures as images: a structure that cannot be drawn is left out, and the others are drawn.

A figure is drawn with all structures. If that fails, bisection finds the structures that cannot be
drawn, and the figure is drawn once more without them.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from matplotlib.figure import Figure

from mace_functional.screening.page import PngFigure, ShownFigure
from mace_functional.screening.rows import Row

RESOLUTION = 160
"""Resolution of images, pixels per inch."""

LARGEST = 2**22
"""Largest number of pixels of an image. The largest figures here have half of it; a larger image
has a wrong size and is not drawn."""


@dataclass
class Drawn:
    """Images of figures, and the structures that are not on them.

    Attributes:
        images: The images in their order.
        left_out: Reasons by the names of structures that could not be drawn.
        failure: Reason why there are no images; None if there are images, or nothing to draw.
    """

    images: list[PngFigure] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    failure: str | None = None

    def shown(self, name: str, alt: str, caption: str) -> ShownFigure:
        """The images with a name to link to, a text in their place, and a caption."""
        return ShownFigure(name, alt, caption, self.images, self.left_out, self.failure)


Draw = Callable[[Sequence[Row]], Sequence[Figure]]


def drawn(draw: Draw, rows: Sequence[Row]) -> Drawn:
    """Draw figures of structures, leaving out those that cannot be drawn.

    Args:
        draw: Makes figures of any subset of the structures; may raise any exception.
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
    """Reasons by the names of structures that cannot be drawn even alone."""
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
