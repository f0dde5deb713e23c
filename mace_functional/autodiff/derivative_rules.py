"""Derivative rules for operations with formulas for their derivatives.

Value, gradient, product and product along w of a `SecondOrderOperation` are primitives, whose rules
call each other:

    of the value        reverse mode is the gradient, forward mode is the product dF/dx v
    of the gradient     reverse and forward mode by x are products; it is linear in g
    of the product      reverse and forward mode by x are products along a vector; it is linear in
                        v and in g
    along w             it is linear in v and in w, and symmetric

Derivatives by `rest`, and higher derivatives by x, are taken of the formulas themselves, which are
plain torch operations.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Sequence
from copy import copy
from typing import Any, Self

import torch
from torch import Tensor
from typing_extensions import override

from mace_functional.autodiff.batches import NestedBatch, Places, batch_levels
from mace_functional.autodiff.concrete import is_differentiated
from mace_functional.autodiff.primitive import (
    Arguments,
    Dimensions,
    Outputs,
    Primitive,
    add_outputs,
)
from mace_functional.autodiff.second_order import (
    Primals,
    SecondOrderOperation,
    Strategy,
    Tensors,
    Vectors,
    Wanted,
    filled,
)


def apply_operation(operation: SecondOrderOperation, x: Tensors, rest: Tensors) -> Outputs:
    """Compute y of an operation, with rules for its derivatives."""
    return _Value(operation)(*x, *rest)


class _PhiDerivative(Primitive):
    """Base of the four primitives, which are derivatives of Phi.

    The arguments are vectors, g, x and rest, or some of these, in this order. The first `n_linear`
    of them may be a batch of vectors at one point. The first `n_ruled` have rules here; by all
    others the formula itself is differentiated.
    """

    n_linear = 0

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
    def push_forward(self, args: Arguments, tangents: Arguments) -> Outputs | None:
        """Return the tangents of the results from those of the arguments with rules."""

    @abstractmethod
    def pull_back(self, args: Arguments, cotangents: Outputs, needed: Sequence[bool]) -> Arguments:
        """Return cotangents of the arguments with rules; those missing at the end are zero."""

    def evaluate_along(
        self, at: Primals, v: Tensors, dg: Arguments
    ) -> tuple[Outputs, Outputs] | None:
        """Compute the formula and its derivative along v and dg; None if that is not cheaper."""
        return None

    @override
    def is_recorded(self, args: Arguments) -> bool:
        """True if reverse mode differentiates by `rest`, such as weights that are trained.

        A rule for `rest` evaluates the formula again for each derivative. Once recorded, it is
        evaluated once for all of them: a training step on products takes a quarter of the time.
        """
        return any(map(is_differentiated, args[self.ends[2] :]))

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
        ruled = self.push_forward(args, tangents[: self.n_ruled])
        others = (*[None] * self.n_ruled, *tangents[self.n_ruled :])
        return add_outputs(ruled, self.plain_jvp(args, others))

    def _tangents(self, args: Arguments, tangents: Arguments) -> list[Tensor] | None:
        """Return the tangents of x, without optional ones that are all None; None if all are."""
        start, end = self.ends[1:]
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
    def push_forward(self, args: Arguments, tangents: Arguments) -> Outputs | None:
        v = self._tangents(args, tangents)
        if v is None:
            return None
        return _Product(self.operation, len(v), Wanted(False, True, optional=False))(*v, *args)

    @override
    def pull_back(self, args: Arguments, cotangents: Outputs, needed: Sequence[bool]) -> Arguments:
        optional = any(needed[self.operation.required :])
        return _Gradient(self.operation, optional)(*cotangents, *args)


class _Gradient(_PhiDerivative):
    """The gradient `dPhi/dx` as a primitive; arguments g, x, rest."""

    def __init__(self, operation: SecondOrderOperation, optional: bool) -> None:
        super().__init__(operation, 0, operation.outputs)
        self.n_linear, self.optional = operation.outputs, optional

    @override
    def evaluate(self, at: Primals, linear: Vectors, strategy: Strategy) -> Outputs:
        return self.operation.gradient(at, linear, self.optional, strategy)

    @override
    def evaluate_along(
        self, at: Primals, v: Tensors, dg: Arguments
    ) -> tuple[Outputs, Outputs] | None:
        return self.operation.gradient_along(at, v, dg, self.optional)

    @override
    def push_forward(self, args: Arguments, tangents: Arguments) -> Outputs | None:
        by_g, by_x, k = None, None, self.n_linear
        if any(t is not None for t in tangents[:k]):
            by_g = self(*filled(tangents[:k], args[:k]), *args[k:])
        v = self._tangents(args, tangents)
        if v is not None:
            by_x = _Product(self.operation, len(v), Wanted(True, False, self.optional))(*v, *args)
        return add_outputs(by_g, by_x)

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
        super().__init__(operation, v, operation.outputs if wanted.hessian else 0)
        self.n_linear, self.wanted = v, wanted

    @override
    def evaluate(self, at: Primals, linear: Vectors, strategy: Strategy) -> Outputs:
        return self.operation.product(at, linear, self.wanted, strategy)

    @override
    def compute_nested_batch(self, args: Arguments, levels: Sequence[Dimensions]) -> Outputs | None:
        v, g, _ = self.ends
        dims = levels[0]
        if len(levels) > 1 or any(dim is not None for dim in (*dims[:v], *dims[g:])):
            return super().compute_nested_batch(args, levels)
        at, cotangents = self._primals(args), Vectors(args[v:g], dims[v:g])
        out = self.operation.pull_back_along(
            at, cotangents, args[:v], self.wanted.optional, "cached"
        )
        if self.wanted.pushforward:
            wanted = self.wanted._replace(hessian=False)
            one = self.operation.product(at, Vectors.single(args[:v]), wanted, "streamed")
            out = (*out, *(t.expand(len(out[0]), *t.shape) for t in one))
        return out

    @override
    def push_forward(self, args: Arguments, tangents: Arguments) -> Outputs | None:
        v, g, _ = self.ends
        by_v, by_g, by_x = None, None, None
        if any(t is not None for t in tangents[:v]):
            by_v = self(*filled(tangents[:v], args[:v]), *args[v:])
        w, dg = self._tangents(args, tangents), []
        if any(t is not None for t in tangents[v:g]):
            dg = filled(tangents[v:g], args[v:g])
        if w is not None:
            along = _ProductAlong(self.operation, v, len(w), self.wanted, g_moves=bool(dg))
            by_x = along(*args[:v], *w, *dg, *args[v:])
        elif dg:
            product = _Product(self.operation, v, self.wanted._replace(pushforward=False))
            by_g = product(*args[:v], *dg, *args[g:])
            if self.wanted.pushforward:
                by_g = (*by_g, *map(torch.zeros_like, dg))
        return add_outputs(by_v, by_g, by_x)

    @override
    def pull_back(self, args: Arguments, cotangents: Outputs, needed: Sequence[bool]) -> Arguments:
        """Return the transposed matrices times the cotangents; the Hessian is symmetric."""
        v, g, _ = self.ends
        w, c = _hessian_and_pushforward(self, cotangents)
        out: list[Any] = [None] * g
        if any(needed[:v]):
            optional, by_hessian, by_pushforward = v > self.operation.required, None, None
            if w:
                product = _Product(self.operation, len(w), Wanted(True, False, optional))
                by_hessian = product(*w, *args[v:])
            if c:
                by_pushforward = _Gradient(self.operation, optional)(*c, *args[g:])
            out[:v] = add_outputs(by_hessian, by_pushforward) or ()
        if any(needed[v:]):
            optional = any(needed[g + self.operation.required :])
            wanted = Wanted(any(needed[g:]), any(needed[v:g]), optional)
            by_x, by_g = _moves_pulled_back(self, args[:v], args, w, c, wanted)
            out[v:] = [*(by_g or out[v:]), *by_x]
        return out


class _ProductAlong(_PhiDerivative):
    """The derivative of a product along w and dg as a primitive; arguments v, w, dg, g, x, rest.

    Without the Hessian there are no dg and g.
    """

    def __init__(
        self, operation: SecondOrderOperation, v: int, w: int, wanted: Wanted, *, g_moves: bool
    ) -> None:
        g = operation.outputs if wanted.hessian else 0
        n_linear = v + w + g * g_moves
        super().__init__(operation, n_linear, g, x_ruled=False)
        self.n_linear, self.wanted, self.cuts = n_linear, wanted, (v, v + w)

    @override
    def evaluate(self, at: Primals, linear: Vectors, strategy: Strategy) -> Outputs:
        a, b = self.cuts
        v = Vectors(linear.tensors[:a], linear.dims[:a])
        moves = Vectors(linear.tensors[a:], linear.dims[a:])
        if moves.batched:
            return self._along_several(at, v, moves, strategy)
        w, dg = moves.tensors[: b - a], moves.tensors[b - a :]
        if strategy == "differentiable":
            return self.operation.differentiated_product(at, v, w, dg, self.wanted)
        return self.operation.product_along(at, v, w, dg, self.wanted, strategy)

    def _along_several(
        self, at: Primals, v: Vectors, moves: Vectors, strategy: Strategy
    ) -> Outputs:
        """Compute the derivatives along a batch of w and dg; v may be a batch too."""
        operation, wanted, count = self.operation, self.wanted, self.cuts[1] - self.cuts[0]
        n = next(t.shape[d] for t, d in zip(*moves, strict=True) if d is not None)
        vs, both = v.expanded(n), moves.expanded(n)
        w, dg = both[:count], both[count:]
        if v.batched:
            each = [
                operation.product_along(
                    at,
                    Vectors.single([t[i] for t in vs]),
                    [t[i] for t in w],
                    [t[i] for t in dg],
                    wanted,
                    "streamed",
                )
                for i in range(n)
            ]
            return tuple(map(torch.stack, zip(*each, strict=True)))
        along_v = operation.product_along(
            at, Vectors(w, [0] * len(w)), v.tensors, (), wanted, strategy
        )
        if not dg:
            return along_v
        g = Vectors(dg, [0] * len(dg))
        by_g = operation.pull_back_along(at, g, v.tensors, wanted.optional, strategy)
        rows = add_outputs(along_v[: len(by_g)], by_g) or ()
        return *rows, *along_v[len(by_g) :]

    @override
    def push_forward(self, args: Arguments, tangents: Arguments) -> Outputs | None:
        v, end = self.cuts[0], self.n_linear
        terms = []
        for part in slice(0, v), slice(v, end):
            if any(t is not None for t in tangents[part]):
                moved = list(args)
                moved[part] = filled(tangents[part], args[part])
                terms.append(self(*moved))
        return add_outputs(*terms)

    @override
    def pull_back(self, args: Arguments, cotangents: Outputs, needed: Sequence[bool]) -> Arguments:
        (a, b), end = self.cuts, self.n_linear
        v, w, dg, point = args[:a], args[a:b], args[b:end], args[end:]
        c_h, c_p = _hessian_and_pushforward(self, cotangents)
        out: list[Any] = [None] * end
        if any(needed[:a]):
            optional, by_hessian, by_pushforward = a > self.operation.required, None, None
            wanted = Wanted(True, False, optional)
            if c_h:
                along = _ProductAlong(self.operation, len(c_h), len(w), wanted, g_moves=bool(dg))
                by_hessian = along(*c_h, *w, *dg, *point)
            if c_p:
                product = _Product(self.operation, len(w), wanted)
                by_pushforward = product(*w, *c_p, *args[self.ends[1] :])
            out[:a] = add_outputs(by_hessian, by_pushforward) or ()
        if any(needed[a:end]):
            optional = b - a > self.operation.required
            wanted = Wanted(any(needed[a:b]), any(needed[b:end]), optional)
            by_w, by_dg = _moves_pulled_back(self, v, args, c_h, c_p, wanted)
            out[a:] = [*(by_w or out[a:b]), *(by_dg or out[b:])]
        return out


def _hessian_and_pushforward(
    primitive: _Product | _ProductAlong, results: Outputs
) -> tuple[Outputs, Outputs]:
    """Divide results, or their cotangents, into those of the Hessian and of the push-forward."""
    wanted, operation = primitive.wanted, primitive.operation
    rows = primitive.variables if wanted.optional else operation.required
    rows *= wanted.hessian
    return results[:rows], results[rows:]


def _moves_pulled_back(
    primitive: _Product | _ProductAlong,
    v: Arguments,
    args: Arguments,
    w: Outputs,
    c: Outputs,
    wanted: Wanted,
) -> tuple[Outputs, Outputs]:
    """Return cotangents of moves: `d3Phi/dx3 v w + d2<c, F>/dx2 v` of x and `d2F/dx2 v w` of g.

    Args:
        primitive: The primitive.
        v: Its vector.
        args: Its arguments.
        w: Cotangents of the results of the Hessian.
        c: Cotangents of the results of the push-forward.
        wanted: The Hessian for moves of x, the push-forward for those of g.
    """
    operation, (start, end, _) = primitive.operation, primitive.ends
    g, x_rest = args[start:end], args[end:]
    if not w:
        product = _Product(operation, len(v), Wanted(True, False, wanted.optional))
        return product(*v, *c, *x_rest), ()
    along = _ProductAlong(operation, len(v), len(w), wanted, g_moves=bool(c))
    out = along(*v, *w, *((*c, *g) if wanted.hessian else ()), *x_rest)
    return _hessian_and_pushforward(along, out)
