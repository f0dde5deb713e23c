"""Functions of points against dense formulas: edge geometry, polynomials, density of neighbours."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from e3nn import o3
from helpers import assert_close, mostly_slow, random
from nestings import Function, forward, reverse
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from mace_functional.autodiff.columns import chunked_vmap
from mace_functional.autodiff.local import LocalFunction
from mace_functional.mace import polynomial
from mace_functional.mace.density import density
from mace_functional.mace.edge_geometry import EdgeGeometry, _gradient_matrices
from mace_functional.mace.polynomial import Monomials, Polynomials
from mace_functional.mace.radial_embedding import RadialEmbedding
from mace_functional.mace.radial_function import RadialFunction
from mace_functional.mace.radial_network import RadialNetwork
from mace_functional.mace.settings import Activation, RadialSettings
from mace_functional.structure.species import Species


def assert_rules(
    function: LocalFunction, value: Function, x: Tensor, rest: Sequence[Tensor], points: int
) -> None:
    """Jacobian, curvature and the rest of a local function against those of a plain one.

    The plain one takes all points together, and its Jacobian has to be zero between them.
    """
    expected = value(x)
    assert_close(function.value(x, *rest), expected)
    assert_close(function(x, *rest), expected)

    full = jacfwd(value)(x).flatten(0, points - 1).flatten(1 + 1, 1 + points)
    own = torch.arange(len(full))
    matrices = full.movedim(2, 1)[own, own].unflatten(0, x.shape[:points])
    assert_close(function.jacobian(x, *rest), matrices)
    for found, wanted in zip(
        function.value_and_jacobian(x, *rest), (expected, matrices), strict=True
    ):
        assert_close(found, wanted)

    g = random(*expected.shape, seed=77)
    curved = hessian(lambda x: (value(x) * g).sum())(x)
    curved = curved.flatten(0, points - 1).flatten(2, 1 + points).movedim(2, 1)
    curved = curved[own, own].unflatten(0, x.shape[:points])
    assert_close(function.weighted_hessian(g, x, *rest), curved)

    direction = random(*x.shape, seed=78)
    along = function.value_and_jacobian_along(direction, x, *rest)
    if along is not None:
        change = jvp(lambda x: function.jacobian(x, *rest), (x,), (direction,))[1]
        for found, wanted in zip(along, (expected, matrices, change), strict=True):
            assert_close(found, wanted)
        bent = (g[..., None, :] @ along[2])[..., 0, :]
        assert_close(bent, (curved @ direction[..., None])[..., 0])


# All nestings of transforms, of functions of one or several tensors.


def mapped(f: Function) -> Function:
    def function(x: Tensor, *rest: Tensor) -> Tensor:
        dims = (1, *[None] * len(rest))
        return vmap(f, dims)(torch.stack([x, 1.2 * x, 0.9 * x], 1), *rest).sum()

    return function


def mapped_over_the_second(f: Function) -> Function:
    def function(x: Tensor, a: Tensor, *rest: Tensor) -> Tensor:
        dims = (None, 0, *[None] * len(rest))
        return vmap(f, dims)(x, torch.stack([a, 1.2 * a]), *rest).sum()

    return function


def assert_nestings(
    found: Function,
    plain: Function,
    tensors: Sequence[Tensor],
    transforms: Sequence[Any],
    order: int,
    tolerance: float = 1e-11,
) -> None:
    for nesting in itertools.product(transforms, repeat=order):
        ours, theirs = found, plain
        for transform in nesting:
            ours, theirs = transform(ours), transform(theirs)
        expected = theirs(*tensors)
        for value in (ours(*tensors), ours(*tensors)):
            places = [transforms.index(t) for t in nesting]
            assert (value - expected).abs() <= tolerance * (1 + expected.abs()), places


# Lengths and harmonics.


def vectors(*shape: int, seed: int = 3) -> Tensor:
    return 1.5 * random(*shape, 3, seed=seed)


def plain_geometry(l_max: int) -> Function:
    """By e3nn, whose harmonics have no rules for nested forward mode; used where none is needed."""

    def function(x: Tensor) -> Tensor:
        irreps = o3.Irreps.spherical_harmonics(l_max)
        y = o3.spherical_harmonics(irreps, x, normalize=True, normalization="component")
        return torch.cat([x.norm(dim=-1, keepdim=True), y], -1)

    return function


@pytest.mark.parametrize("l_max", range(7))
def test_geometry_is_that_of_e3nn(l_max):
    axes = torch.cat([torch.eye(3), -torch.eye(3)]).double()
    x = torch.cat([vectors(20), 1.3 * axes])
    assert_close(EdgeGeometry(l_max)(x), plain_geometry(l_max)(x))


@pytest.mark.parametrize("l_max", range(7))
def test_first_derivatives_of_the_geometry_are_those_of_e3nn(l_max):
    x = vectors(6).requires_grad_()
    g = random(6, 1 + (l_max + 1) ** 2)
    (expected,) = torch.autograd.grad((plain_geometry(l_max)(x) * g).sum(), x)
    x = x.detach()
    assert_close(grad(lambda x: (EdgeGeometry(l_max)(x) * g).sum())(x), expected)
    assert_close((g[:, None] @ EdgeGeometry(l_max).jacobian(x))[:, 0], expected)


@pytest.mark.parametrize("l_max", range(7))
def test_geometry_has_the_jacobian_and_the_curvature_of_its_value(l_max):
    function = EdgeGeometry(l_max)
    assert_rules(function, function.value, vectors(2, 2), (), points=2)


def test_geometry_on_the_axes_has_the_jacobian_and_the_curvature_of_its_value():
    function = EdgeGeometry(4)
    axes = torch.cat([torch.eye(3), -torch.eye(3)]).double()
    assert_rules(function, function.value, 1.7 * axes, (), points=1)


@pytest.mark.parametrize("l_max", [0, 1, 3])
def test_curvature_of_the_geometry_is_symmetric_and_linear(l_max):
    x, function = vectors(4), EdgeGeometry(l_max)
    g, h = (random(4, 1 + (l_max + 1) ** 2, seed=k) for k in (1, 2))
    one, two = function.weighted_hessian(g, x), function.weighted_hessian(h, x)
    assert_close(one, one.mT)
    assert_close(function.weighted_hessian(2 * g - h, x), 2 * one - two)


def of_geometry(call: Callable[..., Tensor]) -> Function:
    return lambda x: torch.sin(call(EdgeGeometry(2), x + 0.1 * torch.sin(x))).sum()


def with_rules(function: LocalFunction, *args: Tensor) -> Tensor:
    return function(*args)


def plainly(function: LocalFunction, *args: Tensor) -> Tensor:
    return function.value(*args)


@pytest.mark.parametrize("order", mostly_slow([1, 2, 3], [1, 2]))
def test_all_nestings_of_the_geometry_equal_plain_ones(order):
    transforms = [forward(0), reverse(0), mapped]
    x = vectors(2, 2)
    assert_nestings(of_geometry(with_rules), of_geometry(plainly), (x,), transforms, order)


def test_fourth_derivative_of_the_geometry_equals_the_plain_one():
    x, transforms = vectors(2), (reverse(0), forward(0), reverse(0), forward(0))
    ours, theirs = of_geometry(with_rules), of_geometry(plainly)
    for transform in transforms:
        ours, theirs = transform(ours), transform(theirs)
    assert_close(ours(x), theirs(x), 1e-10)


def test_constants_of_the_geometry_may_be_asked_for_first_within_transforms():
    def change(x: Tensor, v: Tensor) -> Tensor:
        slope = grad(lambda x: torch.sin(EdgeGeometry(3)(x)).sum())
        return jvp(slope, (x,), (v,))[1]

    x, v = vectors(2, 4), vectors(2, 4, seed=4)
    expected = torch.stack([change(*pair) for pair in zip(x, v, strict=True)])
    _gradient_matrices.cache_clear()
    assert_close(vmap(change)(x, v), expected)
    assert _gradient_matrices.cache_info().misses == 1


@pytest.mark.parametrize(
    "mode",
    [torch.inference_mode, lambda: torch.device("meta"), forward_ad.dual_level, FakeTensorMode],
)
def test_constants_of_the_geometry_are_numbers_in_every_mode(
    mode: Callable[[], AbstractContextManager[Any]],
):
    expected = _gradient_matrices(3)
    _gradient_matrices.cache_clear()
    with mode():
        assert np.array_equal(_gradient_matrices(3), expected)


# Polynomials.


class Case(NamedTuple):
    """Small random polynomials: `symbols[p][nu - 1]` of shape (M, m, ..., m, k)."""

    symbols: list[list[Tensor]]
    weights: list[list[Tensor]]
    elements: tuple[int, ...]
    counts: tuple[int, ...]
    x: Tensor

    @property
    def rest(self) -> tuple[Tensor, ...]:
        return (*sum(self.weights, []), *sum(self.symbols, []))  # noqa: RUF017

    @property
    def function(self) -> Polynomials:
        return Polynomials(Monomials(self.symbols), self.elements, self.counts)

    def dense(self, x: Tensor, *rest: Tensor) -> Tensor:
        """The definition, node by node, with all zeros."""
        of_nodes = [e for e, n in zip(self.elements, self.counts, strict=True) for _ in range(n)]
        half, start, parts = len(rest) // 2, 0, []
        for symbols in self.symbols:
            total = 0
            for nu in range(1, len(symbols) + 1):
                w, u = rest[start], rest[half + start]
                start += 1
                m = "abcd"[:nu]
                factors = ",".join(f"nu{letter}" for letter in m)
                formula = f"M{m}k,nku,{factors}->nuM"
                total = total + torch.einsum(formula, u, w[of_nodes], *[x] * nu)
            parts.append(total)
        return torch.cat(parts, -1)


KINDS = ["symmetric", "not symmetric", "partly antisymmetric", "dense"]


def make_symbols(dimension: int, correlation: int, components: int, kind: str) -> list[Tensor]:
    """Eighths, so that sums over the orders of the components are exact."""
    out = []
    for nu in range(1, correlation + 1):
        shape = dimension, *[components] * nu, 2

        def eighths(seed: int, shape: tuple[int, ...] = shape) -> Tensor:
            return (8 * random(*shape, seed=seed)).round() / 8

        def zeros(seed: int, shape: tuple[int, ...] = shape) -> Tensor:
            return (random(*shape[:-1], seed=seed) > 0.6)[..., None]

        u = eighths(100 * dimension + nu)
        orders = [(0, *p, nu + 1) for p in itertools.permutations(range(1, nu + 1))]
        if kind != "dense":
            u = u * zeros(7 * nu + dimension)
        if kind == "symmetric":
            u = sum(u.permute(p) for p in orders)
        if kind == "partly antisymmetric" and nu > 1:
            v = eighths(200 * dimension + nu) * zeros(9 * nu + dimension)
            u = u + v - v.transpose(1, 2)
        out.append(u)
    return out


def make_case(
    correlations: Sequence[int] = (3, 2),
    kind: str = "not symmetric",
    counts: tuple[int, ...] = (2, 1, 2),
    components: int = 3,
    channels: int = 2,
) -> Case:
    elements = (3, 0, 2)[: len(counts)]
    symbols = [
        make_symbols(dimension, correlation, components, kind)
        for dimension, correlation in zip((1, 3, 2), correlations, strict=False)
    ]
    weights = [
        [random(4, 2, channels, seed=50 * p + nu) for nu in range(len(us))]
        for p, us in enumerate(symbols)
    ]
    return Case(symbols, weights, elements, counts, random(sum(counts), channels, components))


@pytest.mark.parametrize("correlations", [(1,), (2,), (3,), (4,), (3, 1), (1, 4), (2, 3, 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_polynomials_and_their_rules_equal_a_dense_sum(correlations, kind):
    case = make_case(correlations, kind)

    def dense(x: Tensor) -> Tensor:
        return case.dense(x, *case.rest)

    assert_rules(case.function, dense, case.x, case.rest, points=2)


@pytest.mark.parametrize("counts", [(4,), (0, 3), (2, 0, 1), (3, 0, 0), (1, 1, 1)])
def test_polynomials_for_any_number_of_nodes_of_an_element(counts):
    case = make_case(counts=counts)

    def dense(x: Tensor) -> Tensor:
        return case.dense(x, *case.rest)

    assert_rules(case.function, dense, case.x, case.rest, points=2)


def test_symbols_that_are_all_zero_give_zero():
    case = make_case((2,))
    zeros = [[torch.zeros_like(u) for u in us] for us in case.symbols]
    case = case._replace(symbols=zeros)
    value, jacobian = case.function.value_and_jacobian(case.x, *case.rest)
    assert torch.equal(value, torch.zeros(5, 2, 1, dtype=torch.float64))
    assert torch.equal(jacobian, torch.zeros(5, 2, 1, 3, dtype=torch.float64))
    assert not case.function.weighted_hessian(value, case.x, *case.rest).any()


def test_components_that_no_polynomial_reads_have_derivative_zero():
    case = make_case((3, 2), "dense")
    for symbols in case.symbols:
        for u in symbols:
            for dim in range(1, u.ndim - 1):
                u.select(dim, 1).zero_()
    jacobian = case.function.jacobian(case.x, *case.rest)
    assert not jacobian[..., 1].any()
    assert jacobian[..., [0, 2]].all()
    assert_close(case.function(case.x, *case.rest), case.dense(case.x, *case.rest))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ["value", "jacobian", "curvature"])
def test_derivatives_of_polynomials_in_the_weights_equal_dense_ones(kind, order):
    case = make_case((2, 3), kind)
    count = len(case.rest) // 2
    found, expected = (
        grad(of_order(function, order, case), argnums=tuple(range(1, 1 + count)))(
            case.x, *case.rest
        )
        for function in (case.function.value, case.dense)
    )
    for one, other in zip(found, expected, strict=True):
        assert other[1].abs().max() == 0  # an element that is absent
        assert_close(one, other)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ["value", "jacobian", "curvature"])
def test_derivatives_of_polynomials_in_the_symbols_equal_dense_ones_where_they_are_not_zero(
    kind, order
):
    case = make_case((2, 3), kind)
    count = len(case.rest) // 2
    places = tuple(range(1 + count, 1 + 2 * count))
    found, expected = (
        grad(of_order(function, order, case), argnums=places)(case.x, *case.rest)
        for function in (case.function.value, case.dense)
    )
    for one, other, u in zip(found, expected, case.rest[count:], strict=True):
        orders = itertools.permutations(range(1, u.ndim - 1))
        total = sum(u.permute(0, *p, u.ndim - 1) for p in orders)
        present = (total != 0).any(-1, keepdim=True)
        assert_close(one, other * present)


def of_order(function: Function, order: str, case: Case) -> Function:
    """A number that has the rules of the polynomials in it; for dense sums, plain derivatives."""
    x, g = case.x, random(*case.dense(case.x, *case.rest).shape, seed=3)
    d = random(*x.shape, seed=4)
    ours = function.__self__ if function.__name__ != "dense" else None

    def number(x: Tensor, *rest: Tensor) -> Tensor:
        if order == "value":
            y = function(x, *rest)
        elif order == "jacobian" and ours:
            y = (ours.jacobian(x, *rest) @ d[..., None])[..., 0]
        elif order == "jacobian":
            y = jvp(lambda x: function(x, *rest), (x,), (d,))[1]
        elif ours:
            return (d[..., None, :] @ ours.weighted_hessian(g, x, *rest) @ d[..., None]).sum()
        else:
            y = twice(lambda x: function(x, *rest), x, d)
        return (y * g).sum()

    return number


def twice(f: Function, x: Tensor, d: Tensor) -> Tensor:
    return jvp(lambda x: jvp(f, (x,), (d,))[1], (x,), (d,))[1]


@pytest.mark.parametrize("cached", [1, 40, 500, 2**40])
def test_blocks_of_nodes_give_the_same_polynomials(monkeypatch, cached):
    case = make_case((3, 2), counts=(7, 0, 5))
    g, d = random(12, 2, 4, seed=5), random(12, 2, 3, seed=6)

    def results() -> list[Tensor]:
        function = case.function
        slope = grad(lambda x: torch.sin(function(x, *case.rest)).sum())
        return [
            *function.value_and_jacobian(case.x, *case.rest),
            *function.value_and_jacobian_along(d, case.x, *case.rest),
            function.weighted_hessian(g, case.x, *case.rest),
            *jvp(slope, (case.x,), (d,)),
            vmap(vjp(slope, case.x)[1])(torch.stack([d, 2 * d]))[0],
        ]

    before = results()
    monkeypatch.setattr(polynomial, "MAX_BLOCK_FLOATS", cached)
    for found, expected in zip(results(), before, strict=True):
        assert_close(found, expected, 1e-14)


def of_polynomials(call: Callable[..., Tensor], case: Case) -> Function:
    """Of x, the weights of one term and its symbols."""
    rest, function = list(case.rest), case.function
    half = len(rest) // 2

    def number(x: Tensor, w: Tensor, u: Tensor) -> Tensor:
        every = list(rest)
        every[1], every[half + 1] = torch.sin(w), u * u
        y = call(function, torch.sin(x), *every)
        return torch.sin(y).sum()

    return number


@pytest.mark.parametrize("order", [1, 2])
def test_all_nestings_of_polynomials_equal_dense_ones(order):
    case = make_case((2, 3), "dense", counts=(1, 2))
    half = len(case.rest) // 2
    tensors = case.x, case.rest[1], case.rest[half + 1]
    transforms = [*map(forward, range(3)), *map(reverse, range(3)), mapped, mapped_over_the_second]
    ours = of_polynomials(with_rules, case)
    theirs = of_polynomials(lambda _, *args: case.dense(*args), case)
    assert_nestings(ours, theirs, tensors, transforms, order)


@pytest.mark.parametrize("outermost", [reverse(0), forward(1), reverse(2)])
def test_third_derivatives_of_polynomials_equal_dense_ones(outermost):
    case = make_case((3,), "dense", counts=(1, 1), channels=1)
    half = len(case.rest) // 2
    tensors = case.x, case.rest[1], case.rest[half + 1]
    transforms = [forward(0), reverse(0), forward(1), reverse(1)]
    ours = of_polynomials(with_rules, case)
    theirs = of_polynomials(lambda _, *args: case.dense(*args), case)
    for nesting in itertools.product(transforms, repeat=2):
        found, expected = (outermost(nesting[1](nesting[0](f)))(*tensors) for f in (ours, theirs))
        assert (found - expected).abs() <= 1e-11 * (1 + expected.abs())


@pytest.mark.parametrize("chunk_size", [1, 2, None])
def test_columns_of_polynomials_equal_dense_ones(chunk_size):
    case = make_case((4, 2), "dense")

    def slope(f: Function) -> Function:
        return grad(lambda x: torch.sin(f(x, *case.rest)).sum())

    columns = torch.eye(case.x.numel(), dtype=torch.float64).view(-1, *case.x.shape)
    expected = jacrev(slope(case.dense))(case.x).flatten(0, 2)
    pull_back = vjp(slope(case.function), case.x)[1]
    for _ in range(2):
        found = chunked_vmap(lambda v: pull_back(v)[0], columns, chunk_size=chunk_size)
        assert_close(found, expected)
    for v, column in zip(columns[:3], expected, strict=False):
        assert_close(jvp(slope(case.function), (case.x,), (v,))[1], column)


# The density of neighbours.

SENDERS = torch.tensor([[1, 2, 3], [0, 3, 3], [0, 1, 3], [2, 2, 1]])
SPECIES = Species((0, 1), (1, 8), (2, 2))
MASK = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 1], [1, 1, 1]], dtype=torch.float64)[..., None]
R_MAX = 4.0


def edges_of(lengths: Tensor) -> Any:
    """Edges of which only senders and lengths matter."""
    return SimpleNamespace(senders=SENDERS, lengths=lambda: (lengths, MASK))


class Density:
    """The engine's, and the formula written out, of lengths and tensors."""

    def __init__(self, late: bool) -> None:
        self.late = late
        self.embedding = RadialEmbedding(
            RadialSettings("gaussian", 5, 5, apply_cutoff=not late, gaussian_coefficient=-0.8)
        )
        grid = torch.linspace(0, R_MAX, 5, dtype=torch.float64)
        self.embedding.bessel_fn.register_buffer("gaussian_weights", grid)
        r_max = torch.tensor(R_MAX, dtype=torch.float64)
        self.embedding.cutoff_fn.register_buffer("r_max", r_max)
        self.network = RadialNetwork(2, Activation("silu", 1.6))
        for layer, shape in zip(self.network.children(), [(9, 4), (4, 1)], strict=True):
            layer.weight = nn.Parameter(random(*shape, seed=shape[0]))
        nodes = random(4, 3, seed=31), random(4, 1, seed=32)
        self.radial = RadialFunction(self.embedding, self.network, SPECIES, SPECIES, nodes)
        self.tensors = tuple(t.detach() for t in self.radial.tensors)

    def __call__(self, r: Tensor, *tensors: Tensor) -> Tensor:
        radial = RadialFunction(self.embedding, self.network, SPECIES, SPECIES)
        radial.widths, radial.tensors = self.radial.widths, tensors
        return density(radial, edges_of(r))

    def plain(self, r: Tensor, *tensors: Tensor) -> Tensor:
        named = [name for name, _ in self.embedding.named_buffers()]
        state = dict(zip(named, tensors, strict=False))
        source, target, first, second = tensors[len(named) :]
        r_max = state["cutoff_fn.r_max"]
        u = r / r_max
        cutoff = torch.where(u < 1, 1 - 21 * u**5 + 35 * u**6 - 15 * u**7, 0.0)
        basis = torch.exp(-0.8 * (r - state["bessel_fn.gaussian_weights"]) ** 2)
        basis = basis if self.late else basis * cutoff
        x = torch.cat([basis, source[SENDERS], target[:, None].expand(-1, 3, -1)], -1) @ first / 3
        d = 1.6 * x * torch.sigmoid(x) @ second / 2
        rho = torch.tanh(d * d) * (cutoff if self.late else 1.0)
        return (rho * MASK).sum(1, keepdim=True)


