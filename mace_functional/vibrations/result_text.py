"""Short texts of results: a line for `print`, a table for a notebook.

A line names the class and says what the result is of, the numbers one looks for, and what to beware
of. Under a transform there are no numbers to read; the line then has shapes.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from mace_functional.autodiff.concrete import is_concrete

FEW = 4
"""Numbers of a tensor that are printed one by one; of more, the lowest and the highest are."""


def result_text(result: Any, *facts: str | None) -> str:
    """One line for a result: its class and some facts, without those that are None.

    >>> result_text(1.5, "a number", None, "half of 3")
    'float(a number; half of 3)'
    """
    return f"{type(result).__name__}({'; '.join(fact for fact in facts if fact)})"


def values_text(values: Tensor, unit: str, digits: str = ".1f") -> str:
    """The numbers of a tensor if they are few, or else the lowest and the highest.

    Args:
        values: Any shape.
        unit: Their unit; may be empty.
        digits: Format of a number.

    >>> import torch
    >>> values_text(torch.tensor([1.0, 2.5]), "eV")
    '1.0, 2.5 eV'
    >>> values_text(torch.arange(7.0), "cm-1")
    '0.0 to 6.0 cm-1'
    """
    if not is_concrete(values):
        return f"shape {tuple(values.shape)}"
    if not values.numel():
        return "none"
    numbers = values.detach().flatten().tolist()
    if len(numbers) <= FEW:
        return f"{', '.join(f'{x:{digits}}' for x in numbers)} {unit}".rstrip()
    return f"{min(numbers):{digits}} to {max(numbers):{digits}} {unit}".rstrip()


def frequencies_text(frequencies: Tensor, unit: str) -> str:
    """Range of signed frequencies, and how many of them are imaginary, thus negative.

    >>> import torch
    >>> frequencies_text(torch.tensor([-20.0, 10.0, 30.0, 40.0, 50.0]), "cm-1")
    '-20.0 to 50.0 cm-1, 1 imaginary'
    """
    shown = values_text(frequencies, unit)
    if not is_concrete(frequencies) or not frequencies.numel():
        return shown
    return f"{shown}, {int((frequencies < 0).sum()) or 'none'} imaginary"


def html_table(caption: str, columns: Mapping[str, Sequence[str]]) -> str:
    """A table as a notebook shows it.

    Args:
        caption: Says what the table is of.
        columns: Cells by heading, from top to bottom.
    """
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in zip(*columns.values(), strict=True)
    )
    return (
        f"<p>{html.escape(caption)}</p><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )
