"""Short texts for results: what `print` and a notebook show of them."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from torch import Tensor

from mace_functional.autodiff.concrete import is_concrete

FEW = 4
"""Numbers that are shown; of more the shape is."""

LONGEST = 60
"""Characters of the text of any other value."""


def summary(result: Any) -> str:
    """The class of a result, and of each field its value if it is short, or its shape or size.

    As `__repr__` of a dataclass or NamedTuple it takes the place of the text that prints all
    tensors. It reads values of plain tensors only, so it works under transforms.

    >>> from typing import NamedTuple
    >>> class Sizes(NamedTuple):
    ...     few: list[float]
    ...     many: np.ndarray
    >>> summary(Sizes([1.0, 2.5], np.zeros((20, 3))))
    'Sizes(few=[1, 2.5], many=(20, 3))'
    """
    names = [f.name for f in fields(result)] if is_dataclass(result) else result._fields
    shown = ", ".join(f"{name}={_text(getattr(result, name))}" for name in names)
    return f"{type(result).__name__}({shown})"


def _text(value: Any) -> str:
    if isinstance(value, Tensor):
        if not is_concrete(value) or value.numel() > FEW:
            return str(tuple(value.shape))
        return _text(value.tolist())
    if isinstance(value, np.ndarray):
        return str(value.shape) if value.size > FEW else _text(value.tolist())
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        if len(value) > FEW:
            return f"{len(value)} entries"
        inside = ", ".join(_text(entry) for entry in value)
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    if callable(value) and hasattr(value, "__name__"):
        return str(value.__name__)
    text = str(value) if hasattr(value, "get_chemical_formula") else repr(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
