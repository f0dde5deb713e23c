"""Operations with derivative rules of their own, exact under every nesting of function transforms.

torch keeps a stack of the active transforms (grad, jvp, vmap). When a primitive is called, the top
one is taken off and the primitive's rule for it (`vjp`, `jvp`, `compute_batch`) runs under the
remaining ones. Rules are made of primitives and plain torch operations, so derivatives of any order
follow. When the stack is empty, `compute` runs on plain tensors: it may work in blocks, write in
place and keep results.

`torch.autograd.Function` will not do: its forward-mode rule is silently wrong when nested (pytorch
issue 197867).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.func import vjp, vmap

from mace_functional.autodiff.forward_mode import jvp
from mace_functional.autodiff.torch_internals import (
    HigherOrderOperator,
    TransformType,
    _add_batch_dim,
    _SingleLevelFunction,
    _unwrap_for_grad,
    _wrap_for_grad,
    eager_transforms,
    enable_single_level_autograd_function,
    forward_ad,
    maybe_get_level,
    transforms_are_active,
    unwrap_batched,
)

T = TypeVar("T")
Arguments = Sequence[Any]
"""Tensors, and None for absent ones."""
Dimensions = Sequence[int | None]
Outputs = tuple[Tensor, ...]


class Primitive(ABC):
    """An operation from tensors to a tuple of tensors; call it like a function.

    `value` has to be given. Rules that are not given fall back on differentiating it. Arguments
    that are None are passed on as they are.
    """

    def __call__(self, *args: Any) -> Outputs:
        """The value, under whatever transforms are active."""
        if torch.compiler.is_compiling():
            return self.value(*args)
        return _call(self, *args)

    @abstractmethod
    def value(self, *args: Any) -> Outputs:
        """The value, in plain torch operations and other primitives."""

    def compute(self, *args: Any) -> Outputs:
        """The value of plain tensors that nothing differentiates."""
        return self.value(*args)

    def compute_batch(self, args: Arguments, dims: Dimensions) -> Outputs | None:
        """The same for a batch, along dimensions `dims`; None to have `value` mapped.

        The results have the batch in front.
        """
        return None

    def compute_jvp(self, args: Arguments, tangents: Arguments) -> tuple[Outputs, Outputs | None]:
        """Results and their tangents of plain tensors, for where both together cost less."""
        return self.compute(*args), self.jvp(args, tangents)

    def jvp(self, args: Arguments, tangents: Arguments) -> Outputs | None:
        """Tangents of the results; a tangent is None where an argument has none."""
        return self.plain_jvp(args, tangents)

    def vjp(self, args: Arguments, cotangents: Outputs, needed: Sequence[bool]) -> Arguments:
        """One cotangent for each argument, None where it is not needed."""
        return self.plain_vjp(args, cotangents, needed)

    def plain_jvp(self, args: Arguments, tangents: Arguments) -> Outputs | None:
        """Tangents of the results, by differentiating `value`; None if there is no tangent."""
        places = [i for i, t in enumerate(tangents) if t is not None]
        if not places:
            return None
        primals = tuple(args[i] for i in places)
        directions = tuple(tangents[i] for i in places)
        return jvp(self._of(args, places), primals, directions)[1]

    def plain_vjp(self, args: Arguments, cotangents: Outputs, needed: Sequence[bool]) -> list[Any]:
        """Cotangents of the arguments, by differentiating `value`."""
        places = [i for i, need in enumerate(needed) if need]
        out: list[Any] = [None] * len(args)
        if places:
            pull_back = vjp(self._of(args, places), *(args[i] for i in places))[1]
            for place, cotangent in zip(places, pull_back(cotangents), strict=True):
                out[place] = cotangent
        return out

    def _of(self, args: Arguments, places: Sequence[int]) -> Callable[..., Outputs]:
        """The value as a function of some arguments."""

        def function(*moved: Tensor) -> Outputs:
            every = list(args)
            for place, value in zip(places, moved, strict=True):
                every[place] = value
            return self.value(*every)

        return function


def add_outputs(*terms: Outputs | None) -> Outputs | None:
    """Their sum; None for no terms."""
    present = [term for term in terms if term is not None]
    if not present:
        return None
    return tuple(sum(parts[1:], parts[0]) for parts in zip(*present, strict=True))


class Memo:
    """The last result of a function, kept as long as it is asked for with the same tensors.

    Tensors and result are replaced together, in one step: several threads may ask at once.
    """

    def __init__(self) -> None:
        self._last: tuple[_Versions, Any] = ([], None)

    @property
    def result(self) -> Any:
        """The last result; None if there is none."""
        return self._last[1]

    def get(self, tensors: Sequence[Tensor | None]) -> Any:
        """The result for these tensors, unchanged since; None if there is none."""
        known, result = self._last
        return result if _all_same(_versions(tensors), known) else None

    def note(self, tensors: Sequence[Tensor | None]) -> bool:
        """Whether these tensors were the last that came, unchanged; from now on they are."""
        asked = _versions(tensors)
        if _all_same(asked, self._last[0]):
            return True
        self._last = asked, None
        return False

    def get_or_build(self, tensors: Sequence[Tensor | None], build: Callable[[], T]) -> T:
        """The result for these tensors: `build()`, or what it returned the last time."""
        asked = _versions(tensors)
        known, result = self._last
        if result is None or not _all_same(asked, known):
            del known, result
            self._last = asked, None  # what was kept is released before more is made
            result = build()
            self._last = asked, result
        return result


_Versions = list[tuple[Tensor | None, int]]
"""Tensors, and how often each was changed in place."""


def _versions(tensors: Sequence[Tensor | None]) -> _Versions:
    return [(t, _version(t)) for t in tensors]


def _all_same(asked: _Versions, known: _Versions) -> bool:
    return len(asked) == len(known) and all(map(_same, asked, known))


def _version(tensor: Tensor | None) -> int:
    """Counts the changes in place; inference mode keeps no count."""
    return 0 if tensor is None or tensor.is_inference() else tensor._version


def _same(one: tuple[Tensor | None, int], other: tuple[Tensor | None, int]) -> bool:
    """Whether two tensors are one; forward mode makes views of what it unpacks."""
    (a, version_a), (b, version_b) = one, other
    if version_a != version_b or a is b or a is None or b is None:
        return version_a == version_b and a is b
    return (
        type(a) is type(b) is Tensor
        and a.data_ptr() == b.data_ptr()
        and a.shape == b.shape
        and a.stride() == b.stride()
        and a.dtype == b.dtype
    )


class _Call(HigherOrderOperator):
    """The entry into torch's stack of transforms."""

    def __init__(self) -> None:
        super().__init__("mace_functional_primitive")

    def __call__(self, primitive: Primitive, *args: Any) -> Outputs:
        if transforms_are_active():
            return super().__call__(primitive, *args)
        return primitive.compute(*args) if _is_plain(args) else primitive.value(*args)


