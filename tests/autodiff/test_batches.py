"""Batches of points, and batches within them, against loops and plain operations."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from helpers import assert_close, random
from nestings import Function, forward, reverse
from torch import Tensor
from torch.func import grad, jacfwd, jvp, vjp, vmap

from mace_functional.autodiff.batches import NestedBatch, in_front
from mace_functional.autodiff.derivative_rules import apply_operation
from mace_functional.autodiff.second_order import (
    Primals,
    SecondOrderOperation,
    Strategy,
    Vectors,
    Wanted,
)

COUNT, ROWS = 4, 3
ALL_DIMS = [dims for dims in itertools.product((0, None), repeat=3) if any(d == 0 for d in dims)]
"""Which of x, h and a differ between the points of a batch."""


class Products(SecondOrderOperation):
    """`y = (x^2 h, a sum_c x h)` of each row, x, h and a (rows, 2); h is optional.

    It records what it is asked for, and so does the same operation on joined points.
    """

    outputs = 2
    required = optional = 1

    def __init__(self, asked: list[tuple[str, Strategy, int]] | None = None) -> None:
        self.asked = [] if asked is None else asked

    def value(self, at: Primals, strategy: Strategy) -> tuple[Tensor, ...]:
        self.asked.append(("value", strategy, len(at.x[0])))
        return values(*at.x, *at.rest)

    def gradient(
        self, at: Primals, g: Vectors, optional: bool, strategy: Strategy
    ) -> tuple[Tensor, ...]:
        self.asked.append(("gradient", strategy, len(at.x[0])))
        (x, h), (a,) = at.x, at.rest
        one, other = in_front_of(g)
        total = (other * a).sum(-1, keepdim=True)
        found = 2 * one * x * h + total * h, one * x * x + total * x
        return found if optional else found[:1]

    def product(
        self, at: Primals, v: Vectors, wanted: Wanted, strategy: Strategy
    ) -> tuple[Tensor, ...]:
        self.asked.append(("product", strategy, len(at.x[0])))
        (x, h), (a,) = at.x, at.rest
        dx, dh = (*in_front_of(v), torch.zeros_like(h))[:2]
        out: tuple[Tensor, ...] = ()
        if wanted.hessian:
            g, other = at.g
            mixed = 2 * g * x + (other * a).sum(-1, keepdim=True)
            out = (2 * g * h * dx + mixed * dh, mixed * dx + 0 * dh)
            out = out if wanted.optional else out[:1]
        if wanted.pushforward:
            along = (h * dx + x * dh).sum(-1, keepdim=True)
            out = (*out, 2 * x * h * dx + x * x * dh, a * along)
        return out

    def joined(self, count: int, x: Any, rest: Sequence[Tensor], mapped: Sequence[bool]) -> Any:
        a = rest[0] if mapped[0] else rest[0].expand(count, *rest[0].shape)
        return Products(self.asked), [a.flatten(0, 1)]


class Together(Products):
    """Values and gradients together with their changes."""

    def value_along(self, at: Primals, v: Any) -> Any:
        self.asked.append(("value_along", "streamed", len(at.x[0])))
        tangents = (*v, torch.zeros_like(at.x[1]))[:2]
        return jvp(lambda *x: values(*x, *at.rest), tuple(at.x), tangents)

    def joined(self, count: int, x: Any, rest: Sequence[Tensor], mapped: Sequence[bool]) -> Any:
        return Together(self.asked), super().joined(count, x, rest, mapped)[1]


class Apart(Products):
    """The points of a batch cannot be joined."""

    def joined(self, count: int, x: Any, rest: Sequence[Tensor], mapped: Sequence[bool]) -> Any:
        return None


def values(x: Tensor, h: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    return x * x * h, a * (x * h).sum(-1, keepdim=True)


def in_front_of(vectors: Vectors) -> list[Tensor]:
    pairs = zip(vectors.tensors, vectors.dims, strict=True)
    return [t if dim is None else t.movedim(dim, 0) for t, dim in pairs]


def number(operation: SecondOrderOperation | None) -> Function:
    """A number made of y; by plain operations without an operation."""

    def function(x: Tensor, h: Tensor, a: Tensor) -> Tensor:
        one, other = (
            values(x, h, a) if operation is None else apply_operation(operation, [x, h], [a])
        )
        return (torch.sin(one) * other + one).sum()

    return function


def arguments(dims: Sequence[int | None], *more: int) -> list[Tensor]:
    shapes = [(*more, COUNT, ROWS, 2) if dim == 0 else (ROWS, 2) for dim in dims]
    return [random(*shape, seed=seed) for seed, shape in enumerate(shapes)]


def directions(x: Tensor) -> Tensor:
    return torch.stack([torch.cos(x + k) for k in range(5)])


def second(f: Function) -> Callable[..., Tensor]:
    """A gradient's change along one direction."""
    return lambda x, h, a: jvp(lambda y: grad(f)(y, h, a), (x,), (torch.cos(x),))[1]