def lengths() -> Tensor:
    generator = torch.Generator().manual_seed(8)
    r = 0.8 + 3 * torch.rand(4, 3, 1, dtype=torch.float64, generator=generator)
    r[3, 0] = 4.2  # beyond the cutoff
    return r


@pytest.mark.parametrize("late", [False, True])
def test_density_is_that_of_its_formula_with_all_derivatives(late):
    case, r = Density(late), lengths()

    def number(f: Function) -> Function:
        return lambda r, *tensors: torch.sin(f(r, *tensors)).sum()

    arguments = r, *case.tensors
    assert_close(case(*arguments), case.plain(*arguments))
    assert case(*arguments).shape == (4, 1, 1)
    places = tuple(range(len(arguments)))
    found, expected = (grad(number(f), argnums=places)(*arguments) for f in (case, case.plain))
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other)
    assert_close(hessian(number(case))(*arguments), hessian(number(case.plain))(*arguments))


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("order", [1, 2])
def test_all_nestings_of_the_density_equal_plain_ones(late, order):
    case, r = Density(late), lengths()
    tensors = r, *case.tensors
    moving = [0, 3, len(tensors) - 1]  # lengths, vectors of the senders, the last weight
    transforms = [*map(forward, moving), *map(reverse, moving), mapped]

    def number(f: Function) -> Function:
        return lambda r, *tensors: torch.sin(f(r, *tensors)).sum()

    assert_nestings(number(case), number(case.plain), tensors, transforms, order)


def test_third_derivatives_of_the_density_equal_plain_ones():
    case, r = Density(True), lengths()

    def number(f: Function) -> Function:
        return lambda r: torch.sin(f(r, *case.tensors)).sum()

    transforms = [forward(0), reverse(0)]
    assert_nestings(number(case), number(case.plain), (r,), transforms, 3, 1e-10)


def test_density_in_the_parameters_of_its_modules_equals_that_in_its_tensors():
    case, r = Density(False), lengths()

    def number(weights: dict[str, Tensor]) -> Tensor:
        class Whole(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.network = case.network

            def forward(self, r: Tensor) -> Tensor:
                radial = RadialFunction(case.embedding, self.network, SPECIES, SPECIES, nodes)
                return density(radial, edges_of(r)).sum()

        return functional_call(Whole(), weights, (r,))

    nodes = case.tensors[-4:-2]
    weights = {f"network.layer{k}.weight": t for k, t in enumerate(case.tensors[-2:])}
    found = grad(number)(weights)
    expected = grad(lambda *t: case.plain(r, *t).sum(), argnums=(-2, -1))(*case.tensors)
    for one, other in zip(found.values(), expected, strict=True):
        assert_close(one, other)