_call = _Call()


def _is_plain(args: Arguments) -> bool:
    """Whether nothing differentiates or maps: no transform, no `backward()`, no dual numbers."""
    if transforms_are_active():
        return False
    tensors = [a for a in args if a is not None]
    if torch.is_grad_enabled() and any(a.requires_grad for a in tensors):
        return False
    if forward_ad._current_level < 0 or eager_transforms.JVP_NESTING:
        return True  # a transform that uses dual numbers keeps them on its wrappers
    return all(forward_ad.unpack_dual(a).tangent is None for a in tensors)


@_call.py_impl(TransformType.Vmap)
def _vmap(interpreter: Any, primitive: Primitive, *args: Any) -> Outputs:
    level = interpreter.level()
    low, dims = unwrap_batched(args, level)
    with interpreter.lower():
        if all(dim is None for dim in dims):
            return _call(primitive, *low)
        out = None
        if _is_plain(low):
            out = primitive.compute_batch(low, dims)
        if out is None:
            out = vmap(primitive.value, dims)(*low)
    return tuple(_add_batch_dim(t, 0, level) for t in out)


@_call.py_impl(TransformType.Functionalize)
def _functionalize(interpreter: Any, primitive: Primitive, *args: Any) -> Outputs:
    return primitive.value(*args)


@_call.py_impl(TransformType.Jvp)
def _forward(interpreter: Any, primitive: Primitive, *args: Any) -> Outputs:
    level = interpreter.level()
    pairs = [_unpacked(a, level) for a in args]
    primals, tangents = (tuple(part) for part in zip(*pairs, strict=True))
    with interpreter.lower():
        moved: Outputs | None = None
        if all(t is None for t in tangents):
            out = _call(primitive, *primals)
        elif _is_plain((*primals, *tangents)):
            out, moved = primitive.compute_jvp(primals, tangents)
        else:
            out, moved = _call(primitive, *primals), primitive.jvp(primals, tangents)
    wrapped = (_wrap_for_grad(t, level) for t in out)
    return tuple(
        primal
        if tangent is None
        else forward_ad.make_dual(primal, _wrap_for_grad(tangent, level), level=0)
        for primal, tangent in zip(wrapped, moved or [None] * len(out), strict=True)
    )


def _unpacked(tensor: Tensor | None, level: int) -> tuple[Tensor | None, Tensor | None]:
    """Primal and tangent, one level down."""
    if tensor is None or maybe_get_level(tensor) != level:
        return tensor, None
    # The tangent of this level lives on the wrapper, whatever the level's number is.
    primal, tangent = forward_ad.unpack_dual(tensor, level=0)
    return _unwrapped(primal, level), _unwrapped(tangent, level)


@_call.py_impl(TransformType.Grad)
def _reverse(interpreter: Any, primitive: Primitive, *args: Any) -> Outputs:
    with enable_single_level_autograd_function():
        return _Node.apply(interpreter, primitive, *args)  # type: ignore[attr-defined]


class _Node(_SingleLevelFunction):
    """One level of reverse mode."""

    @staticmethod
    def forward(interpreter: Any, primitive: Primitive, *args: Any) -> Outputs:
        level = interpreter.level()
        low = (_unwrapped(a, level) for a in args)
        # Lower levels track what happens here: it is part of their computation.
        with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True), interpreter.lower():
            out = _call(primitive, *low)
        return tuple(_wrap_for_grad(t, level) for t in out)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        interpreter, ctx.primitive, *args = inputs
        ctx.low = tuple(_unwrapped(a, interpreter.level()) for a in args)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        needed = ctx.needs_input_grad[2:]
        return None, None, *ctx.primitive.vjp(ctx.low, cotangents, needed)


def _unwrapped(tensor: Tensor | None, level: int) -> Tensor | None:
    return None if tensor is None else _unwrap_for_grad(tensor, level)
