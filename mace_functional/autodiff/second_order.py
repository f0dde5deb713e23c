"""Derivative rules for operations with formulas for their first and second derivatives.

An operation is `y = F(x; rest)`, with variables x and further tensors `rest`. With cotangents g of
y, all derivatives up to second order by x follow from `Phi(x, g; rest) = <g, F(x; rest)>`:

    value               y = dPhi/dg
    gradient            dPhi/dx
    product             d2Phi/dx2 v  (the Hessian of Phi times v)  and  d2Phi/dg dx v = dF/dx v

Each of the three is a primitive, and its rules call the others:

    of the value        reverse mode is the gradient, forward mode is the product dF/dx v
    of the gradient     reverse and forward mode by x are products; it is linear in g
    of the product      reverse mode by v is a product and a gradient; it is linear in v

Derivatives by `rest`, and higher derivatives by x, are taken of the formulas themselves, which are
plain torch operations.

Each formula has three strategies:

    differentiable      under transforms: all at once, out of place, nothing is kept
    streamed            plain tensors and one vector: in blocks, intermediates are discarded
    cached              plain tensors and many vectors: from intermediates that were made once

A batch of points x is joined to one point (`batches`), at which the same strategies apply.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Hashable, Sequence
from copy import copy
from functools import cached_property
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor
from typing_extensions import override

from mace_functional.autodiff.batches import NestedBatch, Places, batch_levels
from mace_functional.autodiff.primitive import (
    Arguments,
    Dimensions,
    Memo,
    Outputs,
    Primitive,
    add_outputs,
)

Strategy = Literal["differentiable", "streamed", "cached"]
Tensors = Sequence[Tensor]


class Primals(NamedTuple):
    """The point at which an operation is differentiated.

    Attributes:
        x: Variables.
        rest: Further tensors.
        g: Cotangents of y; empty if the Hessian of Phi is not needed.
    """

    x: Tensors
    rest: Tensors
    g: Tensors = ()


class Vectors(NamedTuple):
    """A vector in the space of x or of y, or a batch of them.

    Attributes:
        tensors: One for each tensor of x or y.
        dims: Batch dimension of each tensor; None if it has none.
    """

    tensors: Tensors
    dims: Dimensions

    @property
    def batched(self) -> bool:
        """True if one of the tensors has a batch dimension."""
        return any(dim is not None for dim in self.dims)

    @classmethod
    def single(cls, tensors: Tensors) -> Vectors:
        """Make a single vector, without a batch."""
        return cls(tensors, [None] * len(tensors))


class Wanted(NamedTuple):
    """The parts of a product that the caller needs.

    Attributes:
        hessian: True for `d2Phi/dx2 v`.
        pushforward: True for `dF/dx v`.
        optional: True to include the Hessian's rows of the optional variables.
    """

    hessian: bool
    pushforward: bool
    optional: bool


class SecondOrderOperation(ABC):
    """An operation `y = F(x; rest)` with formulas for its derivatives.

    Make one object for each call: intermediates that the formulas keep are freed with it. Results
    of a batch have the batch dimension in front.

    Attributes:
        outputs: Number of tensors in y.
        required: Number of variables in x that are always differentiated together.
        optional: Number of variables after them, differentiated only if a derivative needs them.
    """

    outputs: int
    required: int
    optional: int = 0

    def apply(self, x: Tensors, rest: Tensors) -> Outputs:
        """Compute y, with rules for its derivatives."""
        return _Value(self)(*x, *rest)

    @abstractmethod
    def value(self, at: Primals, strategy: Strategy) -> Outputs:
        """Compute `F(x; rest)`."""

    @abstractmethod
    def gradient(self, at: Primals, g: Vectors, optional: bool, strategy: Strategy) -> Outputs:
        """Compute `dPhi/dx` for cotangents g; by the optional variables too if `optional`."""

    @abstractmethod
    def product(self, at: Primals, v: Vectors, wanted: Wanted, strategy: Strategy) -> Outputs:
        """Compute `d2Phi/dx2 v` and `dF/dx v`, in this order, those that are wanted.

        v may end before the optional variables: their parts of v are then zero.
        """

    def value_along(self, at: Primals, v: Tensors) -> tuple[Outputs, Outputs] | None:
        """Compute `F` and `dF/dx v` of plain tensors; None if both together are not cheaper."""
        return None

    def gradient_along(
        self, at: Primals, v: Tensors, dg: Arguments, optional: bool
    ) -> tuple[Outputs, Outputs] | None:
        """Compute `dPhi/dx` and its derivative along v and dg, of plain tensors.

        None if both together are not cheaper. dg is None for a cotangent that is constant.
        """
        return None

    def joined(
        self, count: int, x: Tensors, rest: Tensors, mapped: Sequence[bool]
    ) -> tuple[SecondOrderOperation, Tensors] | None:
        """Return the operation on several points joined to one, and its further tensors.

        Each variable of the joined point is that of the points one after the other, along the first
        dimension; so is each result.

        Args:
            count: Number of points.
            x: Variables of the joined point.
            rest: Further tensors. Those that differ between the points have a first dimension of
                size `count`.
            mapped: For each of them, True if it differs between the points.

        Returns:
            The operation and its `rest`; None if the points cannot be joined.
        """
        return None

    @cached_property
    def memos(self) -> defaultdict[Hashable, Memo]:
        """Joined points, and the operations on them, of the batches that were last computed."""
        return defaultdict(Memo)


class _PhiDerivative(Primitive):
    """Base of the three primitives, which are derivatives of Phi: value, gradient and product.

    The arguments are v, g, x and rest, or some of these, in this order. The primitive is linear in
    the first `n_linear` of them. The first `n_ruled` have rules here; by all others the formula
    itself is differentiated.
    """

    n_linear = 0
    derivative: Wanted
    """The product that is the derivative by x, if x has a rule."""

    def __init__(
        self, operation: SecondOrderOperation, v: int, g: int, *, x_ruled: bool = True
    ) -> None:
        self.operation = operation
        self.variables = operation.required + operation.optional
        self.ends = v, v + g, v + g + self.variables
        self.n_ruled = self.ends[2] if x_ruled else v

    @abstractmethod
    def evaluate(self, at: Primals, linear: Vectors, strategy: Strategy) -> Outputs:
        """Compute the formula with one of the strategies."""

    @abstractmethod
    def pull_back(self, args: Arguments, cotangents: Outputs, needed: Sequence[bool]) -> Arguments:
        """Return cotangents of the arguments with rules; those missing at the end are zero."""

    def evaluate_along(
        self, at: Primals, v: Tensors, dg: Arguments
    ) -> tuple[Outputs, Outputs] | None:
        """Compute the formula and its derivative along v and dg; None if that is not cheaper."""
        return None

    @override
    def value(self, *args: Any) -> Outputs:
        return self._evaluate(args, [None] * len(args), "differentiable")

    @override
    def compute(self, *args: Any) -> Outputs:
        return self._evaluate(args, [None] * len(args), "streamed")

    @override
    def compute_batch(self, args: Arguments, dims: Dimensions) -> Outputs | None:
        if any(dim is not None for dim in dims[self.n_linear :]):
            return self.compute_nested_batch(args, [dims])
        return self._evaluate(args, dims, "cached")

    @override
    def compute_nested_batch(self, args: Arguments, levels: Sequence[Dimensions]) -> Outputs | None:
        joint = self._joint(args, levels)
        if joint is None:
            return None
        batch, primitive, primals = joint
        linear = zip(args[: self.n_linear], zip(*levels, strict=True), strict=False)
        vectors = [batch.vectors(tensor, places) for tensor, places in linear]
        dims = [*(dim for _, dim in vectors), *[None] * len(primals)]
        strategy: Strategy = "cached" if batch.has_vectors else "streamed"
        out = primitive._evaluate([*(v for v, _ in vectors), *primals], dims, strategy)
        return tuple(map(batch.restored, out))

    @override
    def joins(self, args: Arguments, tangents: Arguments) -> bool:
        k = self.n_linear
        if any(t is not None for t in tangents[self.n_ruled :]):
            return False
        return batch_levels((*args[:k], *tangents)) <= batch_levels(args[k:])

    @override
    def compute_nested_jvp(
        self, args: Arguments, tangents: Arguments, levels: Sequence[Dimensions]
    ) -> tuple[Outputs, Outputs] | None:
        joint = self._joint(args, [dims[: len(args)] for dims in levels])
        if joint is None or joint[0].has_vectors:
            return None
        batch, primitive, primals = joint
        places = list(zip(*levels, strict=True))
        linear = zip(args[: self.n_linear], places, strict=False)
        moved = [
            None if t is None else self._point(("tangent", i - self.ends[1]), t, place, batch)
            for i, (t, place) in enumerate(zip(tangents, places[len(args) :], strict=True))
        ]
        all_args = [*(batch.point(*both) for both in linear), *primals]
        out, d_out = primitive.compute_jvp(all_args, moved)
        assert d_out is not None
        return tuple(map(batch.restored, out)), tuple(map(batch.restored, d_out))

    def _joint(
        self, args: Arguments, levels: Sequence[Dimensions]
    ) -> tuple[NestedBatch, Self, list[Tensor]] | None:
        """Return the batch, and at its joined point the primitive and all but linear arguments.

        The levels along which some of these arguments vary are joined. None if that is impossible.
        """
        k = self.n_linear
        joined = [any(dim is not None for dim in dims[k:]) for dims in levels]
        batch = NestedBatch.of(args, levels, joined)
        if not any(joined):
            return batch, self, list(args[k:])
        places = list(
            zip(*(d for d, join in zip(levels, joined, strict=True) if join), strict=True)
        )
        if not batch.count:
            return None
        variables = [
            self._point(i - self.ends[1], args[i], places[i], batch.points)
            for i in range(k, self.ends[2])
        ]
        joint = self._rest_of_points(args, variables[-self.variables :], places, batch.points)
        if joint is None:
            return None
        primitive = copy(self)
        primitive.operation, rest = joint
        return batch, primitive, [*variables, *rest]

    def _rest_of_points(
        self, args: Arguments, x: Tensors, places: Sequence[Places], points: NestedBatch
    ) -> tuple[SecondOrderOperation, Tensors] | None:
        """Return the operation on joined points and its further tensors."""
        operation, end = self.operation, self.ends[2]
        rest, rest_places = args[end:], places[end:]

        def build() -> tuple[SecondOrderOperation, Tensors] | None:
            mapped = [any(dim is not None for dim in place) for place in rest_places]
            stacked = [
                points.stacked(tensor, place) if differs else tensor
                for tensor, place, differs in zip(rest, rest_places, mapped, strict=True)
            ]
            return operation.joined(points.count, x, stacked, mapped)

        joint: tuple[SecondOrderOperation, Tensors] | None
        joint = operation.memos["joined", *rest_places, points].get_or_build(rest, build)
        return joint

    def _point(self, name: Hashable, tensor: Tensor, places: Places, points: NestedBatch) -> Tensor:
        """Return a tensor of the joined point; the same one as long as the argument is the same."""
        memo = self.operation.memos[name, places, points]
        return memo.get_or_build([tensor], lambda: points.point(tensor, places))

    def _evaluate(self, args: Arguments, dims: Dimensions, strategy: Strategy) -> Outputs:
        linear = Vectors(args[: self.n_linear], dims[: self.n_linear])
        return self.evaluate(self._primals(args), linear, strategy)

    def _primals(self, args: Arguments) -> Primals:
        v, g, x = self.ends
        return Primals(args[g:x], args[x:], args[v:g])

    @override
    def compute_jvp(self, args: Arguments, tangents: Arguments) -> tuple[Outputs, Outputs | None]:
        results, v = None, self._tangents(args, tangents)
        if v is not None and all(t is None for t in tangents[self.n_ruled :]):
            results = self.evaluate_along(self._primals(args), v, tangents[: self.n_linear])
        return super().compute_jvp(args, tangents) if results is None else results

    @override
    def jvp(self, args: Arguments, tangents: Arguments) -> Outputs | None:
        by_linear, by_x, k = None, None, self.n_linear
        if any(t is not None for t in tangents[:k]):
            by_linear = self(*filled(tangents[:k], args[:k]), *args[k:])
        v = self._tangents(args, tangents)
        if v is not None:
            by_x = _Product(self.operation, len(v), self.derivative)(*v, *args)
        others = (*[None] * self.n_ruled, *tangents[self.n_ruled :])
        return add_outputs(by_linear, by_x, self.plain_jvp(args, others))

    def _tangents(self, args: Arguments, tangents: Arguments) -> list[Tensor] | None:
        """Return the tangents of x, without optional ones that are all None; None if all are."""
        start, end = self.n_linear, self.n_ruled
        if all(t is None for t in tangents[start:end]):
            return None
        required = start + self.operation.required
        if all(t is None for t in tangents[required:end]):
            end = required
        return filled(tangents[start:end], args[start:end])

    @override
    def vjp(self, args: Arguments, cotangents: Outputs, needed: Sequence[bool]) -> Arguments:
        k = self.n_ruled
        out = self.plain_vjp(args, cotangents, (*[False] * k, *needed[k:]))
        if any(needed[:k]):
            ruled = self.pull_back(args, cotangents, needed[:k])
            out[: len(ruled)] = ruled
        return out


class _Value(_PhiDerivative):
    """The value `F(x; rest)` as a primitive; arguments x, rest."""

    derivative = Wanted(hessian=False, pushforward=True, optional=False)

    def __init__(self, operation: SecondOrderOperation) -> None:
        super().__init__(operation, 0, 0)

    @override
    def evaluate(self, at: Primals, linear: Vectors, strategy: Strategy) -> Outputs:
        return self.operation.value(at, strategy)

    @override
    def evaluate_along(
        self, at: Primals, v: Tensors, dg: Arguments
    ) -> tuple[Outputs, Outputs] | None:
        return self.operation.value_along(at, v)

    @override
    def pull_back(self, args: Arguments, cotangents: Outputs, needed: Sequence[bool]) -> Arguments:
        optional = any(needed[self.operation.required :])
        return _Gradient(self.operation, optional)(*cotangents, *args)


class _Gradient(_PhiDerivative):
    """The gradient `dPhi/dx` as a primitive; arguments g, x, rest."""

    def __init__(self, operation: SecondOrderOperation, optional: bool) -> None:
        super().__init__(operation, 0, operation.outputs)
        self.n_linear, self.optional = operation.outputs, optional
        self.derivative = Wanted(hessian=True, pushforward=False, optional=optional)

    @override
    def evaluate(self, at: Primals, linear: Vectors, strategy: Strategy) -> Outputs:
        return self.operation.gradient(at, linear, self.optional, strategy)

    @override
    def evaluate_along(
        self, at: Primals, v: Tensors, dg: Arguments
    ) -> tuple[Outputs, Outputs] | None:
        return self.operation.gradient_along(at, v, dg, self.optional)

    @override
    def pull_back(self, args: Arguments, cotangents: Outputs, needed: Sequence[bool]) -> Arguments:
        k = self.n_linear
        g_needed, x_needed = needed[:k], needed[k:]
        wanted = Wanted(any(x_needed), any(g_needed), any(x_needed[self.operation.required :]))
        product = _Product(self.operation, len(cotangents), wanted)
        products = product(*cotangents, *(args if wanted.hessian else args[k:]))
        if not wanted.pushforward:
            return [*[None] * k, *products]
        return [*products[-k:], *products[:-k]]


class _Product(_PhiDerivative):
    """The products `d2Phi/dx2 v` and `dF/dx v` as a primitive; arguments v, g, x, rest.

    Without the Hessian there is no g.
    """

    def __init__(self, operation: SecondOrderOperation, v: int, wanted: Wanted) -> None:
        super().__init__(operation, v, operation.outputs if wanted.hessian else 0, x_ruled=False)
        self.n_linear, self.wanted = v, wanted

    @override
    def evaluate(self, at: Primals, linear: Vectors, strategy: Strategy) -> Outputs:
        return self.operation.product(at, linear, self.wanted, strategy)

    @override
    def pull_back(self, args: Arguments, cotangents: Outputs, needed: Sequence[bool]) -> Arguments:
        """Return the transposed matrices times the cotangents; the Hessian is symmetric."""
        primals, by_hessian, by_pushforward = args[self.n_linear :], None, None
        optional = self.n_linear > self.operation.required
        if self.wanted.hessian:
            rows = self.variables if self.wanted.optional else self.operation.required
            w, cotangents = cotangents[:rows], cotangents[rows:]
            by_hessian = _Product(self.operation, rows, Wanted(True, False, optional))(*w, *primals)
            primals = primals[self.operation.outputs :]
        if self.wanted.pushforward:
            by_pushforward = _Gradient(self.operation, optional)(*cotangents, *primals)
        return add_outputs(by_hessian, by_pushforward) or ()


def filled(tangents: Arguments, primals: Arguments) -> list[Tensor]:
    """Return the tangents, with zeros in place of None."""
    pairs = zip(tangents, primals, strict=True)
    return [torch.zeros_like(p) if t is None else t for t, p in pairs]
