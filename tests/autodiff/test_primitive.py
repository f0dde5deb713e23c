"""Operations with rules of their own against the same operations in plain torch.

Every primitive here is used twice: called, with its rules, and through its `value`, which torch
differentiates. All nestings of transforms have to give the same numbers.
"""

from __future__ import annotations

import gc
import itertools
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from helpers import assert_close, mostly_slow, random
from torch import Tensor
from torch.func import grad, grad_and_value, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap

from mace_functional.autodiff.columns import chunked_vmap
from mace_functional.autodiff.concatenation import join, split
from mace_functional.autodiff.local import LocalFunction
from mace_functional.autodiff.primitive import Memo, Primitive, add_outputs
from mace_functional.mace.edge_geometry import EdgeGeometry

Function = Callable[..., Tensor]


# Primitives, and functions of them: a state x (2, 3) and coefficients A (2, 3, 3, 3).

POINT = random(2, 3, seed=1)
COEFFICIENTS = random(2, 3, 3, 3, seed=2)
DIRECTION = random(2, 3, seed=3)
COEFFICIENT_DIRECTION = random(2, 3, 3, 3, seed=4)
ORDERS = list(itertools.permutations((1, 2, 3)))


def symmetric(a: Tensor) -> Tensor:
    return sum(a.permute(0, *p) for p in ORDERS) / 6


class Cubic(LocalFunction):
    """`y[M] = A[M, i, j, k] x[i] x[j] x[k]` with a symmetric A."""

    def value(self, x: Tensor, *rest: Tensor) -> Tensor:
        return torch.einsum("Mijk,...i,...j,...k->...M", rest[0], x, x, x)

    def jacobian(self, x: Tensor, *rest: Tensor) -> Tensor:
        return 3 * torch.einsum("Mijk,...j,...k->...Mi", rest[0], x, x)

    def weighted_hessian(self, cotangent: Tensor, x: Tensor, *rest: Tensor) -> Tensor:
        return 6 * torch.einsum("Mijk,...k,...M->...ij", rest[0], x, cotangent)