def columns(f: Function) -> Callable[..., Tensor]:
    """Several vectors times a linearised gradient."""

    def function(x: Tensor, h: Tensor, a: Tensor) -> Tensor:
        return vmap(vjp(lambda y: grad(f)(y, h, a), x)[1])(directions(x))[0]

    return function


def pushed(f: Function) -> Callable[..., Tensor]:
    """Several vectors pushed forward through the gradient."""

    def function(x: Tensor, h: Tensor, a: Tensor) -> Tensor:
        along = lambda v: jvp(lambda y: grad(f)(y, h, a), (x,), (v,))[1]  # noqa: E731
        return vmap(along)(directions(x))

    return function


def third(f: Function) -> Callable[..., Tensor]:
    return lambda x, h, a: jvp(lambda y: second(f)(y, h, a), (x,), (torch.sin(x),))[1]


QUANTITIES: dict[str, Callable[[Function], Callable[..., Tensor]]] = {
    "value": lambda f: f,
    "gradient": grad,
    "gradient by h": lambda f: grad(f, argnums=1),
    "gradient by a": lambda f: grad(f, argnums=2),
    "second": second,
    "columns": columns,
    "pushed": pushed,
    "third": third,
}
JOINED = ("value", "gradient", "gradient by h", "second", "columns", "pushed")
"""Quantities that need formulas of the operation only, not their derivatives."""


@pytest.mark.parametrize("kind", [Products, Together, Apart])
@pytest.mark.parametrize("quantity", QUANTITIES)
def test_a_batch_of_points_equals_the_loop(quantity, kind):
    for dims in ALL_DIMS if kind is Products else [(0, 0, 0), (0, None, None)]:
        args = arguments(dims)
        found = vmap(QUANTITIES[quantity](number(kind())), dims)(*args)
        for i in range(COUNT):
            one = [t if dim is None else t[i] for t, dim in zip(args, dims, strict=True)]
            assert_close(found[i], QUANTITIES[quantity](number(None))(*one), 1e-12)


@pytest.mark.parametrize("quantity", ["gradient", "second", "columns", "third"])
def test_a_batch_may_lie_in_any_dimension(quantity):
    args = [t.movedim(0, place) for t, place in zip(arguments((0, 0, 0)), (1, 2, 0), strict=True)]
    ours, plain = (QUANTITIES[quantity](number(op)) for op in (Products(), None))
    assert_close(vmap(ours, (1, 2, 0))(*args), vmap(plain, (1, 2, 0))(*args), 1e-12)


@pytest.mark.parametrize("quantity", ["gradient", "second", "columns", "pushed", "third"])
@pytest.mark.parametrize("inner", [(0, 0, 0), (0, None, None), (None, 0, None), (None, None, 0)])
def test_batches_of_batches_of_points_equal_those_of_plain_operations(quantity, inner):
    for outer in ((0, 0, 0), (None, 0, 0), (0, None, None)):
        shapes = [
            ((2,) if one == 0 else ()) + ((COUNT,) if other == 0 else ()) + (ROWS, 2)
            for one, other in zip(outer, inner, strict=True)
        ]
        args = [random(*shape, seed=seed) for seed, shape in enumerate(shapes)]
        ours, plain = (QUANTITIES[quantity](number(op)) for op in (Products(), None))
        found = vmap(vmap(ours, inner), outer)(*args)
        assert_close(found, vmap(vmap(plain, inner), outer)(*args), 1e-12)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("quantity", ["value", "gradient", "second", "columns"])
def test_nestings_around_a_batch_equal_those_of_plain_operations(quantity, order):
    steps = [transform(k) for transform in (forward, reverse) for k in range(3)]
    nestings = list(itertools.product(steps, repeat=order))
    for case, nesting in enumerate(nestings[:: 5 if order == 2 else 1]):
        dims = ALL_DIMS[case % len(ALL_DIMS)]

        def total(operation: Any, dims: Any = dims) -> Function:
            one = QUANTITIES[quantity](number(operation))
            return lambda *t: torch.sin(vmap(one, dims)(*t)).sum()

        ours, plain = total(Products()), total(None)
        for step in nesting:
            ours, plain = step(ours), step(plain)
        args = arguments(dims)
        assert_close(ours(*args), plain(*args), 1e-12)


