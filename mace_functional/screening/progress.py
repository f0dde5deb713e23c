"""Progress of a screening: a bar over its whole cost, and a line for each structure."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mace_functional.screening.record import Record, Spectrum
from mace_functional.screening.rows import Row
from mace_functional.screening.sampled_thermo import (
    has_imaginary,
    imaginary_words,
    sampled_thermo,
)
from mace_functional.screening.table import ROOM, heat_capacity, heat_capacity_words
from mace_functional.screening.task import Task
from mace_functional.screening.wording import counted, printable

ALWAYS = 1e9
"""Period over which the bar averages the speed, s: from the beginning, as structures take hours."""


class ScreeningProgress:
    """A bar whose length is the cost, so that the remaining time is about right.

    Args:
        tasks: Tasks to do.
        ready: Number of structures that were done, or had failed, before.
        failed: Number of failed structures among them.
        shown: True to show anything.
    """

    def __init__(self, tasks: Iterable[Task], ready: int, failed: int, shown: bool) -> None:
        costs = [task.cost for task in tasks]
        self._ready, self._failed, self._all = ready, failed, ready + len(costs)
        self._shown = shown
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            speed_estimate_period=ALWAYS,
            disable=not (shown and console.is_terminal),
        )
        self._task = self._bar.add_task("Screening", total=sum(costs) or None, state=self._state())
        self._bar.advance(self._task, 0)  # starts the measurement of speed

    def __enter__(self) -> ScreeningProgress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if self._shown:
            self._bar.console.print(text, highlight=False, soft_wrap=True)

    def done(self, task: Task, record: Record) -> None:
        """Note that a structure is done, or has failed."""
        self._ready += 1
        self._failed += record.failure is not None
        self.say(_line(task, record))
        self._bar.advance(self._task, task.cost)
        self._bar.update(self._task, state=self._state())

    def _state(self) -> str:
        failed = f", {self._failed} failed" if self._failed else ""
        return f"{self._ready}/{self._all}{failed}"


def _line(task: Task, record: Record) -> str:
    """Line for a structure: size, time and heat capacity, or the reason of its failure."""
    name = escape(printable(record.name))
    if record.failure is not None:
        return f"[bold]{name} failed:[/bold] {escape(printable(record.failure))}"
    sampled, kelvin = sampled_thermo(record), ROOM
    if sampled is None:
        row = Row(record, Spectrum.load(task.folder))
    else:
        row = Row(record, None, sampled=sampled)
        kelvin = min(sampled.temperatures.tolist(), key=lambda t: abs(t - ROOM))
    seconds = (record.seconds_relaxation or 0) + (record.seconds_modes or 0)
    words = [counted(record.n_atoms or 0, "atom"), f"{seconds:.1f} s"]
    if heat_capacity(row, kelvin) is not None:
        words.append(f"Cv {heat_capacity_words(row, kelvin)} J/(g K) at {kelvin:g} K")
    if record.converged is False:
        words.append("[bold]not relaxed[/bold]")
    if has_imaginary(record):
        words.append(f"[bold]imaginary modes: {imaginary_words(record)}[/bold]")
    return f"{name}: {', '.join(words)}"