class CubicAlong(Cubic):
    """The same, with the change of the Jacobian along a direction."""

    def value_and_jacobian_along(
        self, direction: Tensor, x: Tensor, *rest: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        change = 6 * torch.einsum("Mijk,...j,...k->...Mi", rest[0], x, direction)
        return self.value(x, *rest), self.jacobian(x, *rest), change


class Quadratic(Primitive):
    """`(x_i x_j A_ij, x_i)` for matrices A, by hand; it remembers, and adds in place."""

    def __init__(self) -> None:
        self.memo = Memo()

    def value(self, *args: Any) -> tuple[Tensor, ...]:
        x, a = args
        return torch.einsum("ni,nj,ij->n", x, x, a), x * x

    def compute(self, *args: Any) -> tuple[Tensor, ...]:
        x, a = args
        product = self.memo.get_or_build(args, lambda: x @ (a + a.mT))
        return (0.5 * product).mul_(x).sum(1), x.clone().mul_(x)

    def compute_batch(
        self, args: Sequence[Any], dims: Sequence[int | None]
    ) -> tuple[Tensor, ...] | None:
        x, a = args
        if dims[1] is not None:
            return None
        x = x.movedim(dims[0], 0)
        return torch.einsum("bni,bnj,ij->bn", x, x, a), x * x

    def jvp(self, args: Sequence[Any], tangents: Sequence[Any]) -> tuple[Tensor, ...] | None:
        (x, a), (dx, da) = args, tangents
        of_x = of_a = None
        if dx is not None:
            of_x = ((dx * _Product()(x, a)[0]).sum(1), 2 * x * dx)
        if da is not None:
            of_a = (self(x, da)[0], torch.zeros_like(x))
        return add_outputs(of_x, of_a)

    def vjp(
        self, args: Sequence[Any], cotangents: Sequence[Tensor], needed: Sequence[bool]
    ) -> list[Tensor | None]:
        (x, a), (g, h) = args, cotangents
        return [
            g[:, None] * _Product()(x, a)[0] + 2 * h * x if needed[0] else None,
            torch.einsum("n,ni,nj->ij", g, x, x) if needed[1] else None,
        ]


class _Product(Primitive):
    """`x (A + A^T)`; all rules fall back on the value."""

    def value(self, *args: Any) -> tuple[Tensor, ...]:
        x, a = args
        return (x @ (a + a.mT),)


class OnlyValue(Primitive):
    """Only a value, of two outputs, with arguments that are integers and that may be None."""

    def value(self, *args: Any) -> tuple[Tensor, ...]:
        x, index, a, shift = args
        picked = x.index_select(0, index) * a
        return picked.sin(), picked * x.sum() + (0 if shift is None else shift)


def local_function(call: Callable[..., Any], x: Tensor, a: Tensor) -> Tensor:
    return torch.sin(call(Cubic(), torch.sin(x), symmetric(a * a))).sum()


def local_function_with_its_change(call: Callable[..., Any], x: Tensor, a: Tensor) -> Tensor:
    return torch.sin(call(CubicAlong(), torch.sin(x), symmetric(a * a))).sum()


SHARED = Quadratic()
"""One object for all tests, so that what it remembers meets every other point and transform."""


def rules_by_hand(call: Callable[..., Any], x: Tensor, a: Tensor) -> Tensor:
    y, z = call(SHARED, torch.sin(x), torch.cos(a[0, 0]))
    return (y * y).sum() + (torch.sin(z) * y[:, None]).sum()


def only_value(call: Callable[..., Any], x: Tensor, a: Tensor) -> Tensor:
    y, z = call(OnlyValue(), torch.sin(x), torch.tensor([1, 0, 1]), a[0, 0], None)
    _, w = call(OnlyValue(), y, torch.tensor([2, 2, 0]), a[0, 1], torch.cos(x[1]))
    return (torch.cos(z) * w).sum()


def join_and_split(call: Callable[..., Any], x: Tensor, a: Tensor) -> Tensor:
    rows = torch.sin(a[0, 0])
    if call is with_rules:
        joined = join([x * x, rows, x], 0)
        one, two, three = split(torch.cos(joined), [1, 4, 2], 0)
    else:
        joined = torch.cat([x * x, rows, x], 0)
        one, two, three = torch.cos(joined).split([1, 4, 2], 0)
    return (one * two).sum() + (two[1:3] * three).sum()


def with_rules(operation: Any, *args: Any) -> Any:
    return operation(*args)


def plainly(operation: Any, *args: Any) -> Any:
    return operation.value(*args)


FUNCTIONS = {
    f.__name__.replace("_", " "): f
    for f in (
        local_function,
        local_function_with_its_change,
        rules_by_hand,
        only_value,
        join_and_split,
    )
}
every_function = pytest.mark.parametrize("name", FUNCTIONS)


def ours(name: str) -> Function:
    return lambda x, a: FUNCTIONS[name](with_rules, x, a)


def theirs(name: str) -> Function:
    return lambda x, a: FUNCTIONS[name](plainly, x, a)


# Transforms of functions (x, A) to a number into such functions.


def forward(f: Function) -> Function:
    return lambda x, a: jvp(lambda x: f(x, a), (x,), (DIRECTION,))[1]


def reverse(f: Function) -> Function:
    return lambda x, a: (grad(f)(x, a) * DIRECTION).sum()


def forward_in_coefficients(f: Function) -> Function:
    return lambda x, a: jvp(lambda a: f(x, a), (a,), (COEFFICIENT_DIRECTION,))[1]


def reverse_in_coefficients(f: Function) -> Function:
    return lambda x, a: (grad(f, argnums=1)(x, a) * COEFFICIENT_DIRECTION).sum()


def forward_in_both(f: Function) -> Function:
    return lambda x, a: jvp(f, (x, a), (DIRECTION, COEFFICIENT_DIRECTION))[1]


def mapped(f: Function) -> Function:
    """Over points, the batch not in front."""
    return lambda x, a: vmap(f, (1, None))(torch.stack([x, 2 * x], 1), a).sum()


def mapped_over_coefficients(f: Function) -> Function:
    return lambda x, a: vmap(f, (None, 0))(x, torch.stack([a, 2 * a])).sum()


DERIVATIVES = [forward, reverse, forward_in_coefficients, reverse_in_coefficients]
TRANSFORMS = [*DERIVATIVES, forward_in_both, mapped, mapped_over_coefficients]


def nested(f: Function, transforms: Sequence[Callable[[Function], Function]]) -> Function:
    """The innermost first."""
    for transform in transforms:
        f = transform(f)
    return f


def assert_nestings(name: str, nestings: Iterator[Any], tolerance: float = 1e-11) -> None:
    """Value and repetition, and the point again after another one, against the plain function."""
    count = 0
    for transforms in nestings:
        found, plain = nested(ours(name), transforms), nested(theirs(name), transforms)
        expected = plain(POINT, COEFFICIENTS)
        scale = 1 + expected.abs()
        values = found(POINT, COEFFICIENTS), found(POINT, COEFFICIENTS)
        labels = [t.__name__ for t in transforms]
        for value in values:
            assert (value - expected).abs() <= tolerance * scale, labels
        assert abs(values[0] - values[1]) <= 1e-14 * scale, labels
        count += 1
    assert count


@every_function
@pytest.mark.parametrize("order", [0, 1, 2])
def test_all_nestings_of_two_transforms_equal_those_of_the_plain_function(name, order):
    assert_nestings(name, itertools.product(TRANSFORMS, repeat=order))


@pytest.mark.parametrize(
    "name",
    [
        "local function",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("rules by hand", "only value", "join and split")
        ),
    ],
)
@pytest.mark.parametrize(
    "outermost", mostly_slow([*DERIVATIVES, mapped], [forward, reverse_in_coefficients])
)
def test_all_nestings_of_three_transforms_equal_those_of_the_plain_function(name, outermost):
    inner = itertools.product([*DERIVATIVES, mapped], repeat=2)
    some = (n for n in inner if (outermost is not mapped or mapped not in n) and n[0] is not mapped)
    assert_nestings(name, ((*n, outermost) for n in some))


