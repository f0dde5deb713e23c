"""Operations whose first and second derivatives are formulas: one ladder of rules for all of them.

An operation is `y = F(x; rest)`, of variables x and of further tensors. With cotangents g of y, all
that derivatives up to the second by x need is the potential `Phi(x, g; rest) = <g, F(x; rest)>`:

    value               y = dPhi/dg
    gradient            dPhi/dx
    product             d2Phi/dx2 v  (the Hessian of Phi times v)  and  d2Phi/dg dx v = dF/dx v

The first is linked to the second by reverse mode and to the third by forward mode, the second to
the third by both, and the third, linear and symmetric in v, to itself and the second. Derivatives
by `rest`, and higher ones by x, are those of the formulas, which are plain torch operations.

Each formula is asked for in one of three strategies:

    differentiable      under transforms: all at once, out of place, keeping nothing
    streamed            plain tensors and one vector: in blocks, where intermediates are large
    cached              plain tensors and many vectors: from what was made once and kept
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from mace_functional.autodiff.primitive import (
    Arguments,
    Dimensions,
    Outputs,
    Primitive,
    add_outputs,
)

Strategy = Literal["differentiable", "streamed", "cached"]
Tensors = Sequence[Tensor]


class Primals(NamedTuple):
    """The arguments at which an operation is differentiated.

    Attributes:
        x: Variables.
        rest: Further tensors.
        g: Cotangents of y, where the Hessian of Phi is asked for.
    """

    x: Tensors
    rest: Tensors
    g: Tensors = ()


class Vectors(NamedTuple):
    """A vector in the space of x or of y, or a batch of them.

    Attributes:
        tensors: One for each tensor of x or y.
        dims: Where each has the dimension of the batch; None where it has none.
    """

    tensors: Tensors
    dims: Dimensions

    @property
    def batched(self) -> bool:
        """Whether there is a batch."""
        return any(dim is not None for dim in self.dims)

    @classmethod
    def single(cls, tensors: Tensors) -> Vectors:
        """One vector."""
        return cls(tensors, [None] * len(tensors))


class Wanted(NamedTuple):
    """The parts of a product that are asked for.

    Attributes:
        hessian: `d2Phi/dx2 v`.
        pushforward: `dF/dx v`.
        optional: The Hessian's rows of the optional variables too.
    """

    hessian: bool
    pushforward: bool
    optional: bool


class SecondOrderOperation(ABC):
    """An operation `y = F(x; rest)` with formulas for its derivatives; one object for each call.

    Results that have a batch have it in front. What the formulas keep is released with the object.

    Attributes:
        outputs: How many tensors y has.
        required: How many variables are always differentiated together.
        optional: How many more come after them, differentiated where something depends on them.
    """

    outputs: int
    required: int
    optional: int = 0

    def apply(self, x: Tensors, rest: Tensors) -> Outputs:
        """y, with rules for its derivatives."""
        return _Value(self)(*x, *rest)

    @abstractmethod
    def value(self, at: Primals, strategy: Strategy) -> Outputs:
        """`F(x; rest)`."""

    @abstractmethod
    def gradient(self, at: Primals, g: Vectors, optional: bool, strategy: Strategy) -> Outputs:
        """`dPhi/dx` for cotangents g, by the optional variables too if that is wanted."""

    @abstractmethod
    def product(self, at: Primals, v: Vectors, wanted: Wanted, strategy: Strategy) -> Outputs:
        """`d2Phi/dx2 v` and `dF/dx v`, one after the other, as far as they are wanted.

        v has no optional variables where all of these are zero.
        """

    def value_along(self, at: Primals, v: Tensors) -> tuple[Outputs, Outputs] | None:
        """`F(x; rest)` and `dF/dx v` of plain tensors; None where both together save nothing."""
        return None

    def gradient_along(
        self, at: Primals, v: Tensors, dg: Arguments, optional: bool
    ) -> tuple[Outputs, Outputs] | None:
        """`dPhi/dx` and its change along v and dg, of plain tensors; None as for `value_along`.

        dg has None where a cotangent does not change.
        """
        return None


class _Rung(Primitive):
    """One of the three primitives. Its arguments are v, g, x and rest, or some of these.

    It is linear in the first `linear` of them. The first `ruled` have rules here; derivatives by
    all others are those of the formulas.
    """

    linear = 0
    derivative: Wanted
    """The product that is the derivative by x, where x has a rule."""

    def __init__(
        self, operation: SecondOrderOperation, v: int, g: int, *, x_ruled: bool = True
    ) -> None:
        self.operation = operation
        self.variables = operation.required + operation.optional
        self.ends = v, v + g, v + g + self.variables
        self.ruled = self.ends[2] if x_ruled else v

    @abstractmethod
    def evaluate(self, at: Primals, linear: Vectors, strategy: Strategy) -> Outputs:
        """The formula, in one of the strategies."""

    @abstractmethod
    def pulled(self, args: Arguments, cotangents: Outputs, needed: Sequence[bool]) -> Arguments:
        """Cotangents of the arguments that have rules; the last ones may be left out."""

    def both(self, at: Primals, v: Tensors, dg: Arguments) -> tuple[Outputs, Outputs] | None:
        """The formula and its change along v and dg; None where both together save nothing."""
        return None

    @override
    def value(self, *args: Any) -> Outputs:
        return self._evaluate(args, [None] * len(args), "differentiable")

    @override
    def compute(self, *args: Any) -> Outputs:
        return self._evaluate(args, [None] * len(args), "streamed")

    @override
    def compute_batch(self, args: Arguments, dims: Dimensions) -> Outputs | None:
        if any(dim is not None for dim in dims[self.linear :]):
            return None
        return self._evaluate(args, dims, "cached")

    def _evaluate(self, args: Arguments, dims: Dimensions, strategy: Strategy) -> Outputs:
        linear = Vectors(args[: self.linear], dims[: self.linear])
        return self.evaluate(self._primals(args), linear, strategy)

    def _primals(self, args: Arguments) -> Primals:
        v, g, x = self.ends
        return Primals(args[g:x], args[x:], args[v:g])

    @override
    def compute_jvp(self, args: Arguments, tangents: Arguments) -> tuple[Outputs, Outputs | None]:
        found, v = None, self._tangents(args, tangents)
        if v is not None and all(t is None for t in tangents[self.ruled :]):
            found = self.both(self._primals(args), v, tangents[: self.linear])
        return super().compute_jvp(args, tangents) if found is None else found

    @override
    def jvp(self, args: Arguments, tangents: Arguments) -> Outputs | None:
        along, curved, k = None, None, self.linear
        if any(t is not None for t in tangents[:k]):
            along = self(*filled(tangents[:k], args[:k]), *args[k:])
        v = self._tangents(args, tangents)
        if v is not None:
            curved = _Product(self.operation, len(v), self.derivative)(*v, *args)
        still = [None] * self.ruled
        return add_outputs(along, curved, self.plain_jvp(args, (*still, *tangents[self.ruled :])))

    def _tangents(self, args: Arguments, tangents: Arguments) -> list[Tensor] | None:
        """Tangents of x if x has a rule, the optional ones only if they are not all None."""
        start, end = self.linear, self.ruled
        if all(t is None for t in tangents[start:end]):
            return None
        required = start + self.operation.required
        if all(t is None for t in tangents[required:end]):
            end = required
        return filled(tangents[start:end], args[start:end])

    @override
    def vjp(self, args: Arguments, cotangents: Outputs, needed: Sequence[bool]) -> Arguments:
        k = self.ruled
        out = self.plain_vjp(args, cotangents, (*[False] * k, *needed[k:]))
        if any(needed[:k]):
            found = self.pulled(args, cotangents, needed[:k])
            out[: len(found)] = found
        return out


class _Value(_Rung):
    """`F`, of x and rest."""

    derivative = Wanted(hessian=False, pushforward=True, optional=False)

    def __init__(self, operation: SecondOrderOperation) -> None:
        super().__init__(operation, 0, 0)

    @override
    def evaluate(self, at: Primals, linear: Vectors, strategy: Strategy) -> Outputs:
        return self.operation.value(at, strategy)

    @override
    def both(self, at: Primals, v: Tensors, dg: Arguments) -> tuple[Outputs, Outputs] | None:
        return self.operation.value_along(at, v)

    @override
    def pulled(self, args: Arguments, cotangents: Outputs, needed: Sequence[bool]) -> Arguments:
        optional = any(needed[self.operation.required :])
        return _Gradient(self.operation, optional)(*cotangents, *args)


class _Gradient(_Rung):
    """`dPhi/dx`, of g, x and rest."""

    def __init__(self, operation: SecondOrderOperation, optional: bool) -> None:
        super().__init__(operation, 0, operation.outputs)
        self.linear, self.optional = operation.outputs, optional
        self.derivative = Wanted(hessian=True, pushforward=False, optional=optional)

    @override
    def evaluate(self, at: Primals, linear: Vectors, strategy: Strategy) -> Outputs:
        return self.operation.gradient(at, linear, self.optional, strategy)

    @override
    def both(self, at: Primals, v: Tensors, dg: Arguments) -> tuple[Outputs, Outputs] | None:
        return self.operation.gradient_along(at, v, dg, self.optional)

    @override
    def pulled(self, args: Arguments, cotangents: Outputs, needed: Sequence[bool]) -> Arguments:
        k = self.linear
        of_g, of_x = needed[:k], needed[k:]
        wanted = Wanted(any(of_x), any(of_g), any(of_x[self.operation.required :]))
        product = _Product(self.operation, len(cotangents), wanted)
        found = product(*cotangents, *(args if wanted.hessian else args[k:]))
        if not wanted.pushforward:
            return [*[None] * k, *found]
        return [*found[-k:], *found[:-k]]


class _Product(_Rung):
    """`d2Phi/dx2 v` and `dF/dx v`, of v, g where the Hessian is wanted, x and rest."""

    def __init__(self, operation: SecondOrderOperation, v: int, wanted: Wanted) -> None:
        super().__init__(operation, v, operation.outputs if wanted.hessian else 0, x_ruled=False)
        self.linear, self.wanted = v, wanted

    @override
    def evaluate(self, at: Primals, linear: Vectors, strategy: Strategy) -> Outputs:
        return self.operation.product(at, linear, self.wanted, strategy)

    @override
    def pulled(self, args: Arguments, cotangents: Outputs, needed: Sequence[bool]) -> Arguments:
        """The same matrices, transposed, times cotangents: the Hessian is symmetric."""
        primals, of_hessian, of_pushforward = args[self.linear :], None, None
        optional = self.linear > self.operation.required
        if self.wanted.hessian:
            rows = self.variables if self.wanted.optional else self.operation.required
            w, cotangents = cotangents[:rows], cotangents[rows:]
            of_hessian = _Product(self.operation, rows, Wanted(True, False, optional))(*w, *primals)
            primals = primals[self.operation.outputs :]
        if self.wanted.pushforward:
            of_pushforward = _Gradient(self.operation, optional)(*cotangents, *primals)
        return add_outputs(of_hessian, of_pushforward) or ()


def filled(tangents: Arguments, primals: Arguments) -> list[Tensor]:
    """Tangents, with zeros where there is None."""
    pairs = zip(tangents, primals, strict=True)
    return [torch.zeros_like(p) if t is None else t for t, p in pairs]
