"""Console of the command line, which prints all text verbatim.

Names of files, models and structures may contain text that rich reads as markup (`[bold]`, `[/x]`)
or as an emoji (`:smile:`). This console has no markup; bold text is printed with a style. It does
not guess colours either, because rich would colour digits in units and formulas.
"""

from __future__ import annotations

from typing import Any

import rich.console
from rich.status import Status
from rich.text import Text

BOLD = "bold"
"""Style of text that must not be overlooked."""


class Console(rich.console.Console):
    """Console of rich without markup, emoji and guessed colours.

    Args:
        **options: Options of rich's console; `stderr=True` prints to standard error.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def status(self, status: Any, **options: Any) -> Status:
        """Return a line of progress; a string is printed verbatim."""
        return super().status(verbatim(status), **options)

    def on_broken_pipe(self) -> None:
        """Raise an error if the reader of a pipe has closed it; `main` handles it."""
        raise BrokenPipeError


def verbatim(text: Any) -> Any:
    """Return text that rich does not read as markup, for a status and its updates."""
    return Text(text) if isinstance(text, str) else text