@pytest.mark.parametrize(
    "name", ["local function", pytest.param("rules by hand", marks=pytest.mark.slow)]
)
def test_all_fourth_derivatives_in_the_point_equal_those_of_the_plain_function(name):
    assert_nestings(name, itertools.product([forward, reverse], repeat=4))


@pytest.mark.parametrize("name", ["local function with its change", "only value", "join and split"])
@pytest.mark.parametrize(
    "nesting",
    [
        (reverse, forward, forward, forward),
        (forward, reverse, forward_in_coefficients, reverse),
        (forward_in_coefficients, mapped, reverse, forward),
    ],
)
def test_some_fourth_derivatives_equal_those_of_the_plain_function(name, nesting):
    assert_nestings(name, iter([nesting]))


@every_function
def test_another_point_in_between_changes_nothing(name):
    transforms = [reverse, forward]
    found, plain = nested(ours(name), transforms), nested(theirs(name), transforms)
    points = [POINT, 1.3 * POINT, POINT, POINT.flip(0), POINT]
    for x in points:
        assert_close(found(x, COEFFICIENTS), plain(x, COEFFICIENTS), 1e-13)


@every_function
def test_a_point_changed_in_place_is_not_taken_for_the_old_one(name):
    x = POINT.clone()
    found, plain = nested(ours(name), [reverse, forward]), nested(theirs(name), [reverse, forward])
    before = found(x, COEFFICIENTS)
    x.mul_(1.5)
    after = found(x, COEFFICIENTS)
    assert_close(after, plain(1.5 * POINT, COEFFICIENTS))
    assert abs(after - before) > 1e-6


@every_function
@pytest.mark.parametrize(
    "jacobian",
    [
        hessian,
        lambda f: jacrev(jacrev(f)),
        lambda f: jacfwd(jacfwd(f)),
        lambda f: jacrev(jacfwd(f, argnums=1)),
        lambda f: jacfwd(jacrev(f), argnums=1),
        lambda f: jacrev(grad(f, argnums=1), argnums=1, chunk_size=5),
    ],
)
def test_whole_hessians_equal_those_of_the_plain_function(name, jacobian):
    arguments = POINT, COEFFICIENTS
    assert_close(jacobian(ours(name))(*arguments), jacobian(theirs(name))(*arguments))


@every_function
def test_vmap_equals_a_loop_for_every_place_of_the_batch(name):
    f = grad(ours(name))
    points = torch.stack([POINT, -0.4 * POINT, POINT.flip(0)])
    coefficients = torch.stack([COEFFICIENTS, 0.7 * COEFFICIENTS, COEFFICIENTS.flip(1)])
    pairs = zip(points, coefficients, strict=True)
    expected = torch.stack([grad(theirs(name))(x, a) for x, a in pairs])
    for place, other in [(0, 0), (1, 2), (2, 1), (-1, -1)]:
        arguments = points.movedim(0, place), coefficients.movedim(0, other)
        assert_close(vmap(f, (place, other))(*arguments), expected)
    twice = vmap(vmap(f, (None, 0)), (0, None))(points, coefficients)
    assert_close(twice.diagonal(dim1=0, dim2=1).movedim(-1, 0), expected)


@pytest.mark.parametrize("dims", [(0, None), (None, 0), (0, 0)])
def test_integer_arguments_may_be_mapped(dims):
    def picked(call: Callable[..., Any]) -> Callable[..., Tensor]:
        return lambda x, index: call(OnlyValue(), x, index, torch.cos(x), None)[1]

    x = torch.stack([POINT, 2 * POINT]) if dims[0] == 0 else POINT
    index = torch.tensor([[0, 1], [1, 1]])
    index = index if dims[1] == 0 else index[1]

    def slope(f: Callable[..., Tensor]) -> Tensor:
        return vmap(grad(lambda x, i: torch.sin(f(x, i)).sum()), dims)(x, index)

    assert_close(slope(picked(with_rules)), slope(picked(plainly)))


# Contexts, `backward()`, dual numbers.


