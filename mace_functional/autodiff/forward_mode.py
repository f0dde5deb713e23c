"""Forward mode in several threads at once.

torch keeps one level of dual numbers for the whole process. The first `torch.func.jvp` opens it,
and where that one ends the level is closed, with the tangents of every other thread. `jvp` here
opens the level for all threads; the last one closes it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from mace_functional.autodiff.torch_internals import eager_transforms, forward_ad


def jvp(function: Callable[..., Any], primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
    """`torch.func.jvp(function, primals, tangents)`, which other threads may call meanwhile.

    Args:
        function: Takes and returns tensors.
        primals: Its arguments.
        tangents: Their tangents, of the same shapes.

    Returns:
        The value, and its tangent.
    """
    if torch.compiler.is_compiling():
        return torch.func.jvp(function, primals, tangents)
    with _level():
        return torch.func.jvp(function, primals, tangents)


class _Shared:
    """The level of dual numbers, and how many calls of `jvp` need it."""

    lock = threading.Lock()
    calls = 0
    opened = False


@contextmanager
def _level() -> Iterator[None]:
    """Keep the level open; `torch.func.jvp` opens none where the count of nested ones is not 0."""
    with _Shared.lock:
        if not eager_transforms.JVP_NESTING:
            forward_ad.enter_dual_level()
            _Shared.opened = True
        _Shared.calls += 1
        eager_transforms.JVP_NESTING += 1
    try:
        yield
    finally:
        with _Shared.lock:
            eager_transforms.JVP_NESTING -= 1
            _Shared.calls -= 1
            if _Shared.opened and not _Shared.calls:
                _Shared.opened = False
                forward_ad.exit_dual_level(level=0)
