"""The result of a certificate: a table of checks, each with its error, its bound and a verdict."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mace_functional.certificate.comparison import Comparison, Examination, Verdict, worst
from mace_functional.vibrations.result_text import html_table, result_text

WIDTH = 126
"""Width of the table as text, characters."""

STYLES = {
    Verdict.HOLDS: "green",
    Verdict.FAILS: "bold red",
    Verdict.NOT_RESOLVED: "yellow",
    Verdict.NOT_APPLICABLE: "dim",
}


@dataclass(frozen=True)
class Check:
    """One row of a certificate: the result of one check.

    Attributes:
        name: Name of the check.
        compared: Description of the two compared quantities.
        verdict: "holds", "fails", "not resolved" or "not applicable".
        error: Largest difference; None if nothing was compared.
        bound: Largest difference that rounding and the errors of finite differences explain.
        size: Root mean square of the compared quantity.
        unit: Unit of error, bound and size.
        quantity: Quantity to which error, bound and size refer: the worst of several ones.
        reason: Reason for "not resolved" or "not applicable", or the exception; empty otherwise.
    """

    name: str
    compared: str
    verdict: Verdict
    error: float | None = None
    bound: float | None = None
    size: float | None = None
    unit: str = ""
    quantity: str = ""
    reason: str = ""

    @classmethod
    def of(cls, examination: Examination, comparisons: list[Comparison]) -> Check:
        """Return the row of a check that was run."""
        c = worst(comparisons)
        reasons = {
            Verdict.NOT_RESOLVED: "the bound is so large that a relative error of 1e-4 could hide",
            Verdict.NOT_APPLICABLE: f"{c.what} is zero",
        }
        return cls(
            name=examination.name,
            compared=examination.compared,
            verdict=c.verdict,
            error=c.error,
            bound=c.bound,
            size=c.size,
            unit=c.unit,
            quantity=c.what,
            reason=reasons.get(c.verdict, ""),
        )

    @classmethod
    def without(cls, examination: Examination, verdict: Verdict, reason: str) -> Check:
        """Return the row of a check that could not compare anything."""
        return cls(examination.name, examination.compared, verdict, reason=reason)


@dataclass(frozen=True)
class Certificate:
    """Results of the checks of a potential for one structure; `print` shows them as a table.

    Attributes:
        potential: The `repr` of the potential.
        structure: Formula, number of atoms and periodic directions of the structure.
        checks: The rows.
        seconds: Wall time, s.
    """

    potential: str
    structure: str
    checks: tuple[Check, ...]
    seconds: float

    def __iter__(self) -> Iterator[Check]:
        return iter(self.checks)

    def __getitem__(self, name: str) -> Check:
        """Return the check with a name.

        Raises:
            KeyError: If there is no check with this name.
        """
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(f"no check {name!r}; there are {', '.join(c.name for c in self.checks)}")

    @property
    def failed(self) -> tuple[Check, ...]:
        """Checks whose error exceeds the bound."""
        return self._with(Verdict.FAILS)

    @property
    def not_resolved(self) -> tuple[Check, ...]:
        """Checks that could not have found a relative error of 1e-4."""
        return self._with(Verdict.NOT_RESOLVED)

    @property
    def passed(self) -> bool:
        """True if every applicable check holds."""
        return not self.failed and not self.not_resolved

    def as_dict(self) -> dict[str, Any]:
        """Return the certificate as a dictionary for JSON; numbers that are not finite are None."""
        return {
            "potential": self.potential,
            "structure": self.structure,
            "passed": self.passed,
            "seconds": self.seconds,
            "checks": [
                {key: _finite(value) for key, value in vars(check).items()} for check in self.checks
            ],
        }

    def table(self, *, wide: bool = True) -> Table:
        """Return the checks as a table of rich.

        Args:
            wide: Add the column of compared quantities or reasons, for lines of `WIDTH` characters;
                otherwise the table fits into 80.
        """
        title = Text(f"{self.potential}\n{self.structure}, {self.seconds:.1f} s")
        table = Table(
            title=title, caption=Text(self._summary()), box=box.SIMPLE_HEAD, pad_edge=False
        )
        for heading in ("check", "verdict"):
            table.add_column(heading, no_wrap=True)
        for heading in ("error", "bound", "size"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("unit", no_wrap=True)
        if wide:
            table.add_column("compared")
        for c in self.checks:
            numbers = map(_scientific, (c.error, c.bound, c.size))
            cells = [*numbers, c.unit, c.reason or c.compared][: 5 if wide else 4]
            verdict = Text(c.verdict.value, STYLES[c.verdict])
            table.add_row(Text(c.name), verdict, *map(Text, cells))
        return table

    def __repr__(self) -> str:
        return result_text(self, self.potential, self.structure, self._summary())

    def _repr_html_(self) -> str:
        numbers = {
            name: [_scientific(getattr(check, name)) for check in self.checks]
            for name in ("error", "bound", "size")
        }
        columns = {
            "check": [check.name for check in self.checks],
            "verdict": [check.verdict.value for check in self.checks],
            **numbers,
            "unit": [check.unit for check in self.checks],
            "compared": [check.reason or check.compared for check in self.checks],
        }
        return html_table(f"{self.potential}, {self.structure}; {self._summary()}", columns)

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=WIDTH)
        with console.capture() as capture:
            console.print(self.table())
        return capture.get()

    def _summary(self) -> str:
        counts = [
            f"{len(found)} {verdict.value}" for verdict in Verdict if (found := self._with(verdict))
        ]
        return ("passed: " if self.passed else "not passed: ") + ", ".join(counts)

    def _with(self, verdict: Verdict) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.verdict is verdict)


def _scientific(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