@every_function
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize(
    "transforms",
    [
        [],
        [forward],
        [reverse],
        [mapped],
        [reverse, forward],
        [forward, reverse],
        [reverse, reverse],
        [reverse, mapped],
    ],
    ids=lambda transforms: "-".join(t.__name__ for t in transforms) or "value",
)
def test_contexts_around_transforms_change_nothing(name, context, transforms):
    expected = nested(theirs(name), transforms)(POINT, COEFFICIENTS)
    f = nested(ours(name), transforms)
    with context():
        assert_close(f(POINT, COEFFICIENTS), expected)
        arguments = POINT.clone(), COEFFICIENTS.clone()
        assert_close(f(*arguments), expected)
    assert_close(f(*arguments), expected)


@every_function
@pytest.mark.parametrize("inner", ["value", "gradient"])
def test_no_grad_within_a_function_cuts_what_it_cuts_in_plain_torch(name, inner):
    def cut(f: Function) -> Function:
        def function(x: Tensor, a: Tensor) -> Tensor:
            with torch.no_grad():
                constant = f(x, a) if inner == "value" else grad(f)(x, a).sum()
            return constant * (x**3).sum() + f(x, a)

        return function

    for transforms in ([reverse], [reverse, reverse], [forward, reverse]):
        found = nested(cut(ours(name)), transforms)(POINT, COEFFICIENTS)
        assert_close(found, nested(cut(theirs(name)), transforms)(POINT, COEFFICIENTS))


@every_function
def test_backward_and_double_backward_equal_transforms(name):
    x, a = POINT.clone().requires_grad_(), COEFFICIENTS.clone().requires_grad_()
    ours(name)(x, a).backward()
    of_x, of_a = grad(theirs(name), argnums=(0, 1))(POINT, COEFFICIENTS)
    assert_close(x.grad, of_x)
    assert_close(a.grad, of_a)
    (slope,) = torch.autograd.grad(ours(name)(x, a), x, create_graph=True)
    twice = torch.autograd.grad((slope * DIRECTION).sum(), (x, a))
    expected = grad(reverse(theirs(name)), argnums=(0, 1))(POINT, COEFFICIENTS)
    for found, wanted in zip(twice, expected, strict=True):
        assert_close(found, wanted)


@every_function
@pytest.mark.parametrize(
    "transforms", [[forward], [reverse], [mapped], [reverse, forward], [reverse, mapped]]
)
def test_backward_through_transforms_equals_one_more_transform(name, transforms):
    x, a = POINT.clone().requires_grad_(), COEFFICIENTS.clone().requires_grad_()
    found = torch.autograd.grad(nested(ours(name), transforms)(x, a), (x, a))
    expected = grad(nested(theirs(name), transforms), argnums=(0, 1))(POINT, COEFFICIENTS)
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other)


@every_function
@pytest.mark.parametrize(
    "transforms", [[], [reverse], [mapped], [reverse, reverse], [mapped_over_coefficients]]
)
def test_dual_numbers_equal_one_more_transform(name, transforms):
    expected = nested(theirs(name), [*transforms, forward_in_both])(POINT, COEFFICIENTS)
    with forward_ad.dual_level():
        x = forward_ad.make_dual(POINT, DIRECTION)
        a = forward_ad.make_dual(COEFFICIENTS, COEFFICIENT_DIRECTION)
        found = forward_ad.unpack_dual(nested(ours(name), transforms)(x, a)).tangent
    assert_close(found, expected)


@every_function
def test_backward_through_dual_numbers_equals_a_mixed_derivative(name):
    x = POINT.clone().requires_grad_()
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, DIRECTION)
        slope = forward_ad.unpack_dual(ours(name)(dual, COEFFICIENTS)).tangent
        (found,) = torch.autograd.grad(slope, x)
    assert_close(found, grad(forward(theirs(name)))(POINT, COEFFICIENTS))


@every_function
@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning")
def test_linearize_equals_jvp(name):
    _, push = linearize(lambda x: grad(ours(name))(x, COEFFICIENTS), POINT)
    for direction in (DIRECTION, POINT):
        expected = jvp(lambda x: grad(theirs(name))(x, COEFFICIENTS), (POINT,), (direction,))[1]
        assert_close(push(direction), expected)


# Which of the methods are used.


class Recorder(Primitive):
    """`x^2` with marks: `compute` adds 1000 and `compute_batch` 2000; it writes down its calls."""

    def __init__(self, batches: bool = True) -> None:
        self.calls: list[str] = []
        self.batches = batches

    def value(self, *args: Any) -> tuple[Tensor, ...]:
        self.calls.append("value")
        return (args[0] * args[0],)

    def compute(self, *args: Any) -> tuple[Tensor, ...]:
        self.calls.append("compute")
        assert not torch._C._are_functorch_transforms_active()
        assert not (torch.is_grad_enabled() and args[0].requires_grad)
        return (args[0] * args[0] + 1000,)

    def compute_batch(
        self, args: Sequence[Any], dims: Sequence[int | None]
    ) -> tuple[Tensor, ...] | None:
        self.calls.append("compute_batch")
        if not self.batches:
            return None
        assert not torch._C._are_functorch_transforms_active()
        x = args[0].movedim(dims[0], 0)
        return (x * x + 2000,)


