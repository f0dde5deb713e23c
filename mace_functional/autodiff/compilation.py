"""`torch.compile` with a check of the compiled results against plain ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from mace_functional.autodiff.concrete import is_concrete
from mace_functional.autodiff.torch_internals import pytree

T = TypeVar("T")

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4}
"""Largest accepted error of compiled results, over the largest absolute plain result.

With a larger error, the plain function is used and a warning is given.
"""


def compile_checked(function: Callable[..., T], **options: Any) -> Callable[..., T]:
    """Compile a function, and use the compiled one only where its results are right.

    The first call with arguments of new shapes also computes the plain function and compares:
    compiled second derivatives were wrong in several versions of torch, without an error (pytorch
    issues 190855 and 192985). If results differ, or the compiler fails, a warning is given, and the
    plain function is used for these shapes from then on. The plain function also runs under
    transforms: write `compile_checked(hvp(E))`, not `hvp(compile_checked(E))`.

    Args:
        function: A function, such as `grad(E)`, from tensors to tensors; both may be in containers.
        **options: Options of `torch.compile`: backend, mode, fullgraph, ...

    Returns:
        A function of the same arguments.

    Example:
        >>> double = compile_checked(lambda x: 2 * x, backend="eager")
        >>> double(torch.ones(2))
        tensor([2., 2.])
    """
    fast = torch.compile(function, **options)
    trusted: dict[Any, bool] = {}

    def checked(*args: Any) -> T:
        if not all(
            is_concrete(leaf) for leaf in pytree.tree_leaves(args) if isinstance(leaf, Tensor)
        ):
            return function(*args)
        signature = _signature(args)
        if signature not in trusted:
            expected = function(*args)
            problem = _problem(fast, args, expected)
            trusted[signature] = problem is None
            if problem is not None:
                warnings.warn(
                    f"torch.compile {problem}; the plain function is used for these shapes",
                    stacklevel=2,
                )
            return expected
        return fast(*args) if trusted[signature] else function(*args)

    return checked


def _signature(args: Any) -> Any:
    """Structure of the arguments, with shape, dtype and device of each tensor."""
    leaves, structure = pytree.tree_flatten(args)
    kinds = (
        (tuple(leaf.shape), leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else repr(leaf)
        for leaf in leaves
    )
    return str(structure), tuple(kinds)


def _problem(fast: Callable[..., T], args: Any, expected: T) -> str | None:
    """Describe the error of the compiled function for these arguments; None if it has none."""
    try:
        results = fast(*args)
    except Exception as error:  # compilers raise errors of any class
        first_line = str(error).strip().partition("\n")[0]
        return f"failed ({type(error).__name__}: {first_line})"
    pairs = list(zip(pytree.tree_leaves(results), pytree.tree_leaves(expected), strict=True))
    for a, b in pairs:
        if not isinstance(b, Tensor) or not b.is_floating_point() or not b.numel():
            continue
        deviation = (a - b).abs().max() / b.abs().max().clamp_min(torch.finfo(b.dtype).tiny)
        if not deviation <= TOLERANCES.get(b.dtype, 1e-2):
            return f"gives another result (relative error {float(deviation):.0e})"
    return None
