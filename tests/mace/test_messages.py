"""Messages, their formulas and their rules, against the sum over neighbours written with einsum."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from helpers import assert_close, mostly_slow, random
from nestings import Function, direction_like, forward, forward_in_all, mapped, reverse
from torch import Tensor, nn
from torch.func import grad, hessian, jvp, vjp, vmap

from mace_functional.autodiff.columns import chunked_vmap
from mace_functional.autodiff.derivative_rules import apply_operation
from mace_functional.autodiff.jets import Jet
from mace_functional.mace import message_passing
from mace_functional.mace.message_passing import MessagePassing
from mace_functional.mace.messages import (
    Path,
    Variables,
    Weighted,
    edge_products,
    gradient,
    messages,
    push_forward,
    weight_features,
)
from mace_functional.mace.messages import hessian as message_hessian
from mace_functional.mace.radial_embedding import RadialEmbedding
from mace_functional.mace.radial_function import RadialFunction
from mace_functional.mace.radial_inputs import RadialInputs
from mace_functional.mace.radial_network import RadialNetwork
from mace_functional.mace.settings import Activation, RadialSettings
from mace_functional.structure.species import Species

PATHS = [
    Path(0, 0, 0, 0, 2),
    Path(1, 1, 1, 0, 3),
    Path(0, 0, 1, 1, 2),
    Path(1, 1, 0, 1, 3),
    Path(1, 1, 1, 2, 3),
]
SOURCES = [(0, 2), (1, 3)]
"""Degree and channels."""
NODES, NEIGHBOURS, NUMBER = 5, 3, 4
SENDERS = torch.tensor([[1, 2, 2], [0, 3, 1], [0, 1, 4], [3, 3, 3], [3, 0, 1]])
"""With neighbours that come twice, and nodes that are their own neighbours."""
SPECIES = Species((0, 1), (1, 8), (2, 3))


def assert_all_equal(
    found: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float = 1e-12
) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, tolerance)


# Variables and the radial function.


class CountingRadialFunction(RadialFunction):
    """Counts how often its network runs."""

    count = 0

    def jet(self, tensors: Sequence[Tensor], inputs: RadialInputs) -> Jet:
        CountingRadialFunction.count += 1
        return super().jet(tensors, inputs)


def make_radial() -> CountingRadialFunction:
    settings = RadialSettings("gaussian", 5, 5, apply_cutoff=False, gaussian_coefficient=-0.8)
    embedding = RadialEmbedding(settings)
    grid = torch.linspace(0, 4, 5, dtype=torch.float64)
    embedding.bessel_fn.register_buffer("gaussian_weights", grid)
    embedding.cutoff_fn.register_buffer("r_max", torch.tensor(4.0, dtype=torch.float64))
    network = RadialNetwork(2, Activation("silu", 1.6))
    outputs = sum(path.channels for path in PATHS)
    for layer, shape in zip(network.children(), [(8, 4), (4, outputs)], strict=True):
        layer.weight = nn.Parameter(random(*shape, seed=shape[0]), requires_grad=False)
    nodes = random(NODES, 2, seed=31), random(NODES, 1, seed=32)
    return CountingRadialFunction(embedding, network, SPECIES, SPECIES, nodes)


RADIAL = make_radial()
LENGTHS = 0.8 + 2.9 * torch.sigmoid(random(NODES, NEIGHBOURS, 1, seed=1))
COUPLINGS = [
    random(NODES, NEIGHBOURS, 2 * p.l1 + 1, 2 * p.l3 + 1, seed=10 + k) for k, p in enumerate(PATHS)
]
FEATURES = [random(NODES, 2 * degree + 1, n, seed=20 + n) for degree, n in SOURCES]
COTANGENTS = [random(NODES, 2 * p.l3 + 1, p.channels, seed=30 + k) for k, p in enumerate(PATHS)]

TENSORS = (LENGTHS, *COUPLINGS, *FEATURES, *(t.detach() for t in RADIAL.tensors))
"""All that messages depend on, and the places of some."""
LENGTH, COUPLING, FEATURE = 0, 2, len(TENSORS) - len(RADIAL.tensors) - 1
SOURCE_VECTORS, LAST_WEIGHT = len(TENSORS) - 4, len(TENSORS) - 1


def parts(tensors: Sequence[Tensor]) -> tuple[Tensor, Any, Any, Any]:
    """Lengths, couplings, features and radial tensors."""
    first, second = 1 + len(PATHS), 1 + len(PATHS) + len(SOURCES)
    return tensors[0], tensors[1:first], tensors[first:second], tensors[second:]


def radial_weights(lengths: Tensor, tensors: Sequence[Tensor], order: int = 0) -> Jet:
    inputs = RADIAL.inputs(lengths, SENDERS, tensors, order)
    return RADIAL.jet(tensors, inputs)


def plain_sums(
    lengths: Tensor, couplings: Sequence[Tensor], sent: Sequence[Tensor], tensors: Sequence[Tensor]
) -> list[Tensor]:
    """Messages from the features of the senders of each edge (nodes, K, 2 l1+1, channels)."""
    weights = radial_weights(lengths, tensors)[0].split([p.channels for p in PATHS], -1)
    return [
        torch.einsum("ijac,iju,ijau->icu", t, w, sent[path.source])
        for path, t, w in zip(PATHS, couplings, weights, strict=True)
    ]


def plain_messages(*tensors: Tensor) -> list[Tensor]:
    lengths, couplings, features, radial = parts(tensors)
    return plain_sums(lengths, couplings, [h[SENDERS] for h in features], radial)


class Engine:
    """The messages of the engine, from one object for all calls."""

    def __init__(self) -> None:
        self.passing = MessagePassing(PATHS, RADIAL)

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        lengths, couplings, features, radial = parts(tensors)
        self.passing.radial = with_tensors(radial)
        x = [lengths, *couplings, *features]
        return list(apply_operation(self.passing, x, [SENDERS, *self.passing.radial.tensors]))


def fresh(*tensors: Tensor) -> list[Tensor]:
    """The messages of an object that is made for this call."""
    return Engine()(*tensors)


def with_tensors(tensors: Sequence[Tensor]) -> RadialFunction:
    radial = CountingRadialFunction(RADIAL.embedding, RADIAL.network, SPECIES, SPECIES)
    radial.widths, radial.tensors = RADIAL.widths, tuple(tensors)
    return radial


# The formulas, for all nodes and several vectors.


def sent_features() -> list[Tensor]:
    return [h[SENDERS] for h in FEATURES]


def variables() -> Variables:
    return Variables(LENGTHS, COUPLINGS, FEATURES, COTANGENTS)


def vectors(seed: int = 50) -> tuple[list[Tensor], Variables]:
    """Several vectors (number, ...) of lengths, couplings and sent features, and their layout."""
    primals = [LENGTHS, *COUPLINGS, *sent_features()]
    every = [random(NUMBER, *t.shape, seed=seed + k) for k, t in enumerate(primals)]
    placed = [v.movedim(0, -2) for v in every]
    count = 1 + len(PATHS)
    return every, Variables(placed[0], placed[1:count], placed[count:])


def potential(lengths: Tensor, *others: Tensor) -> Tensor:
    """Phi of lengths, couplings and sent features."""
    count = len(PATHS)
    sums = plain_sums(lengths, others[:count], others[count:], RADIAL.tensors)
    return sum((g * a).sum() for g, a in zip(COTANGENTS, sums, strict=True))


ARGUMENTS = (LENGTHS, *COUPLINGS, *[h[SENDERS] for h in FEATURES])


def test_messages_are_the_sum_over_neighbours():
    jet = radial_weights(LENGTHS, RADIAL.tensors)
    edges, curvature = edge_products(PATHS, variables(), SENDERS, jet, False)
    assert not edges.weights
    assert not edges.slopes
    assert not curvature.lengths
    assert_all_equal(messages(variables(), edges), plain_messages(*TENSORS))


@pytest.mark.parametrize("features", [False, True])
def test_gradient_is_that_of_the_potential_for_several_cotangents(features):
    jet = radial_weights(LENGTHS, RADIAL.tensors, 1)
    edges, _ = edge_products(PATHS, variables(), SENDERS, jet, features)
    several = [random(NODES, NUMBER, *g.shape[1:], seed=40) for g in COTANGENTS]
    found = gradient(PATHS, variables(), edges, several, features)
    results = [found.lengths, *found.couplings, *found.features]

    def phi(g: Sequence[Tensor], lengths: Tensor, *others: Tensor) -> Tensor:
        count = len(PATHS)
        sums = plain_sums(lengths, others[:count], others[count:], RADIAL.tensors)
        return sum((one * a).sum() for one, a in zip(g, sums, strict=True))

    places = tuple(range(1, 1 + len(ARGUMENTS) - (0 if features else len(SOURCES))))
    for k in range(NUMBER):
        expected = grad(phi, places)([g[:, k] for g in several], *ARGUMENTS)
        assert_all_equal([t.select(-2, k) for t in results], expected)


@pytest.mark.parametrize("moved", [False, True])
def test_push_forward_is_the_change_of_the_messages_along_several_vectors(moved):
    jet = radial_weights(LENGTHS, RADIAL.tensors, 1)
    edges, _ = edge_products(PATHS, variables(), SENDERS, jet, moved)
    every, v = vectors()
    if not moved:
        v = v._replace(features=())
        every[-2:] = [torch.zeros_like(t) for t in every[-2:]]
    found = push_forward(variables(), edges, v, weight_features(PATHS, edges, v))
    count = 1 + len(PATHS)

    def sums(*t: Tensor) -> tuple[Tensor, ...]:
        return tuple(plain_sums(t[0], t[1:count], t[count:], RADIAL.tensors))

    for k in range(NUMBER):
        expected = jvp(sums, ARGUMENTS, tuple(t[k] for t in every))[1]
        assert_all_equal([t[:, k] for t in found], expected)


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("features", [False, True])
def test_hessian_is_that_of_the_potential_for_several_vectors(moved, features):
    jet = radial_weights(LENGTHS, RADIAL.tensors, 2)
    edges, curvature = edge_products(PATHS, variables(), SENDERS, jet, moved or features)
    every, v = vectors()
    if not moved:
        v = v._replace(features=())
        every[-2:] = [torch.zeros_like(t) for t in every[-2:]]
    moving = weight_features(PATHS, edges, v)
    found = message_hessian(
        PATHS, curvature, v, [Weighted(variables().cotangents, edges, moving)], features
    )
    results = [found.lengths, *found.couplings, *found.features]
    places = tuple(range(len(ARGUMENTS) - (0 if features else len(SOURCES))))
    assert len(results) == len(places)
    for k in range(NUMBER):
        expected = jvp(grad(potential, places), ARGUMENTS, tuple(t[k] for t in every))[1]
        assert_all_equal([t.select(-2, k) for t in results], expected)


def test_hessian_is_symmetric():
    jet = radial_weights(LENGTHS, RADIAL.tensors, 2)
    edges, curvature = edge_products(PATHS, variables(), SENDERS, jet, True)
    every, v = vectors()
    term = Weighted(variables().cotangents, edges, weight_features(PATHS, edges, v))
    found = message_hessian(PATHS, curvature, v, [term], True)
    results = [found.lengths, *found.couplings, *found.features]
    flat = torch.cat([t.flatten(1) for t in every], 1)
    products = torch.cat([t.movedim(-2, 0).flatten(1) for t in results], 1)
    assert_close(flat @ products.T, products @ flat.T)


@pytest.mark.parametrize("rows", [slice(0, 2), slice(2, 5), slice(3, 4)])
def test_some_nodes_have_the_derivatives_that_they_have_among_all(rows):
    every, v = vectors()
    results = []
    for some in (slice(None), rows):
        jet = [d[some] for d in radial_weights(LENGTHS, RADIAL.tensors, 2)]
        here, senders = variables().of(some), SENDERS[some]
        edges, curvature = edge_products(PATHS, here, senders, jet, True)
        near = v.of(some)._replace(features=[f[some] for f in v.features])
        moving = weight_features(PATHS, edges, near)
        term = Weighted(here.cotangents, edges, moving)
        found = message_hessian(PATHS, curvature, near, [term], True)
        pushed = push_forward(here, edges, near, moving)
        results.append([found.lengths, *found.couplings, *found.features, *pushed])
    assert_all_equal(results[1], [t[rows] for t in results[0]], 1e-14)
    assert len(every) == len(ARGUMENTS)


def test_blocks_are_put_together_in_their_places():
    jet = radial_weights(LENGTHS, RADIAL.tensors, 2)
    found = edge_products(PATHS, variables(), SENDERS, jet, True)
    for whole in found:
        other = whole.room_for(NODES)
        for rows in (slice(3, 5), slice(0, 3)):
            other.fill(rows, whole.of(rows))
        for name in whole.__dataclass_fields__:
            assert getattr(whole, name)
            assert_all_equal(getattr(other, name), getattr(whole, name), 0)


# The messages as a function with rules.


def number_of(f: Callable[..., list[Tensor]]) -> Function:
    """A number in which everything is non-linear."""

    def number(*tensors: Tensor) -> Tensor:
        lengths, couplings, features, radial = parts(tensors)
        lengths = lengths + 0.1 * torch.sin(lengths)
        others = [torch.sin(t) for t in (*couplings, *features)]
        return sum(torch.sin(a).sum() for a in f(lengths, *others, *radial))

    return number


def reverse_in_all(f: Function) -> Function:
    def derivative(*t: Tensor) -> Tensor:
        slopes = grad(f, tuple(range(len(t))))(*t)
        return sum((s * direction_like(s, k)).sum() for k, s in enumerate(slopes))

    return derivative


MOVING = [LENGTH, COUPLING, FEATURE, SOURCE_VECTORS, LAST_WEIGHT]
FIRST = {
    **{f"f{k}": forward(k) for k in MOVING},
    **{f"r{k}": reverse(k) for k in MOVING},
    "f": forward_in_all,
    "r": reverse_in_all,
    **{f"v{k}": mapped(k) for k in (LENGTH, FEATURE)},
}
SECOND = list(itertools.product(FIRST, repeat=2))
THIRD = [
    (a, b, c)
    for a, b, c in [
        *itertools.product([f"f{LENGTH}", f"r{LENGTH}"], repeat=3),
        ("f", "r", "f"),
        ("r", "f", "f"),
        (f"r{FEATURE}", f"f{COUPLING}", f"r{LENGTH}"),
        (f"f{FEATURE}", f"r{LENGTH}", f"f{COUPLING}"),
        (f"r{LENGTH}", f"f{LENGTH}", f"r{LAST_WEIGHT}"),
        (f"r{LENGTH}", f"f{FEATURE}", f"f{LAST_WEIGHT}"),
        (f"f{LAST_WEIGHT}", f"r{COUPLING}", f"f{LENGTH}"),
        (f"r{SOURCE_VECTORS}", f"r{LENGTH}", f"f{FEATURE}"),
        (f"r{FEATURE}", f"v{LENGTH}", f"f{LENGTH}"),
    ]
]


def assert_nestings(nestings: Iterator[tuple[str, ...]], tolerance: float) -> None:
    """One object for a nesting twice, against the plain function."""
    for names in nestings:
        ours, theirs = number_of(Engine()), number_of(plain_messages)
        for name in names:
            ours, theirs = FIRST[name](ours), FIRST[name](theirs)
        expected = theirs(*TENSORS)
        for value in (ours(*TENSORS), ours(*TENSORS)):
            assert (value - expected).abs() <= tolerance * (1 + expected.abs()), names


def test_message_passing_gives_the_sum_over_neighbours():
    assert_all_equal(fresh(*TENSORS), plain_messages(*TENSORS))


def test_all_first_derivatives_equal_those_of_the_sum():
    assert_nestings(((name,) for name in FIRST), 1e-12)
    places = tuple(range(len(TENSORS)))
    found, expected = (
        grad(number_of(f), argnums=places)(*TENSORS) for f in (fresh, plain_messages)
    )
    assert_all_equal(found, expected)
    assert all(t.abs().max() > 1e-3 for t in expected)


@pytest.mark.parametrize("outer", mostly_slow(FIRST, {"r"}))
def test_all_nestings_of_two_transforms_equal_those_of_the_sum(outer):
    assert_nestings(((inner, outer) for inner in FIRST), 1e-12)


@pytest.mark.parametrize(
    "nesting",
    mostly_slow(map("-".join, THIRD), list(map("-".join, [THIRD[1], THIRD[6], *THIRD[8:]]))),
)
def test_third_derivatives_equal_those_of_the_sum(nesting):
    assert_nestings(iter([tuple(nesting.split("-"))]), 1e-11)


def test_a_fourth_derivative_equals_that_of_the_sum():
    assert_nestings(iter([(f"r{LENGTH}", f"f{FEATURE}", f"f{LENGTH}", f"r{COUPLING}")]), 1e-10)


def of_variables(f: Callable[..., list[Tensor]]) -> Function:
    """Of lengths, couplings and features as one vector."""
    shapes = [t.shape for t in TENSORS[: 1 + len(PATHS) + len(SOURCES)]]
    sizes = [s.numel() for s in shapes]
    radial = TENSORS[len(shapes) :]

    def number(flat: Tensor) -> Tensor:
        pieces = [p.view(s) for p, s in zip(flat.split(sizes), shapes, strict=True)]
        return number_of(f)(*pieces, *radial)

    return number


FLAT = torch.cat([t.flatten() for t in TENSORS[: 1 + len(PATHS) + len(SOURCES)]])


def test_the_whole_hessian_equals_that_of_the_sum():
    expected = hessian(of_variables(plain_messages))(FLAT)
    assert_close(hessian(of_variables(fresh))(FLAT), expected)
    columns = vmap(vjp(grad(of_variables(fresh)), FLAT)[1])(torch.eye(len(FLAT)).double())[0]
    assert_close(columns, expected)


@pytest.mark.parametrize("variable", ["lengths", "all"])
@pytest.mark.parametrize("chunk_size", [1, 3, "auto", None])
def test_columns_in_chunks_equal_those_of_the_sum(variable, chunk_size):
    def slope(f: Callable[..., list[Tensor]]) -> tuple[Function, Tensor]:
        if variable == "all":
            return grad(of_variables(f)), FLAT
        return grad(lambda r: number_of(f)(r, *TENSORS[1:])), LENGTHS

    plain, x = slope(plain_messages)
    columns = random(8, *x.shape, seed=60)
    expected = vmap(vjp(plain, x)[1])(columns)[0]
    pull_back = vjp(slope(Engine())[0], x)[1]
    for _ in range(2):
        found = chunked_vmap(lambda v: pull_back(v)[0], columns, chunk_size=chunk_size)
        assert_close(found, expected)
    push = slope(Engine())[0]
    found = chunked_vmap(lambda v: jvp(push, (x,), (v,))[1], columns, chunk_size=chunk_size)
    assert_close(found, expected)


def test_a_batch_may_lie_in_any_dimension_of_some_of_the_vectors():
    def slope(f: Callable[..., list[Tensor]]) -> Function:
        before, after = TENSORS[2:FEATURE], TENSORS[FEATURE + 1 :]
        return grad(lambda r, t, h: number_of(f)(r, t, *before, h, *after))

    f, plain = slope(Engine()), slope(plain_messages)
    primals = TENSORS[0], TENSORS[1], TENSORS[FEATURE]
    tangents = [random(3, *t.shape, seed=70 + k) for k, t in enumerate(primals)]
    for dims in [(0, None, None), (None, 2, None), (None, None, 1), (1, 0, None), (2, 3, 0)]:
        moved = tuple(
            t[0] if dim is None else t.movedim(0, dim)
            for t, dim in zip(tangents, dims, strict=True)
        )
        found, expected = (
            vmap(lambda *d, f=f: jvp(f, primals, d)[1], dims)(*moved) for f in (f, plain)
        )
        assert_close(found, expected)


def test_hessian_vector_products_agree_in_all_ways_to_nest_them():
    x, v = FLAT, random(len(FLAT), seed=80)
    f, plain = of_variables(fresh), of_variables(plain_messages)
    expected = jvp(grad(plain), (x,), (v,))[1]
    ways = {
        "forward over reverse": jvp(grad(f), (x,), (v,))[1],
        "reverse over forward": grad(lambda x: jvp(f, (x,), (v,))[1])(x),
        "reverse over reverse": vjp(grad(f), x)[1](v)[0],
        "reverse of the product": grad(lambda x: grad(f)(x) @ v)(x),
        "forward over reverse, mapped": vmap(lambda v: jvp(grad(f), (x,), (v,))[1])(v[None])[0],
        "reverse over forward, mapped": vmap(lambda v: grad(lambda x: jvp(f, (x,), (v,))[1])(x))(
            v[None]
        )[0],
    }
    for name, found in ways.items():
        assert (found - expected).abs().max() <= 1e-12 * expected.abs().max(), name


def test_backward_and_double_backward_equal_those_of_the_sum():
    x, v = FLAT.clone().requires_grad_(), random(len(FLAT), seed=81)
    (slope,) = torch.autograd.grad(of_variables(fresh)(x), x, create_graph=True)
    plain = of_variables(plain_messages)
    assert_close(slope.detach(), grad(plain)(FLAT))
    assert_close(torch.autograd.grad(slope @ v, x)[0], jvp(grad(plain), (FLAT,), (v,))[1])
    (mixed,) = torch.autograd.grad(jvp(grad(of_variables(fresh)), (x,), (v,))[1] @ v, x)
    assert_close(mixed, grad(lambda x: jvp(grad(plain), (x,), (v,))[1] @ v)(FLAT), 1e-11)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_contexts_around_derivatives_change_nothing(context):
    expected = hessian(of_variables(plain_messages))(FLAT)
    v = random(len(FLAT), seed=82)
    with context():
        f = of_variables(Engine())
        assert_close(jvp(grad(f), (FLAT,), (v,))[1], expected @ v)
        pull_back = vjp(grad(f), FLAT)[1]
        assert_close(vmap(pull_back)(v[None])[0][0], expected @ v)


# Blocks, and what is kept.


def all_products(f: Function, x: Tensor) -> list[Tensor]:
    """What rules there are, in the order of the first and of later products."""
    v = random(3, *x.shape, seed=90)
    pull_back = vjp(grad(f), x)[1]
    return [
        f(x),
        grad(f)(x),
        *jvp(f, (x,), (v[0],)),
        *jvp(grad(f), (x,), (v[0],)),
        pull_back(v[0])[0],
        pull_back(v[1])[0],
        vmap(pull_back)(v)[0],
        vmap(lambda v: jvp(grad(f), (x,), (v,))[1])(v),
        vmap(lambda v: jvp(f, (x,), (v,))[1])(v),
        grad(lambda x: jvp(f, (x,), (v[0],))[1])(x),
    ]


@pytest.mark.parametrize("cached", [1, 10, 30, 60, 2**40])
def test_blocks_of_any_size_give_the_same(monkeypatch, cached):
    expected = all_products(of_variables(plain_messages), FLAT)
    monkeypatch.setattr(message_passing, "MAX_BLOCK_FLOATS", cached)
    for f in (Engine(), fresh):
        assert_all_equal(all_products(of_variables(f), FLAT), expected)


@pytest.mark.parametrize(
    ("cached", "number", "count"), [(1, 1, 5), (2**40, 1, 1), (27 * 3, 1, 2), (27 * 3, 2, 4)]
)
def test_blocks_cover_all_nodes_and_fit_the_cache(monkeypatch, cached, number, count):
    """The widest path has 27 numbers at a node; there may be one node more than fit."""
    monkeypatch.setattr(message_passing, "MAX_BLOCK_FLOATS", cached)
    blocks = MessagePassing(PATHS, RADIAL).node_slices(LENGTHS, number)
    assert torch.equal(torch.cat([torch.arange(NODES)[rows] for rows in blocks]), torch.arange(5))
    largest = max(len(range(NODES)[rows]) for rows in blocks)
    assert (largest - 1) * 27 * number <= cached
    assert len(blocks) <= count


def test_the_network_does_not_run_again_after_the_second_product():
    x, v = FLAT, random(6, len(FLAT), seed=91)
    expected = jvp(grad(of_variables(plain_messages)), (x,), (v[0],))[1]
    pull_back = vjp(grad(of_variables(fresh)), x)[1]
    start = CountingRadialFunction.count
    found, runs = [], []
    for _ in range(4):
        found.append(pull_back(v[0])[0])
        runs.append(CountingRadialFunction.count - start)
    vmap(pull_back)(v)
    vmap(pull_back)(v[:2])
    runs.append(CountingRadialFunction.count - start)
    assert runs == [2, 3, 3, 3, 3]  # for gradient and Hessian, for both and kept, and no more
    for one in found:
        assert_close(one, expected)
        assert_close(one, found[0], 1e-14)


def test_mapped_products_keep_at_once():
    pull_back = vjp(grad(of_variables(fresh)), FLAT)[1]
    start = CountingRadialFunction.count
    for _ in range(3):
        vmap(pull_back)(random(2, len(FLAT)))
    assert CountingRadialFunction.count - start == 1


VARYING = {"lengths": (0,), "features": (FEATURE,), "both": (0, FEATURE), "couplings": (1, 3)}


def columns_of(
    f: Callable[..., list[Tensor]],
    varying: str,
    cotangents: Sequence[Tensor],
    primals: Sequence[Tensor],
) -> tuple[Callable[[], list[Tensor]], ...]:
    """Ways to use the derivatives of Phi; all tensors go to the messages as they are."""
    places = VARYING[varying]
    x = tuple(primals[k] for k in places)
    vectors = tuple(random(2, *t.shape, seed=94) for t in x)
    first = tuple(t[0] for t in vectors)

    def sums(*moving: Tensor) -> list[Tensor]:
        every = list(primals)
        for k, t in zip(places, moving, strict=True):
            every[k] = t
        return f(*every)

    def slope(*moving: Tensor) -> tuple[Tensor, ...]:
        return vjp(sums, *moving)[1](list(cotangents))

    return (
        lambda: list(vmap(vjp(slope, *x)[1])(vectors)),
        lambda: list(vjp(slope, *x)[1](first)),
        lambda: list(vmap(lambda *v: jvp(sums, x, v)[1])(*vectors)),
        lambda: list(jvp(slope, x, first)[1]),
        lambda: list(slope(*x)),
        lambda: list(vmap(lambda *v: jvp(slope, x, v)[1])(*vectors)),
    )


@pytest.mark.parametrize(
    "varying", [k if k == "both" else pytest.param(k, marks=pytest.mark.slow) for k in VARYING]
)
@pytest.mark.parametrize("differs", ["cotangents", "couplings", "features", "weights"])
def test_what_is_kept_for_one_point_is_not_taken_for_another(varying, differs):
    """Products of one object in turns at two points that have all but one thing in common."""
    engine, cotangents, other = Engine(), COTANGENTS, list(TENSORS)
    if differs == "cotangents":
        cotangents = [COTANGENTS[0], 1.1 * COTANGENTS[1], *COTANGENTS[2:]]
    else:
        place = {"couplings": 2, "features": FEATURE, "weights": LAST_WEIGHT}[differs]
        other[place] = 1.1 * other[place]
    cases = [(varying, COTANGENTS, TENSORS), (varying, cotangents, other)]
    ours = [columns_of(engine, *case) for case in cases]
    expected = [[way() for way in columns_of(plain_messages, *case)] for case in cases]
    for i, j in itertools.product(range(len(ours[0])), repeat=2):
        for case, way in ((0, i), (1, j), (0, j)):
            assert_all_equal(ours[case][way](), expected[case][way])


def test_what_is_kept_for_some_variables_is_not_taken_for_others():
    engine = Engine()
    ours, expected = [], []
    for varying in VARYING:
        ours += columns_of(engine, varying, COTANGENTS, TENSORS)
        expected += [way() for way in columns_of(plain_messages, varying, COTANGENTS, TENSORS)]
    for step in (1, 5, 7, 11):
        for k in range(len(ours)):
            way = step * k % len(ours)
            assert_all_equal(ours[way](), expected[way])


def test_other_lengths_in_between_and_in_place_are_not_taken_for_the_old_ones():
    engine = Engine()

    def f(g: Callable[..., list[Tensor]]) -> Function:
        return lambda r: sum((a**2).sum() for a in g(r, *TENSORS[1:]))

    x = LENGTHS.clone()
    columns = random(3, *x.shape, seed=93)

    def check() -> None:
        expected = vmap(vjp(grad(f(plain_messages)), x)[1])(columns)[0]
        for _ in range(2):
            assert_close(vmap(vjp(grad(f(engine)), x)[1])(columns)[0], expected)
            assert_close(vjp(grad(f(engine)), x)[1](columns[0])[0], expected[0])

    check()
    x.mul_(1.05)
    check()
    x[1:].sub_(0.03)
    check()
    x = LENGTHS.clone()
    check()


def test_what_products_keep_is_released_with_the_pull_back():
    gc.collect()
    gc.disable()  # it must not take a search for cycles
    try:
        engine = Engine()
        pull_back = vjp(grad(of_variables(engine)), FLAT)[1]
        vmap(pull_back)(random(2, len(FLAT)))
        edges, curvature = engine.passing.curvature.result
        watched = [weakref.ref(t) for t in (*edges.values, *edges.slopes, *curvature.couplings)]
        del edges, curvature, engine
        assert all(reference() is not None for reference in watched)
        del pull_back
        assert all(reference() is None for reference in watched)
    finally:
        gc.enable()


@pytest.mark.parametrize("neighbours", [0, 1])
def test_few_neighbours(neighbours):
    senders, lengths = SENDERS[:, :neighbours], LENGTHS[:, :neighbours]
    couplings = [t[:, :neighbours] for t in COUPLINGS]

    def f(lengths: Tensor) -> Tensor:
        x = [lengths, *couplings, *FEATURES]
        found = apply_operation(MessagePassing(PATHS, RADIAL), x, [senders, *RADIAL.tensors])
        return sum(torch.sin(a).sum() for a in found)

    padded = [t.clone() for t in COUPLINGS]
    for t in padded:
        t[:, neighbours:] = 0

    def plain(lengths: Tensor) -> Tensor:
        every = torch.cat([lengths, LENGTHS[:, neighbours:]], 1)
        found = plain_messages(every, *padded, *FEATURES, *RADIAL.tensors)
        return sum(torch.sin(a).sum() for a in found)

    v = torch.ones_like(lengths)
    assert_close(f(lengths), plain(lengths))
    if neighbours:
        assert_close(grad(f)(lengths), grad(plain)(lengths))
        assert_close(jvp(grad(f), (lengths,), (v,))[1], jvp(grad(plain), (lengths,), (v,))[1])