def test_compute_gives_the_result_where_nothing_differentiates():
    p = Recorder()
    (y,) = p(POINT)
    assert p.calls == ["compute"]
    assert_close(y, POINT**2 + 1000, 0)


def test_compute_gives_the_result_and_the_rule_its_gradient_where_backward_may_come():
    p, x = Recorder(), POINT.clone().requires_grad_()
    (y,) = p(x)
    assert p.calls == ["compute"]
    assert_close(y.detach(), POINT**2 + 1000, 0)
    assert_close(torch.autograd.grad(y.sum(), x)[0], 2 * POINT, 0)


def test_value_gives_the_result_of_dual_numbers_that_require_grad():
    p, x = Recorder(), POINT.clone().requires_grad_()
    with forward_ad.dual_level():
        (y,) = p(forward_ad.make_dual(x, DIRECTION))
        tangent = forward_ad.unpack_dual(y).tangent
        assert p.calls == ["value"]
        assert_close(tangent.detach(), 2 * POINT * DIRECTION, 0)
        (mixed,) = torch.autograd.grad(tangent.sum(), x)
    assert_close(mixed, 2 * DIRECTION, 0)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_compute_gives_the_result_where_backward_is_switched_off(context):
    p, x = Recorder(), POINT.clone().requires_grad_()
    with context():
        (y,) = p(x)
    assert p.calls == ["compute"]
    assert not y.requires_grad


def test_value_gives_the_result_of_dual_numbers_and_compute_that_of_others_at_the_same_level():
    p = Recorder()
    with forward_ad.dual_level():
        (y,) = p(forward_ad.make_dual(POINT, DIRECTION))
        assert p.calls == ["value"]
        assert_close(forward_ad.unpack_dual(y).tangent, 2 * POINT * DIRECTION, 0)
        (y,) = p(POINT)
        assert p.calls == ["value", "compute"]
    assert_close(y, POINT**2 + 1000, 0)


def test_a_batch_is_computed_once_or_mapped_if_that_is_refused():
    p = Recorder()
    assert_close(vmap(lambda x: p(x)[0], 1, 1)(POINT), POINT**2 + 2000, 0)
    assert p.calls == ["compute_batch"]
    p = Recorder(batches=False)
    assert_close(vmap(lambda x: p(x)[0], 1, 1)(POINT), POINT**2, 0)
    assert p.calls == ["compute_batch", "value"]


def test_a_tensor_that_is_not_mapped_is_computed_once_under_vmap():
    p = Recorder()
    found = vmap(lambda s: s * p(POINT)[0])(torch.arange(3.0, dtype=torch.float64))
    assert p.calls == ["compute"]
    assert_close(found[2], 2 * (POINT**2 + 1000), 0)


def test_the_lowest_level_computes_and_derivatives_come_from_the_value():
    for transform in (lambda f: grad_and_value(f)(POINT), lambda f: vjp(f, POINT)):
        p = Recorder()
        transform(lambda x, p=p: p(x)[0].sum())
        assert p.calls[0] == "compute"
    p = Recorder()
    slope, value = grad_and_value(lambda x: p(x)[0].sum())(POINT)
    assert_close(value, (POINT**2 + 1000).sum(), 1e-15)
    assert_close(slope, 2 * POINT, 1e-15)
    value, slope = jvp(lambda x: p(x)[0].sum(), (POINT,), (DIRECTION,))
    assert_close(value, (POINT**2 + 1000).sum(), 1e-15)
    assert_close(slope, (2 * POINT * DIRECTION).sum(), 1e-15)


@pytest.mark.parametrize("order", [2, 3])
def test_compute_never_sees_a_tensor_that_something_differentiates(order):
    """The recorder asserts it; its marks are constants, which leave no trace in derivatives."""
    for transforms in itertools.product([forward, reverse, mapped], repeat=order):
        p = Recorder()
        found = nested(lambda x, a, p=p: p(torch.sin(x))[0].sum(), transforms)(POINT, COEFFICIENTS)
        assert p.calls
        if set(transforms) != {mapped}:
            plain = nested(lambda x, a: (torch.sin(x) ** 2).sum(), transforms)
            assert_close(found, plain(POINT, COEFFICIENTS))


class Pair(Recorder):
    """Its `compute_jvp` marks both results."""

    def compute_jvp(self, args: Any, tangents: Any) -> tuple[Any, Any]:
        self.calls.append("compute_jvp")
        return (args[0] * args[0] + 3000,), (2 * args[0] * tangents[0] + 1,)


