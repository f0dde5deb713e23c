"""Gradients of functions of dynamical matrices, against recording the whole matrix."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
from ase.build import bulk
from crystals import GENERAL, Case, carbide, central, slab
from energies import MODELS, crystal, load
from helpers import assert_close, mostly_slow, random
from models import build
from torch import Tensor
from torch.func import grad, hessian, jvp, vmap
from torch.utils._pytree import tree_leaves, tree_map

import mace_functional as mf
from mace_functional.autodiff.memory import MemoryMeter
from mace_functional.phonons.replica_hessian import ReplicaHessian
from mace_functional.structure.phase_replicas import NodeImages

EDGE = torch.tensor([0.5, 0, 0.5], dtype=torch.float64)
GAMMA = torch.zeros(3, dtype=torch.float64)
ARGUMENTS = "q", "positions", "cell", "params", "masses"


@cache
def small() -> Case:
    model = build(atomic_inter_scale=80.0, r_max=3.0, max_ell=1, hidden_irreps="3x0e + 3x1o")
    return Case(mf.load_model(model), carbide())


def arguments(case: Case, q: Tensor) -> tuple[Any, ...]:
    s = case.s
    return q, s.positions, s.cell, case.model.params, s.masses


@cache
def direct(case: Case) -> Callable[..., Tensor]:
    """The dynamical matrix from the Hessian of three replicas by torch, recorded as a whole."""
    graph = case.s.graph
    images = NodeImages.of(graph)

    def matrix(q: Tensor, x: Tensor, cell: Tensor, params: Any, masses: Tensor) -> Tensor:
        wave = images.at(graph, q, 3)

        def energy(y: Tensor) -> Tensor:
            return case.model.atom_energies(wave, y, cell, params).sum()

        k = hessian(energy)(x[:, None].repeat(1, 3, 1))
        e = torch.polar(torch.ones_like(wave.phases), wave.phases)
        real = torch.einsum("n,jmaknb->majkb", e.real, k)
        h = 2 / 3 * torch.einsum("m,majkb->jakb", e.conj(), real.to(e.dtype))
        m = masses.rsqrt().repeat_interleave(3)
        return m[:, None] * h.flatten(2).flatten(0, 1) * m

    return matrix


def of_all_modes(matrix: Tensor) -> Tensor:
    """No symmetric function, so that each mode has its own weight."""
    values = torch.linalg.eigvalsh(matrix)
    return (torch.arange(len(values)) + 1).to(values) @ (values + 0.1 * values**2).sin()


def of_one_mode(matrix: Tensor) -> Tensor:
    return torch.linalg.eigvalsh(matrix)[0]


def of_entries(matrix: Tensor) -> Tensor:
    """Its cotangent is not hermitian."""
    weights = random(2, *matrix.shape, seed=3).to(matrix.real)
    return (weights[0] * matrix.real.sin() + weights[1] * matrix.imag.sin()).sum()


def assert_same(found: Any, expected: Any, tolerance: float = 1e-11) -> None:
    pairs = list(zip(tree_leaves(found), tree_leaves(expected), strict=True))
    scale = max(float(b.abs().max()) for _, b in pairs if b.numel())
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * scale)


PLACES = {"general": GENERAL, "edge": EDGE, "gamma": GAMMA}


@pytest.mark.parametrize(
    ("function", "place"),
    mostly_slow(
        itertools.product([of_all_modes, of_one_mode, of_entries], PLACES),
        [(of_all_modes, "general"), (of_entries, "general"), (of_one_mode, "gamma")],
    ),
)
def test_gradients_by_all_arguments_are_those_of_the_recorded_matrix(function, place):
    q = PLACES[place]
    case, places = small(), tuple(range(5))
    matrix = direct(case)
    expected = grad(lambda *a: function(matrix(*a)), places)(*arguments(case, q))
    for _ in range(2):
        found = grad(lambda *a: function(case.function(*a)), places)(*arguments(case, q))
        for name, one, other in zip(ARGUMENTS, found, expected, strict=True):
            if name != "q" or place == "general":  # elsewhere it is zero for functions of modes
                assert_same(one, other)
    without_q = grad(lambda *a: function(case.function(q, *a)), (0, 1, 2, 3))
    assert_same(without_q(*arguments(case, q)[1:]), expected[1:])


@pytest.mark.parametrize("q", [EDGE, GAMMA], ids=["edge", "gamma"])
def test_the_gradient_by_q_where_phases_are_real(q):
    case = small()
    point, matrix = arguments(case, q)[1:], direct(case)
    expected = grad(lambda q: of_entries(matrix(q, *point)))(q)
    assert expected.abs().max() > 1e-2
    assert_close(grad(lambda q: of_entries(case.function(q, *point)))(q), expected, 1e-11)
    leaf = q.clone().requires_grad_()
    (found,) = torch.autograd.grad(of_entries(case.function(leaf, *point)), leaf)
    assert_close(found, expected, 1e-11)


@pytest.mark.parametrize("name", mostly_slow(MODELS, ["embeddings"]))
def test_gradients_for_every_operation_of_the_engine(name):
    case = Case(load(name), crystal())
    places, matrix = (1, 2, 3), direct(case)
    expected = grad(lambda *a: of_all_modes(matrix(*a)), places)(*arguments(case, GENERAL))
    found = grad(lambda *a: of_all_modes(case.function(*a)), places)(*arguments(case, GENERAL))
    assert_same(found, expected, 1e-10)


def test_gradients_by_torch_autograd_are_the_same():
    case = small()
    q, *point = arguments(case, GENERAL)
    matrix = direct(case)
    expected = grad(lambda *a: of_all_modes(matrix(q, *a)), (0, 1, 2, 3))(*point)
    for _ in range(2):
        leaves = tree_map(lambda t: t.clone().requires_grad_(), point)
        of_all_modes(case.function(q, *leaves)).backward()
        zeros = tree_map(lambda t: torch.zeros_like(t) if t.grad is None else t.grad, leaves)
        assert_same(zeros, list(expected))


def test_symmetric_functions_of_degenerate_modes_have_gradients():
    diamond = bulk("SiC", "zincblende", a=4.1)
    case = Case(small().model, diamond)

    def trace(matrix: Tensor) -> Tensor:
        return torch.linalg.eigvalsh(matrix).square().sum()

    matrix = direct(case)
    for q in GAMMA, torch.tensor([0.2, 0.2, 0.2], dtype=torch.float64):
        values = torch.linalg.eigvalsh(case(q))
        assert values.diff().min() < 1e-10
        point = arguments(case, q)[1:]
        found = grad(lambda *a, q=q: trace(case.function(q, *a)), (0, 1, 2, 3))(*point)
        expected = grad(lambda *a, q=q: matrix(q, *a).abs().square().sum(), (0, 1, 2, 3))(*point)
        assert_same(found, expected)


def direction_of(tree: Any) -> Any:
    return tree_map(lambda t: 0.1 * random(*t.shape, seed=5), tree)


def product(a: Any, b: Any) -> Tensor:
    pairs = zip(tree_leaves(a), tree_leaves(b), strict=True)
    return torch.stack([(x * y).sum() for x, y in pairs]).sum()


def moved(tree: Any, direction: Any, t: float | Tensor) -> Any:
    return tree_map(lambda a, b: a + t * b, tree, direction)


@pytest.mark.parametrize("function", mostly_slow([of_all_modes, of_entries], [of_entries]))
def test_second_derivatives_of_every_kind(function):
    """By positions, cell and parameters together; the weights of the modes move too."""
    case = small()
    q, x, cell, params, masses = arguments(case, GENERAL)
    point = x, cell, {k: p for k, p in params.items() if "weight" in k and p.numel()}
    along = direction_of(point)

    def value(matrix: Any) -> Callable[[Any], Tensor]:
        def at(p: Any) -> Tensor:
            return function(matrix(q, p[0], p[1], params | p[2], masses))

        return at

    f = value(case.function)

    def slope(p: Any) -> Tensor:
        return product(grad(f)(p), along)

    recorded = value(direct(case))
    expected = grad(lambda p: product(grad(recorded)(p), along))(point)
    assert_same(grad(slope)(point), expected, 1e-10)
    curvature = product(expected, along)
    assert_close(jvp(slope, (point,), (along,))[1], curvature, 1e-10)
    by_tangent = grad(lambda p: jvp(f, (p,), (along,))[1])(point)
    assert_same(by_tangent, expected, 1e-10)
    assert_close(central(lambda t: slope(moved(point, along, t)), 1e-3), curvature, 1e-6)
    leaves = tree_map(lambda t: t.clone().requires_grad_(), point)
    flat = tree_leaves(leaves)
    first = torch.autograd.grad(f(leaves), flat, create_graph=True, materialize_grads=True)
    second = torch.autograd.grad(product(first, tree_leaves(along)), flat, materialize_grads=True)
    assert_same(second, tree_leaves(expected), 1e-10)


@pytest.mark.slow
def test_batches_of_wave_vectors_in_every_order():
    case = small()
    q = torch.stack([GENERAL, EDGE, GAMMA])
    q0, *point = arguments(case, GENERAL)
    matrix = direct(case)

    def f(q: Tensor, *a: Any) -> Tensor:
        return of_all_modes(case.function(q, *a))

    def expected_at(q: Tensor) -> Any:
        return grad(lambda *a: of_all_modes(matrix(q, *a)), (0, 1, 2, 3))(*point)

    each = [expected_at(q_i) for q_i in q]
    expected = tree_map(lambda *t: torch.stack(t), *each)
    assert_same(vmap(lambda q: grad(f, (1, 2, 3, 4))(q, *point))(q), expected)
    total = grad(lambda *a: vmap(lambda q: f(q, *a))(q).sum(), (0, 1, 2, 3))(*point)
    assert_same(total, tree_map(lambda t: t.sum(0), expected))
    by_q = grad(lambda q: vmap(lambda q: f(q, *point))(q).sum())(q)
    assert_close(by_q[0], grad(lambda q: of_all_modes(matrix(q, *point)))(q0), 1e-11)
    masses = torch.stack([point[3], 2 * point[3]])
    by_masses = grad(lambda m: vmap(lambda m: f(q0, *point[:3], m))(m).sum())(masses)
    one = grad(lambda m: of_all_modes(matrix(q0, *point[:3], m)))
    assert_same(by_masses, torch.stack([one(m) for m in masses]))


@pytest.mark.parametrize("chunk_size", [1, 4, None])
def test_chunks_do_not_matter(chunk_size):
    case = small()
    chunked = Case(case.model, case.atoms, chunk_size=chunk_size)
    of = arguments(case, GENERAL)
    found = grad(lambda *a: of_all_modes(chunked.function(*a)), (1, 2, 3))(*of)
    assert_same(found, grad(lambda *a: of_all_modes(case.function(*a)), (1, 2, 3))(*of))


@pytest.mark.parametrize(
    ("function", "terms"), [(of_one_mode, 1), (of_all_modes, 6), (lambda d: 0 * d.real.sum(), 0)]
)
@pytest.mark.parametrize("q", [GENERAL, EDGE])
def test_a_gradient_takes_as_many_products_as_modes_matter(function, terms, q, monkeypatch):
    counted = []
    form = ReplicaHessian.form

    def noted(self: ReplicaHessian, a: Tensor, b: Tensor) -> Tensor:
        counted.append(len(a))
        return form(self, a, b)

    monkeypatch.setattr(ReplicaHessian, "form", noted)
    case = small()
    grad(lambda *a: function(case.function(*a)), 3)(*arguments(case, q))
    assert sum(counted) == terms


def test_it_takes_a_fraction_of_the_memory_of_the_recorded_matrix():
    case = Case(small().model, carbide(), chunk_size=1)
    of, peaks = arguments(case, GENERAL), []
    for matrix in case.function, direct(case):
        with MemoryMeter() as meter:
            grad(lambda *a, d=matrix: of_all_modes(d(*a)), 3)(*of)
        peaks.append(meter.peak)
    assert peaks[0] < peaks[1] / 3


def test_single_precision():
    case = Case(small().model.to(dtype=torch.float32), carbide())
    of = arguments(case, GENERAL.float())
    found = grad(lambda *a: of_all_modes(case.function(*a)), (1, 2, 3))(*of)
    double = small()
    expected = grad(lambda *a: of_all_modes(double.function(*a)), (1, 2, 3))(
        *arguments(double, GENERAL)
    )
    assert_same(found, tree_map(Tensor.float, expected), 1e-4)


def test_what_is_not_finite_stays_so():
    """The square root of the eigenvalue of an imaginary mode."""
    case = small()
    q, x, cell, params, masses = arguments(case, GENERAL)
    assert torch.linalg.eigvalsh(case(q))[0] < 0

    def f(masses: Tensor) -> Tensor:
        return torch.linalg.eigvalsh(case.function(q, x, cell, params, masses)).sqrt().sum()

    assert grad(f)(masses).isnan().all()


# Potentials that read tensors which are no arguments.


class Morse:
    """A function that reads a tensor which is no parameter."""

    def __init__(self) -> None:
        self.decay = torch.tensor(0.7, dtype=torch.float64)

    def __call__(self, near: mf.Neighbourhood, params: Any) -> Tensor:
        fade = (1 - near.distances / 4).clamp(min=0) ** 4
        return near.sum(params["depth"] * fade * torch.exp(-self.decay * near.distances))


def morse(function: Morse) -> mf.FunctionPotential:
    return mf.FunctionPotential(function, cutoff=4.0, params={"depth": 20.0})


@pytest.fixture(scope="module")
def of_captured() -> Callable[[Tensor, Tensor], Tensor]:
    function = Morse()
    case = Case(morse(function), carbide())
    return partial(value_of_captured, function, case)


def value_of_captured(function: Morse, case: Case, captured: Tensor, depth: Tensor) -> Tensor:
    function.decay = captured
    q, x, cell, _, masses = arguments(case, GENERAL)
    return of_all_modes(case.function(q, x, cell, {"depth": depth}, masses))


CAPTURED = torch.tensor([0.7, 21.0], dtype=torch.float64)
UNITS = torch.eye(2, dtype=torch.float64)


def slopes_of(of_captured: Any) -> Tensor:
    slopes = [central(lambda t, u=u: of_captured(*(CAPTURED + t * u)), 1e-3) for u in UNITS]
    return torch.stack(slopes)


@pytest.mark.parametrize(
    "transform",
    [
        lambda f: torch.stack(grad(f, (0, 1))(*CAPTURED)),
        lambda f: torch.stack([grad(f, i)(*CAPTURED) for i in (0, 1)]),
        lambda f: torch.stack(
            torch.autograd.grad(f(*(leaf := CAPTURED.clone().requires_grad_())), leaf)
        )[0],
        lambda f: torch.stack([jvp(lambda p: f(*p), (CAPTURED,), (u,))[1] for u in UNITS]),
        lambda f: torch.func.jacrev(lambda p: f(*p))(CAPTURED),
    ],
)
def test_gradients_by_tensors_that_a_function_has_captured(transform, of_captured):
    assert_close(transform(of_captured), slopes_of(of_captured), 1e-8)


def test_nested_transforms_by_captured_tensors_and_parameters(of_captured):
    def mixed(inner: int, outer: int) -> Callable[..., Tensor]:
        return grad(grad(of_captured, inner), outer)

    one, other = mixed(0, 1)(*CAPTURED), mixed(1, 0)(*CAPTURED)
    unit = torch.tensor([1.0, 0], dtype=torch.float64)
    expected = central(lambda t: grad(of_captured, 1)(*(CAPTURED + t * unit)), 1e-3)
    assert_close(one, expected, 1e-7)
    assert_close(other, expected, 1e-7)
    along = jvp(lambda c: grad(of_captured, 1)(c, CAPTURED[1]), (CAPTURED[0],), (unit[0],))[1]
    assert_close(along, expected, 1e-7)
    several = torch.stack([CAPTURED[0], CAPTURED[0] + 0.1])
    mapped = vmap(lambda c: grad(of_captured, 1)(c, CAPTURED[1]))(several)
    assert_close(mapped[0], grad(of_captured, 1)(*CAPTURED), 1e-12)
    assert_close(mapped[1], grad(of_captured, 1)(several[1], CAPTURED[1]), 1e-12)


def test_sums_of_potentials_and_slabs():
    pairs = morse(Morse())
    both = mf.SumPotential(small().model, pairs)
    s = both.structure(slab())
    matrix = mf.dynamical_matrix_fn(both, s.topology)
    q = torch.tensor([0.2, 0.3, 0], dtype=torch.float64)

    def f(params: Any) -> Tensor:
        return of_all_modes(matrix(q, s.positions, s.cell, params, s.masses))

    along = direction_of(both.params)
    expected = central(lambda t: f(moved(both.params, along, t)), 1e-3)
    assert_close(product(grad(f)(both.params), along), expected, 1e-7)
