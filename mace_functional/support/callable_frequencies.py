"""Frequencies that may still be called with a unit, as the method of their name was, for a release.

`MeshModes.frequencies` and `LowestModes.frequencies` were methods and are tensors in cm-1 now.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class CallableFrequencies(Tensor):
    """A tensor that can be called; all that is computed from it, or kept of it, is a plain one."""

    __torch_function__ = torch.nn.Parameter.__torch_function__  # plain tensors come out
    _in_unit: Callable[[str], Tensor]

    def __call__(self, unit: str = "cm-1") -> Tensor:
        """The frequencies in a unit, by the old name of `frequencies_in`."""
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
    """Frequencies that can be called with a unit.

    Args:
        values: In cm-1; a plain tensor, outside of transforms.
        in_unit: What a call gives.
    """
    found = values.as_subclass(CallableFrequencies)
    found._in_unit = in_unit
    return found