def test_value_and_tangent_come_from_compute_jvp_only_at_the_lowest_level():
    p = Pair()
    value, slope = jvp(lambda x: p(x)[0], (POINT,), (DIRECTION,))
    assert p.calls == ["compute_jvp"]
    assert_close(value, POINT**2 + 3000, 0)
    assert_close(slope, 2 * POINT * DIRECTION + 1, 0)
    p = Pair()
    slopes = vmap(lambda d: jvp(lambda x: p(x)[0], (POINT,), (d,))[1])(torch.stack([DIRECTION] * 2))
    assert "compute_jvp" not in p.calls
    assert_close(slopes[1], 2 * POINT * DIRECTION, 0)


def test_an_argument_without_a_tangent_needs_no_rule():
    class NoRule(Recorder):
        def jvp(self, args: Any, tangents: Any) -> Any:
            raise AssertionError

        def vjp(self, args: Any, cotangents: Any, needed: Any) -> Any:
            raise AssertionError

    p = NoRule()
    _, slope = jvp(lambda s: s * p(POINT)[0].sum(), (torch.tensor(2.0),), (torch.tensor(1.0),))
    assert_close(slope, (POINT**2 + 1000).sum())
    assert_close(grad(lambda x: x.sum() + p(POINT)[0].sum())(POINT), torch.ones_like(POINT), 0)


def test_rules_are_asked_only_for_the_arguments_that_move():
    seen: list[Any] = []

    class Watched(Quadratic):
        def jvp(self, args: Any, tangents: Any) -> Any:
            seen.append(tuple(t is not None for t in tangents))
            return super().jvp(args, tangents)

        def vjp(self, args: Any, cotangents: Any, needed: Any) -> Any:
            seen.append(tuple(needed))
            return super().vjp(args, cotangents, needed)

    p, a = Watched(), COEFFICIENTS[0, 0]

    def f(x: Tensor, a: Tensor) -> Tensor:
        return p(x, a)[0].sum()

    grad(f)(POINT, a)
    grad(f, argnums=1)(POINT, a)
    jvp(lambda x: f(x, a), (POINT,), (DIRECTION,))
    jvp(f, (POINT, a), (DIRECTION, a))
    assert seen == [(True, False), (False, True), (True, False), (True, True)]


def test_an_output_that_is_not_used_has_the_cotangent_zero():
    def second(x: Tensor) -> Tensor:
        return Quadratic()(x, COEFFICIENTS[0, 0])[1].sum()

    assert_close(grad(second)(POINT), 2 * POINT, 0)


def test_only_the_value_has_to_be_given():
    with pytest.raises(TypeError, match="value"):
        Primitive()
    assert add_outputs(None, None) is None
    total = add_outputs((POINT, DIRECTION), None, (POINT, POINT))
    assert_close(total[0], 2 * POINT, 0)
    assert_close(total[1], POINT + DIRECTION, 0)


# What is remembered.


def test_memo_builds_once_for_the_same_tensors():
    memo, x, y = Memo(), POINT.clone(), DIRECTION.clone()
    built: list[int] = []

    def build() -> int:
        built.append(len(built))
        return built[-1]

    assert memo.get([x, None, y]) is None
    assert memo.get_or_build([x, None, y], build) == 0
    assert memo.get([x, None, y]) is not None
    assert memo.get_or_build([x, None, y], build) == 0
    for other in ([y, None, x], [x, None], [x, y, y], [x, None, y.clone()], []):
        assert memo.get(other) is None
    assert memo.get_or_build([x, None, y.clone()], build) == 1
    assert memo.get([x, None, y]) is None
    assert memo.get_or_build([x, None, y], build) == 2


def test_memo_tells_whether_tensors_came_last():
    memo, x, y = Memo(), POINT.clone(), DIRECTION.clone()
    assert not memo.note([x])
    assert memo.note([x])
    assert memo.get([x]) is None
    assert memo.get_or_build([x], lambda: "x") == "x"
    assert memo.note([x])
    assert memo.get([x]) is not None
    assert not memo.note([y])
    assert not memo.note([x])
    assert memo.get([x]) is None


def test_memo_recognises_a_change_in_place():
    memo, x = Memo(), POINT.clone()
    memo.get_or_build([x], lambda: "before")
    x.add_(1)
    assert memo.get([x]) is None
    assert memo.get_or_build([x], lambda: "after") == "after"
    x[0].mul_(2)  # by a view
    assert memo.get([x]) is None
    view = x.view_as(x)
    assert memo.get_or_build([view], lambda: "view") == "view"
    x.zero_()
    assert memo.get([view]) is None


