"""The console that subcommands print to: what comes from outside is printed as it is.

Names of files, models and structures may hold what rich takes for markup (`[bold]`, `[/x]`) or for
an emoji (`:smile:`). Nothing is read as markup here; bold text is printed with a style. Nothing is
coloured by its look either: rich would colour the digits inside of a unit or of a formula.
"""

from __future__ import annotations

from typing import Any

import rich.console
from rich.status import Status
from rich.text import Text

BOLD = "bold"
"""Style of what must not be overlooked."""


class Console(rich.console.Console):
    """A console without markup, emoji and guessed colours.

    Args:
        **options: Of rich's console; `stderr=True` prints to standard error.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def status(self, status: Any, **options: Any) -> Status:
        """A line of progress; a string is shown as it is."""
        return super().status(as_it_is(status), **options)

    def on_broken_pipe(self) -> None:
        """Leave it to `main` what happens when the reader of a pipe is gone."""
        raise BrokenPipeError


def as_it_is(text: Any) -> Any:
    """A string that rich does not read as markup, for a status and its updates."""
    return Text(text) if isinstance(text, str) else text