@pytest.mark.parametrize("quantity", JOINED)
def test_joined_points_are_computed_once_at_the_lowest_level(quantity):
    for dims in ALL_DIMS:
        single, operation = Products(), Products()
        args = arguments(dims)
        one = [t if dim is None else t[0] for t, dim in zip(args, dims, strict=True)]
        QUANTITIES[quantity](number(single))(*one)
        vmap(QUANTITIES[quantity](number(operation)), dims)(*args)
        assert {rows for _, _, rows in single.asked} == {ROWS}
        sizes = {COUNT * ROWS, ROWS} if dims == (None, None, 0) else {COUNT * ROWS}
        assert {rows for _, _, rows in operation.asked} <= sizes
        assert [asked[:2] for asked in operation.asked] == [asked[:2] for asked in single.asked]
        assert "differentiable" not in {strategy for _, strategy, _ in operation.asked}


def test_points_that_cannot_be_joined_are_mapped():
    operation = Apart()
    args = arguments((0, 0, 0))
    vmap(grad(number(operation)))(*args)
    assert {strategy for _, strategy, _ in operation.asked} == {"differentiable"}


def test_values_come_with_their_changes_in_a_batch_too():
    operation = Together()
    x, h, a = arguments((0, None, None))

    def along(x: Tensor) -> Tensor:
        return jvp(lambda y: number(operation)(y, h, a), (x,), (torch.cos(x),))[1]

    vmap(along)(x)
    assert operation.asked == [("value_along", "streamed", COUNT * ROWS)]
    operation.asked.clear()
    vmap(lambda factor: factor * along(x[0]))(x[:, 0, 0])
    assert operation.asked == [("value_along", "streamed", ROWS)]


def test_vectors_at_one_point_leave_its_value_unmapped():
    operation = Together()
    x, h, a = arguments((None, None, None))
    vmap(lambda v: jvp(lambda y: number(operation)(y, h, a), (x,), (v,))[1])(directions(x))
    assert ("value", "streamed", ROWS) in operation.asked
    assert ("product", "cached", ROWS) in operation.asked


def test_a_kept_pull_back_joins_its_points_once_for_chunks_of_any_size():
    operation, args = Products(), arguments((0, 0, 0))
    joins = []
    join = operation.joined
    operation.joined = lambda *a: joins.append(a) or join(*a)  # type: ignore[method-assign]

    def hessian(x: Tensor, h: Tensor, a: Tensor) -> Tensor:
        pull_back = vjp(lambda y: grad(number(operation))(y, h, a), x)[1]
        return torch.cat([vmap(pull_back)(v)[0] for v in directions(x).split([1, 3, 1])])

    found = vmap(hessian)(*args)
    assert_close(found, vmap(columns(number(None)))(*args), 1e-12)
    assert len(joins) == 1


def test_whole_hessians_of_a_batch_in_forward_mode():
    args = arguments((0, 0, None))
    ours, plain = (jacfwd(grad(number(op))) for op in (Products(), None))
    assert_close(vmap(ours, (0, 0, None))(*args), vmap(plain, (0, 0, None))(*args), 1e-12)


def test_backward_through_a_batch_equals_the_gradient():
    args = [t.requires_grad_() for t in arguments((0, 0, None))]
    vmap(number(Products()), (0, 0, None))(*args).sum().backward()
    expected = grad(lambda *t: vmap(number(None), (0, 0, None))(*t).sum(), (0, 1, 2))(*args)
    for t, g in zip(args, expected, strict=True):
        assert_close(t.grad, g, 1e-12)


@pytest.mark.parametrize("joined", itertools.product((True, False), repeat=3))
@pytest.mark.parametrize("own", [(3,), (3, 2), (3, 2, 5)])
def test_levels_come_back_in_their_order(joined, own):
    """A row-wise function of the joined point gives the same as of each point alone."""
    sizes = (2, 4, 3)
    places_of = [(1, 0, 0), (None, 1, 0), (0, None, 1), (0, 0, None)]
    for places in places_of:
        present = [size for size, place in zip(sizes, places, strict=True) if place is not None]
        tensor = random(*present, *own, seed=4)
        for level in reversed(range(3)):  # put each dimension in its place
            place, before = places[level], sum(p is not None for p in places[:level])
            if place is not None:
                tensor = tensor.movedim(before, before + place)
        full = random(*sizes, *own, seed=5)
        levels = [(places[k], 0) for k in range(3)]
        batch = NestedBatch.of([tensor, full], levels, joined)
        assert batch.sizes == sizes
        vectors, dim = batch.vectors(tensor, places)
        assert vectors.shape[0 if dim else -len(own)] % batch.count == 0
        found = vectors if dim is None else vectors.movedim(dim, 0)
        if dim is None and batch.has_vectors:
            n = [size for size, join in zip(sizes, joined, strict=True) if not join]
            found = found.expand(torch.Size(n).numel(), *found.shape)
        expected = in_front(tensor, places)
        for level, place in enumerate(places):
            expected = expected if place is not None else expected.unsqueeze(level)
        assert_close(batch.restored(found), expected.expand(*sizes, *own))