def test_memo_recognises_views_of_the_same_numbers_and_no_others():
    memo, x = Memo(), random(4, 4)
    memo.get_or_build([x], lambda: "x")
    assert memo.get([x.view_as(x)]) is not None
    assert memo.get([x.detach()]) is not None
    assert memo.get([x[:]]) is not None
    for other in (x.T, x[:2], x[1:], x.view(2, 8), x.flatten(), x.unsqueeze(0), x.clone()):
        assert memo.get([other]) is None
    assert memo.get([x.view(torch.int64)]) is None
    assert memo.get([None]) is None


def test_memo_does_not_take_a_new_tensor_at_an_old_address_for_the_old_one():
    memo = Memo()
    for k in range(20):
        x = torch.full((1000,), float(k))
        assert memo.get_or_build([x], lambda k=k: k) == k
        del x


def test_memo_forgets_the_last_result_when_others_come():
    memo, x = Memo(), POINT.clone()
    known = weakref.ref(memo.get_or_build([x], lambda: torch.zeros(3)))
    assert known() is not None
    memo.note([DIRECTION])
    assert known() is None


def test_memo_asks_again_for_tensors_of_inference_mode_only_if_they_are_others():
    memo = Memo()
    with torch.inference_mode():
        x = POINT.clone()
        assert memo.get_or_build([x], lambda: 1) == 1
        assert memo.get_or_build([x], lambda: 2) == 1
        assert memo.get_or_build([x.clone()], lambda: 3) == 3


def test_what_is_remembered_is_computed_once_for_all_columns():
    class Counted(Cubic):
        slopes = curvatures = 0

        def jacobian(self, x: Tensor, *rest: Tensor) -> Tensor:
            Counted.slopes += 1
            return super().jacobian(x, *rest)

        def weighted_hessian(self, cotangent: Tensor, x: Tensor, *rest: Tensor) -> Tensor:
            Counted.curvatures += 1
            return super().weighted_hessian(cotangent, x, *rest)

    a = symmetric(COEFFICIENTS)
    pull_back = vjp(grad(lambda x: torch.sin(Counted()(x, a)).sum()), POINT)[1]
    for column in torch.eye(6, dtype=torch.float64).view(6, 2, 3):
        pull_back(column)
    chunked_vmap(lambda v: pull_back(v)[0], random(6, 2, 3), chunk_size=4)
    assert (Counted.slopes, Counted.curvatures) == (1, 1)


@every_function
def test_a_pull_back_that_is_kept_gives_the_same_columns_in_all_chunk_sizes(name):
    vectors = torch.cat([torch.eye(6, dtype=torch.float64).view(6, 2, 3), random(3, 2, 3, seed=9)])
    expected = vmap(vjp(grad(theirs(name)), POINT, COEFFICIENTS)[1])(vectors)
    pull_back = vjp(grad(ours(name)), POINT, COEFFICIENTS)[1]
    for chunk_size in (None, 1, 2, 4, "auto", None):
        for k in range(2):
            found = chunked_vmap(lambda v, k=k: pull_back(v)[k], vectors, chunk_size=chunk_size)
            assert_close(found, expected[k])
    for vector, column in zip(vectors, expected[0], strict=True):
        assert_close(pull_back(vector)[0], column)


def test_one_pull_back_takes_different_cotangents_along_one_direction():
    """Forward over reverse asks twice with the same point and tangent."""
    functions = EdgeGeometry(2), _vector_function(Cubic()), _vector_function(CubicAlong())
    for function in functions:

        def twice(x: Tensor, f: Any = function, call: Any = with_rules) -> Tensor:
            y, pull_back = vjp(lambda x: call(f, x), x)
            return pull_back(torch.sin(y))[0] + pull_back(torch.cos(y))[0] * x

        found = jvp(twice, (POINT,), (DIRECTION,))
        expected = jvp(lambda x, f=function: twice(x, f, plainly), (POINT,), (DIRECTION,))
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other)


def _vector_function(function: Cubic) -> LocalFunction:
    """With its coefficients."""
    a = symmetric(COEFFICIENTS)

    class Fixed(type(function)):  # type: ignore[misc]
        def __call__(self, x: Tensor, *rest: Tensor) -> Tensor:
            return super().__call__(x, a)

        def value(self, x: Tensor, *rest: Tensor) -> Tensor:
            return super().value(x, a)

    return Fixed()


class Holder(Primitive):
    """Remembers a tensor that a weak reference watches."""

    def __init__(self) -> None:
        self.memo = Memo()

    def value(self, *args: Any) -> tuple[Tensor, ...]:
        return (args[0] * args[0],)

    def compute(self, *args: Any) -> tuple[Tensor, ...]:
        return (self.memo.get_or_build(args, lambda: args[0] * args[0]),)


