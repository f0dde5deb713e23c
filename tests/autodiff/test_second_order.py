"""The rules of operations with formulas for their derivatives, against plain differentiation."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from helpers import assert_close, random
from nestings import Function, forward, reverse
from torch import Tensor
from torch.func import grad, jvp, vjp, vmap

from mace_functional.autodiff.derivative_rules import apply_operation
from mace_functional.autodiff.second_order import (
    Primals,
    SecondOrderOperation,
    Strategy,
    Vectors,
    Wanted,
)

X, H, A = random(3, seed=1), random(3, seed=2), random(3, seed=3)


class Products(SecondOrderOperation):
    """`y = (x^2 h, a x h)`, with the variable h optional; it records what it is asked for."""

    outputs = 2
    required = optional = 1

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def value(self, at: Primals, strategy: Strategy) -> tuple[Tensor, ...]:
        self.asked.append(("value", strategy))
        (x, h), (a,) = at.x, at.rest
        return x * x * h, a * x * h

    def gradient(
        self, at: Primals, g: Vectors, optional: bool, strategy: Strategy
    ) -> tuple[Tensor, ...]:
        self.asked.append(("gradient", strategy, optional))
        (x, h), (a,) = at.x, at.rest
        one, other = in_front(g)
        found = 2 * one * x * h + other * a * h, one * x * x + other * a * x
        return found if optional else found[:1]

    def product(
        self, at: Primals, v: Vectors, wanted: Wanted, strategy: Strategy
    ) -> tuple[Tensor, ...]:
        self.asked.append(("product", strategy, wanted, len(v.tensors)))
        (x, h), (a,) = at.x, at.rest
        dx, dh = (*in_front(v), torch.zeros_like(h))[:2]
        out: tuple[Tensor, ...] = ()
        if wanted.hessian:
            g, other = at.g
            mixed = 2 * g * x + other * a
            out = (2 * g * h * dx + mixed * dh, mixed * dx + 0 * dh)
            out = out if wanted.optional else out[:1]
        if wanted.pushforward:
            out = (*out, 2 * x * h * dx + x * x * dh, a * h * dx + a * x * dh)
        return out


class Together(Products):
    """Values and gradients together with their changes."""

    def value_along(self, at: Primals, v: Any) -> Any:
        self.asked.append("value_along")
        return jvp(lambda *x: Products().value(at._replace(x=x), "cached"), at.x, filled(v))

    def gradient_along(self, at: Primals, v: Any, dg: Any, optional: bool) -> Any:
        self.asked.append("gradient_along")

        def gradient(x: Any, g: Any) -> Any:
            vectors = Vectors.single(g)
            return Products().gradient(at._replace(x=x), vectors, optional, "cached")

        tangents = tuple(torch.zeros_like(X) if t is None else t for t in dg)
        return jvp(gradient, (tuple(at.x), tuple(at.g)), (filled(v), tangents))


def filled(v: Any) -> Any:
    return (*v, torch.zeros_like(H))[:2]


def in_front(vectors: Vectors) -> list[Tensor]:
    """Vectors with the batch, where there is one, in front."""
    pairs = zip(vectors.tensors, vectors.dims, strict=True)
    return [t if dim is None else t.movedim(dim, 0) for t, dim in pairs]


def number(operation: SecondOrderOperation | None) -> Function:
    """A number made of y; by plain operations without an operation."""

    def function(x: Tensor, h: Tensor, a: Tensor) -> Tensor:
        if operation is None:
            one, other = x * x * h, a * x * h
        else:
            one, other = apply_operation(operation, [x, h], [a])
        return (torch.sin(one) * other + one).sum()

    return function


@pytest.mark.parametrize("kind", [Products, Together])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_nestings_by_all_arguments_are_those_of_plain_operations(order, kind):
    steps = [transform(k) for transform in (forward, reverse) for k in range(3)]
    nestings = list(itertools.product(steps, repeat=order))
    for nesting in nestings[:: 7 if order == 3 else 1]:
        ours, plain = number(kind()), number(None)
        for step in nesting:
            ours, plain = step(ours), step(plain)
        assert_close(ours(X, H, A), plain(X, H, A), 1e-12)


def test_columns_of_a_linearised_gradient_are_cached_and_single_vectors_streamed():
    operation = Products()
    ours, plain = number(operation), number(None)
    pull_back, expected = (vjp(grad(lambda x, f=f: f(x, H, A)), X)[1] for f in (ours, plain))
    assert operation.asked == [("value", "streamed"), ("gradient", "streamed", False)]
    wanted = Wanted(hessian=True, pushforward=True, optional=False)
    for strategy, vectors in ("streamed", X), ("cached", random(4, 3, seed=5)):
        operation.asked.clear()
        many = vectors.ndim == 2
        found, plainly = (vmap(f)(vectors) if many else f(vectors) for f in (pull_back, expected))
        assert_close(found[0], plainly[0])
        assert ("product", strategy, wanted, 1) in operation.asked
        assert {asked[1] for asked in operation.asked} == {strategy}


def test_the_optional_variable_is_left_out_where_nothing_depends_on_it():
    operation = Products()
    jvp(grad(lambda x: number(operation)(x, H, A)), (X,), (X,))
    asked = [entry for entry in operation.asked if entry[0] == "product"]
    assert asked
    assert all(entry[3] == 1 and not entry[2].optional for entry in asked)
    operation.asked.clear()
    jvp(grad(lambda h: number(operation)(X, h, A)), (H,), (H,))
    assert any(entry[3] == 2 and entry[2].optional for entry in operation.asked if len(entry) == 4)


def test_value_and_gradient_come_with_their_changes_at_the_lowest_level():
    operation = Together()
    jvp(grad(lambda x: number(operation)(x, H, A)), (X,), (X,))
    assert operation.asked == ["value_along", "gradient_along"]
