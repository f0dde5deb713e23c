"""Short texts of results: a line for `print`, a table for a notebook.

A line names the class, the system, the most important numbers, and warnings. Under a transform
there are no values, and the line shows shapes.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from mace_functional.autodiff.concrete import is_concrete

MAX_PRINTED_VALUES = 4
"""Largest number of values of a tensor that are printed singly.

For longer tensors, the smallest and the largest value are printed.
"""


def result_text(result: Any, *facts: str | None) -> str:
    """Return one line for a result: its class and the facts that are not None.

    >>> result_text(1.5, "a number", None, "half of 3")
    'float(a number; half of 3)'
    """
    return f"{type(result).__name__}({'; '.join(fact for fact in facts if fact)})"


def values_text(values: Tensor, unit: str, digits: str = ".1f") -> str:
    """Return the values of a short tensor as text, and the range of a long one.

    Args:
        values: Tensor of any shape.
        unit: Unit of the values; may be empty.
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
    if len(numbers) <= MAX_PRINTED_VALUES:
        return f"{', '.join(f'{x:{digits}}' for x in numbers)} {unit}".rstrip()
    return f"{min(numbers):{digits}} to {max(numbers):{digits}} {unit}".rstrip()


def frequencies_text(frequencies: Tensor, unit: str) -> str:
    """Return the range of signed frequencies, and the number of imaginary (negative) ones, as text.

    >>> import torch
    >>> frequencies_text(torch.tensor([-20.0, 10.0, 30.0, 40.0, 50.0]), "cm-1")
    '-20.0 to 50.0 cm-1, 1 imaginary'
    """
    text = values_text(frequencies, unit)
    if not is_concrete(frequencies) or not frequencies.numel():
        return text
    return f"{text}, {int((frequencies < 0).sum()) or 'none'} imaginary"


def html_table(caption: str, columns: Mapping[str, Sequence[str]]) -> str:
    """Return an HTML table for a notebook.

    Args:
        caption: Text above the table.
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
