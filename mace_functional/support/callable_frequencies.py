"""Frequencies that can still be called with a unit, like the former method, for one release.

`MeshModes.frequencies` and `LowestModes.frequencies` were methods. They are now tensors in cm-1.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class CallableFrequencies(Tensor):
    """Tensor that can be called; results of operations on it, and copies, are plain tensors."""

    __torch_function__ = torch.nn.Parameter.__torch_function__  # plain tensors come out
    _in_unit: Callable[[str], Tensor]

    def __call__(self, unit: str = "cm-1") -> Tensor:
        """Return the frequencies in a unit, with a warning that `frequencies_in` replaces it."""
        warnings.warn(
            "frequencies(unit) is now frequencies_in(unit), and frequencies are those in cm-1; "
            "the call will go with the next release",
            DeprecationWarning,
            stacklevel=2,
        )
        return self._in_unit(unit)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return repr(self.as_subclass(Tensor))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.as_subclass(Tensor).__reduce_ex__(protocol)

    def __deepcopy__(self, memo: Any) -> Tensor:
        return self.as_subclass(Tensor).__deepcopy__(memo)


def callable_frequencies(values: Tensor, in_unit: Callable[[str], Tensor]) -> Tensor:
    """Return a tensor of frequencies that can be called with a unit.

    Args:
        values: Frequencies in cm-1; a plain tensor, outside of transforms.
        in_unit: Function that returns the frequencies in a unit.
    """
    frequencies = values.as_subclass(CallableFrequencies)
    frequencies._in_unit = in_unit
    return frequencies