def _watched_pull_back(name: str) -> tuple[Callable[..., Any], list[weakref.ref[Tensor]]]:
    watched: list[weakref.ref[Tensor]] = []
    if name == "holder":
        p = Holder()
        pull_back = vjp(grad(lambda x: (p(x)[0] ** 2).sum()), POINT)[1]
        watched.append(weakref.ref(p.memo.result))
    else:

        class Watched(CubicAlong):
            def jacobian(self, x: Tensor, *rest: Tensor) -> Tensor:
                found = super().jacobian(x, *rest)
                watched.append(weakref.ref(found))
                return found

            def weighted_hessian(self, cotangent: Tensor, x: Tensor, *rest: Tensor) -> Tensor:
                found = super().weighted_hessian(cotangent, x, *rest)
                watched.append(weakref.ref(found))
                return found

        a, f = symmetric(COEFFICIENTS), Watched()
        pull_back = vjp(grad(lambda x: torch.sin(f(x, a)).sum()), POINT)[1]
        vmap(pull_back)(random(3, 2, 3))
        assert len(watched) == 2
    return pull_back, watched


@pytest.mark.parametrize("name", ["holder", "local function"])
def test_what_a_pull_back_remembers_is_released_with_it(name):
    gc.collect()
    gc.disable()  # it must not take a search for cycles
    try:
        pull_back, watched = _watched_pull_back(name)
        assert all(reference() is not None for reference in watched)
        del pull_back
        assert all(reference() is None for reference in watched)
    finally:
        gc.enable()


def test_a_gradient_leaves_nothing_behind():
    gc.collect()
    gc.disable()
    try:
        watched: list[weakref.ref[Tensor]] = []

        class Watched(Cubic):
            def jacobian(self, x: Tensor, *rest: Tensor) -> Tensor:
                found = super().jacobian(x, *rest)
                watched.append(weakref.ref(found))
                return found

        grad(lambda x: Watched()(x, symmetric(COEFFICIENTS)).sum())(POINT)
        assert len(watched) == 1
        assert watched[0]() is None
    finally:
        gc.enable()


# Joining and splitting.


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_join_and_split_undo_each_other(dim):
    parts = [random(2, 3, 4, seed=k) for k in range(3)]
    sizes = [part.shape[dim] for part in parts]
    joined = join(parts, dim)
    assert_close(joined, torch.cat(parts, dim), 0)
    for part, found in zip(parts, split(joined, sizes, dim), strict=True):
        assert_close(found, part, 0)


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_join_and_split_act_on_their_own_dimension_of_a_batch(dim, place):
    parts = [random(5, 2, 3, 4, seed=k) for k in range(2)]
    moved = [part.movedim(0, place) for part in parts]
    joined = vmap(lambda *parts: join(parts, dim), (place, place))(*moved)
    expected = torch.stack([torch.cat(pair, dim) for pair in zip(*parts, strict=True)])
    assert_close(joined, expected, 0)
    sizes = [part[0].shape[dim] for part in parts]
    found = vmap(lambda t: tuple(split(t, sizes, dim)), place)(joined.movedim(0, place))
    for part, piece in zip(parts, found, strict=True):
        assert_close(piece, part, 0)


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("place", [None, 0, 2])
def test_derivatives_of_join_and_split_are_those_of_torch(dim, place):
    shapes = [[2, 3, 4] for _ in range(3)]
    for k, shape in enumerate(shapes):
        shape[dim] = k + 1
    parts = tuple(random(*shape, seed=k) for k, shape in enumerate(shapes))
    weights = torch.cat([part + 1 for part in parts], dim)

    def number(ours: bool, *parts: Tensor) -> Tensor:
        joined = torch.sin(weights * (join(parts, dim) if ours else torch.cat(parts, dim)))
        pieces = split(joined, [2, 3, 1], dim) if ours else joined.split([2, 3, 1], dim)
        return sum((piece ** (2 + k)).sum() for k, piece in enumerate(pieces))

    def slopes(ours: bool) -> tuple[Tensor, ...]:
        first = grad(lambda *parts: number(ours, *parts), argnums=(0, 1, 2))
        if place is not None:
            first = vmap(first, (place, None, place), place)
        moved = [parts[0], 2 * parts[0]], [parts[2], 0.5 * parts[2]]
        x = parts if place is None else tuple(torch.stack(m, place) for m in moved)
        x = parts if place is None else (x[0], parts[1], x[1])
        value = first(*x)
        return *value, *jvp(first, x, tuple(map(torch.cos, x)))[1], *vjp(first, *x)[1](value)

    for found, expected in zip(slopes(True), slopes(False), strict=True):
        assert_close(found, expected)


def test_joining_with_a_part_that_does_not_move_has_its_tangent_zero():
    def f(x: Tensor) -> Tensor:
        return join([x * x, torch.ones(1, 3, dtype=torch.float64), x], 0)

    assert math.prod(f(POINT).shape) == 15
    tangent = jvp(f, (POINT,), (DIRECTION,))[1]
    expected = torch.cat([2 * POINT * DIRECTION, torch.zeros(1, 3), DIRECTION])
    assert_close(tangent, expected)
