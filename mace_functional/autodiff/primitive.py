"""Operations with their own derivative rules, exact under every nesting of function transforms.

torch keeps a stack of the active transforms (grad, jvp, vmap). When a primitive is called, torch
removes the top transform, and the primitive's rule for it (`vjp`, `jvp`, `compute_batch`) runs
under the remaining ones. Rules consist of primitives and plain torch operations, so derivatives of
any order follow. When the stack is empty, `compute` runs on plain tensors: it may work in blocks,
write in place and keep results. Under nested `vmap`s the lowest level computes all batches at once.

`torch.autograd.Function` cannot be used instead: its forward-mode rule is silently wrong when
nested (pytorch issue 197867).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.func import vjp, vmap
from typing_extensions import override

from mace_functional.autodiff.batches import only_vmap_is_active
from mace_functional.autodiff.forward_mode import jvp
from mace_functional.autodiff.torch_internals import (
    TransformType,
    _add_batch_dim,
    _SingleLevelFunction,
    _unwrap_for_grad,
    _wrap_for_grad,
    eager_transforms,
    enable_single_level_autograd_function,
    forward_ad,
    maybe_get_level,
    retrieve_current_functorch_interpreter,
    transforms_are_active,
    unwrap_batched,
    unwrap_if_dead,
)

T = TypeVar("T")
Arguments = Sequence[Any]
"""Tensors; None stands for an absent one."""
Dimensions = Sequence[int | None]
Outputs = tuple[Tensor, ...]


class Primitive(ABC):
    """An operation from tensors to a tuple of tensors; call it like a function.

    A subclass implements `value`, and may override the rules: without a rule, `value` is
    differentiated. Arguments may be None.
    """

    def __call__(self, *args: Any) -> Outputs:
        """Compute the value under the active transforms."""
        if torch.compiler.is_compiling() or self.is_recorded(args):
            return self.value(*args)
        return _call(self, *args)

    @abstractmethod
    def value(self, *args: Any) -> Outputs:
        """Compute the value in plain torch operations and other primitives."""

    def is_recorded(self, args: Arguments) -> bool:
        """True to let torch record and differentiate the operations of `value`, without rules."""
        return False

    def compute(self, *args: Any) -> Outputs:
        """Compute the value of plain tensors that are not being differentiated."""
        return self.value(*args)

    def compute_batch(self, args: Arguments, dims: Dimensions) -> Outputs | None:
        """Compute the values of a batch of plain tensors; None to use `vmap(value)` instead.

        `dims` holds the batch dimension of each argument. The results have the batch dimension in
        front.
        """
        return None

    def compute_nested_batch(self, args: Arguments, levels: Sequence[Dimensions]) -> Outputs | None:
        """Compute the values of batches within batches of plain tensors; None to use `vmap`.

        `levels` holds the batch dimensions of each level, from the outermost; each is counted
        without those of the levels before. The results have the batch dimensions in this order in
        front.
        """
        return self.compute_batch(args, levels[0]) if len(levels) == 1 else None

    def compute_nested_jvp(
        self, args: Arguments, tangents: Arguments, levels: Sequence[Dimensions]
    ) -> tuple[Outputs, Outputs] | None:
        """Compute values and tangents of batches within batches; None to compute them apart.

        `levels` holds the batch dimensions of the arguments, followed by those of the tangents.
        """
        return None

    def joins(self, args: Arguments, tangents: Arguments) -> bool:
        """Return True to compute value and tangents of batches by `compute_nested_jvp`."""
        return False

    def compute_jvp(self, args: Arguments, tangents: Arguments) -> tuple[Outputs, Outputs | None]:
        """Compute value and tangents of plain tensors; override if both together are cheaper."""
        return self.compute(*args), self.jvp(args, tangents)

    def jvp(self, args: Arguments, tangents: Arguments) -> Outputs | None:
        """Return the tangents of the results; the tangent of a constant argument is None."""
        return self.plain_jvp(args, tangents)

    def vjp(self, args: Arguments, cotangents: Outputs, needed: Sequence[bool]) -> Arguments:
        """Return one cotangent for each argument; None if it is not needed."""
        return self.plain_vjp(args, cotangents, needed)

    def vjp_of_batch(
        self, args: Arguments, dims: Dimensions, cotangents: Outputs, needed: Sequence[bool]
    ) -> Arguments | None:
        """Return the cotangents of the arguments of a batch; None to map the rule over the batch.

        Without it, `value` of the whole batch is differentiated by arguments that have no batch
        dimension. Override it to compute one point after the other, in the memory of one.

        Args:
            args: Arguments.
            dims: Batch dimension of each argument.
            cotangents: Cotangents of the results, the batch in front.
            needed: For each argument, True if its cotangent is needed.
        """
        return None

    def plain_jvp(self, args: Arguments, tangents: Arguments) -> Outputs | None:
        """Return the tangents of the results by differentiating `value`; None if all are None."""
        places = [i for i, t in enumerate(tangents) if t is not None]
        if not places:
            return None
        primals = tuple(args[i] for i in places)
        directions = tuple(tangents[i] for i in places)
        return jvp(self._of_places(args, places), primals, directions)[1]

    def plain_vjp(self, args: Arguments, cotangents: Outputs, needed: Sequence[bool]) -> list[Any]:
        """Return the cotangents of the arguments by differentiating `value`."""
        places = [i for i, need in enumerate(needed) if need]
        out: list[Any] = [None] * len(args)
        if places:
            pull_back = vjp(self._of_places(args, places), *(args[i] for i in places))[1]
            for place, cotangent in zip(places, pull_back(cotangents), strict=True):
                out[place] = cotangent
        return out

    def _of_places(self, args: Arguments, places: Sequence[int]) -> Callable[..., Outputs]:
        """Return `value` as a function of the arguments at some places, the others constant."""

        def function(*variables: Tensor) -> Outputs:
            all_args = list(args)
            for place, variable in zip(places, variables, strict=True):
                all_args[place] = variable
            return self.value(*all_args)

        return function


def add_outputs(*terms: Outputs | None) -> Outputs | None:
    """Add tuples of tensors term by term; None stands for a term that is zero."""
    present = [term for term in terms if term is not None]
    if not present:
        return None
    return tuple(sum(parts[1:], parts[0]) for parts in zip(*present, strict=True))


class Memo:
    """A cache of one entry: the last result of a function, and the tensors it was computed from.

    A tensor that was changed in place counts as a new one. Tensors and result are replaced in one
    step, so several threads may use the cache at once.
    """

    def __init__(self) -> None:
        self._last: tuple[_Versions, Any] = ([], None)

    @property
    def result(self) -> Any:
        """The stored result; None if there is none."""
        return self._last[1]

    def get(self, tensors: Sequence[Tensor | None]) -> Any:
        """Return the result stored for these tensors; None if there is none."""
        stored, result = self._last
        return result if _all_same(_versions(tensors), stored) else None

    def note(self, tensors: Sequence[Tensor | None]) -> bool:
        """Remember these tensors; return True if they were the last remembered ones already."""
        versions = _versions(tensors)
        if _all_same(versions, self._last[0]):
            return True
        self._last = versions, None
        return False

    def get_or_build(self, tensors: Sequence[Tensor | None], build: Callable[[], T]) -> T:
        """Return the result stored for these tensors; call `build()` if there is none."""
        versions = _versions(tensors)
        stored, result = self._last
        if result is None or not _all_same(versions, stored):
            del stored, result
            self._last = versions, None  # the old result is freed before the new one is made
            result = build()
            self._last = versions, result
        return result


_Versions = list[tuple[Tensor | None, int]]
"""Tensors, with the number of in-place changes of each."""


def _versions(tensors: Sequence[Tensor | None]) -> _Versions:
    return [(t, _version(t)) for t in tensors]


def _all_same(a: _Versions, b: _Versions) -> bool:
    return len(a) == len(b) and all(map(_same, a, b))


def _version(tensor: Tensor | None) -> int:
    """Return the number of in-place changes; 0 in inference mode, which does not count them."""
    return 0 if tensor is None or tensor.is_inference() else tensor._version


def _same(one: tuple[Tensor | None, int], other: tuple[Tensor | None, int]) -> bool:
    """True if two tensors are the same, or views of the same memory as forward mode makes."""
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


def _call(primitive: Primitive, *args: Any) -> Outputs:
    """Evaluate a primitive: by its rule for the top transform, or on plain tensors."""
    if transforms_are_active():
        interpreter = retrieve_current_functorch_interpreter()
        alive = (None if a is None else unwrap_if_dead(a) for a in args)
        return _RULES[interpreter.key()](interpreter, primitive, *alive)
    if is_plain(args):
        return primitive.compute(*map(_detached, args))
    if _have_tangents(args):
        return primitive.value(*args)
    return _PlainNode.apply(primitive, *args)


def _detached(tensor: Any) -> Any:
    """Return a tensor that does not require grad, so that transforms in `compute` ignore it."""
    return tensor.detach() if tensor is not None and tensor.requires_grad else tensor


def is_plain(args: Arguments) -> bool:
    """True if no transform is active, and no argument requires grad or is a dual number."""
    if transforms_are_active():
        return False
    if torch.is_grad_enabled() and any(a is not None and a.requires_grad for a in args):
        return False
    return not _have_tangents(args)


def _have_tangents(args: Arguments) -> bool:
    """True if an argument is a dual number; outside of transforms."""
    if forward_ad._current_level < 0 or eager_transforms.JVP_NESTING:
        return False  # jvp keeps its dual numbers on wrappers
    return any(a is not None and forward_ad.unpack_dual(a).tangent is not None for a in args)


def _vmap(interpreter: Any, primitive: Primitive, *args: Any) -> Outputs:
    """Evaluate a primitive under `vmap`: as the primitive that maps it."""
    level = interpreter.level()
    low, dims = unwrap_batched(args, level)
    with interpreter.lower():
        if all(dim is None for dim in dims):
            return _call(primitive, *low)
        out = _call(_Mapped(primitive, dims), *low)
    return tuple(_add_batch_dim(t, 0, level) for t in out)


def _unexpanded(tensor: Tensor) -> Tensor:
    """Return a tensor in which every entry has memory of its own."""
    expanded = any(
        n > 1 and not step for n, step in zip(tensor.shape, tensor.stride(), strict=True)
    )
    return tensor.clone(memory_format=torch.contiguous_format) if expanded else tensor


class _Mapped(Primitive):
    """A primitive under `vmap`, whose results have the batch dimension in front.

    Its rules are those of the primitive under `vmap`. So under `vmap` again, the primitive sees the
    dimensions of both batches, and of a derivative's rule too only the lowest level computes.
    """

    def __init__(self, primitive: Primitive, dims: Dimensions) -> None:
        self.primitive, self.dims = primitive, tuple(dims)

    @override
    def value(self, *args: Any) -> Outputs:
        # A dual number writes its tangent into the layout of its value, which must not be expanded.
        return tuple(map(_unexpanded, vmap(self.primitive.value, self.dims)(*args)))

    @override
    def compute(self, *args: Any) -> Outputs:
        out = self.primitive.compute_nested_batch(args, [self.dims])
        return self.value(*args) if out is None else out

    @override
    def compute_batch(self, args: Arguments, dims: Dimensions) -> Outputs | None:
        return self.compute_nested_batch(args, [dims])

    @override
    def compute_nested_batch(self, args: Arguments, levels: Sequence[Dimensions]) -> Outputs | None:
        return self.primitive.compute_nested_batch(args, [*levels, self.dims])

    @override
    def jvp(self, args: Arguments, tangents: Arguments) -> Outputs | None:
        n, pairs = len(args), zip(self.dims, tangents, strict=True)
        dims = (*self.dims, *(None if t is None else dim for dim, t in pairs))

        def rule(*both: Any) -> Outputs:
            return self.primitive.jvp(both[:n], both[n:]) or ()

        return vmap(rule, dims)(*args, *tangents) or None

    @override
    def vjp(self, args: Arguments, cotangents: Outputs, needed: Sequence[bool]) -> Arguments:
        """Return the cotangents; those of arguments without a batch are sums over the batch."""
        joint = self.primitive.vjp_of_batch(args, self.dims, cotangents, needed)
        if joint is not None:
            return joint
        pairs = list(zip(self.dims, needed, strict=True))
        out = self.plain_vjp(args, cotangents, [need and dim is None for dim, need in pairs])
        mapped = [need and dim is not None for dim, need in pairs]
        n, places = len(args), [i for i, need in enumerate(mapped) if need]

        def rule(*both: Any) -> Outputs:
            found = self.primitive.vjp(both[:n], both[n:], mapped)
            return tuple(found[i] for i in places)

        if places:
            found = vmap(rule, (*self.dims, *[0] * len(cotangents)))(*args, *cotangents)
            for place, cotangent in zip(places, found, strict=True):
                out[place] = cotangent.movedim(0, self.dims[place] or 0)
        return out


class _WithTangents(Primitive):
    """Values and tangents of a primitive, from arguments followed by their tangents."""

    def __init__(self, primitive: Primitive) -> None:
        self.primitive = primitive

    @override
    def value(self, *args: Any) -> Outputs:
        primals, tangents = _halves(args)
        out = self.primitive(*primals)
        return _with_tangents(out, self.primitive.jvp(primals, tangents))

    @override
    def compute(self, *args: Any) -> Outputs:
        return _with_tangents(*self.primitive.compute_jvp(*_halves(args)))

    @override
    def compute_batch(self, args: Arguments, dims: Dimensions) -> Outputs | None:
        return self.compute_nested_batch(args, [dims])

    @override
    def compute_nested_batch(self, args: Arguments, levels: Sequence[Dimensions]) -> Outputs | None:
        results = self.primitive.compute_nested_jvp(*_halves(args), levels)
        return None if results is None else _with_tangents(*results)


def _with_tangents(out: Outputs, tangents: Outputs | None) -> Outputs:
    """Return results followed by their tangents, which are zero if there are none."""
    return *out, *(map(torch.zeros_like, out) if tangents is None else tangents)


def _halves(both: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    half = len(both) // 2
    return both[:half], both[half:]


def _functionalize(interpreter: Any, primitive: Primitive, *args: Any) -> Outputs:
    """Evaluate a primitive under `functionalize`: by its value, in plain operations."""
    return primitive.value(*args)


def _forward(interpreter: Any, primitive: Primitive, *args: Any) -> Outputs:
    """Evaluate a primitive under `jvp`: by its rule `jvp` or `compute_jvp`."""
    level = interpreter.level()
    pairs = [_unpacked(a, level) for a in args]
    primals, tangents = (tuple(part) for part in zip(*pairs, strict=True))
    with interpreter.lower():
        out_tangents: Outputs | None = None
        if all(t is None for t in tangents):
            out = _call(primitive, *primals)
        elif is_plain((*primals, *tangents)):
            out, out_tangents = primitive.compute_jvp(primals, tangents)
        elif only_vmap_is_active() and primitive.joins(primals, tangents):
            both = _call(_WithTangents(primitive), *primals, *tangents)
            out, out_tangents = (tuple(part) for part in _halves(both))
        else:
            out, out_tangents = _call(primitive, *primals), primitive.jvp(primals, tangents)
    wrapped = (_wrap_for_grad(t, level) for t in out)
    return tuple(
        primal
        if tangent is None
        else forward_ad.make_dual(primal, _wrap_for_grad(tangent, level), level=0)
        for primal, tangent in zip(wrapped, out_tangents or [None] * len(out), strict=True)
    )


def _unpacked(tensor: Tensor | None, level: int) -> tuple[Tensor | None, Tensor | None]:
    """Return primal and tangent of a tensor, unwrapped by one level."""
    if tensor is None or maybe_get_level(tensor) != level:
        return tensor, None
    # The wrapper holds the tangent of this level, always under number 0.
    primal, tangent = forward_ad.unpack_dual(tensor, level=0)
    return _unwrapped(primal, level), _unwrapped(tangent, level)


def _reverse(interpreter: Any, primitive: Primitive, *args: Any) -> Outputs:
    """Evaluate a primitive under `grad` or `vjp`: its rule `vjp` runs in the backward pass."""
    lift = interpreter._cptr.lift
    lifted = (None if a is None else lift(a) for a in args)
    with enable_single_level_autograd_function():
        return _Node.apply(interpreter, primitive, *lifted)  # type: ignore[attr-defined]


class _Node(_SingleLevelFunction):
    """The autograd node of a primitive, for one level of reverse mode."""

    @staticmethod
    def forward(interpreter: Any, primitive: Primitive, *args: Any) -> Outputs:
        level = interpreter.level()
        low = (_unwrapped(a, level) for a in args)
        # Lower levels differentiate this call too, so they must record it.
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


class _PlainNode(torch.autograd.Function):
    """The autograd node of a primitive for `torch.autograd` without transforms."""

    @staticmethod
    def forward(ctx: Any, primitive: Primitive, *args: Any) -> Outputs:
        ctx.primitive, ctx.args = primitive, args
        return primitive.compute(*map(_detached, args))

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        return None, *ctx.primitive.vjp(ctx.args, cotangents, ctx.needs_input_grad[1:])


def _unwrapped(tensor: Tensor | None, level: int) -> Tensor | None:
    return None if tensor is None else _unwrap_for_grad(tensor, level)


_RULES: dict[Any, Callable[..., Outputs]] = {
    TransformType.Vmap: _vmap,
    TransformType.Functionalize: _functionalize,
    TransformType.Jvp: _forward,
    TransformType.Grad: _reverse,
}
