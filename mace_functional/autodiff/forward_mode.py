"""Forward-mode differentiation in several threads at once.

torch keeps one level of dual numbers for the whole process. The first call of `torch.func.jvp`
opens it, and closes it when it returns: other threads then lose their tangents. The `jvp` of this
module shares the level between threads, and the last call to return closes it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from mace_functional.autodiff.torch_internals import eager_transforms, forward_ad


def jvp(function: Callable[..., Any], primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
    """Compute `torch.func.jvp(function, primals, tangents)`; safe in several threads at once.

    Args:
        function: A function from tensors to tensors.
        primals: Arguments of the function.
        tangents: Tangents of the arguments, of the same shapes.

    Returns:
        The value, and its tangent.
    """
    if torch.compiler.is_compiling():
        return torch.func.jvp(function, primals, tangents)
    with _level():
        return torch.func.jvp(function, primals, tangents)


class _Shared:
    """State that threads share: the number of running calls of `jvp`, and who opened the level."""

    lock = threading.Lock()
    calls = 0
    opened = False


@contextmanager
def _level() -> Iterator[None]:
    """Keep the level of dual numbers open.

    `torch.func.jvp` opens and closes the level only if `JVP_NESTING` is 0 when it is called.
    """
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
