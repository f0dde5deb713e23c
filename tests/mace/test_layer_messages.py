"""Messages of points, cell and features, along edges and by matrices, against the plain sum."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from ase.build import bulk
from helpers import assert_close, mostly_slow, random
from nestings import Function, forward, forward_in_all, mapped, reverse
from torch import Tensor, nn
from torch.func import grad, hessian, jvp, vjp, vmap

import mace_functional as mf
from mace_functional.mace import layer_messages
from mace_functional.mace.edge_coordinates import EdgeCoordinates
from mace_functional.mace.edge_geometry import EdgeGeometry
from mace_functional.mace.harmonics import spherical_harmonics
from mace_functional.mace.layer_messages import LayerMessages
from mace_functional.mace.messages import Path
from mace_functional.mace.radial_embedding import RadialEmbedding
from mace_functional.mace.radial_function import RadialFunction
from mace_functional.mace.radial_network import RadialNetwork
from mace_functional.mace.settings import Activation, RadialSettings
from mace_functional.structure.species import Species
from mace_functional.structure.topology import EdgeList

PATHS = [
    Path(0, 0, 0, 0, 2),
    Path(1, 1, 1, 0, 3),
    Path(0, 0, 1, 1, 2),
    Path(1, 1, 0, 1, 3),
    Path(1, 1, 1, 2, 3),
]
WIDTH = sum((2 * p.l1 + 1) * (2 * p.l3 + 1) for p in PATHS)
SPECIES, R_MAX = Species((0,), (1,), (4,)), 4.0
CELL = 3.0 * torch.eye(3).double() + 0.2 * random(3, 3, seed=5)

NODES = EdgeList(
    receivers=torch.arange(4),
    senders=torch.tensor([[1, 2, 2], [0, 3, 1], [0, 1, 3], [3, 0, 0]]),
    unit_shifts=random(4, 3, 3, seed=3).round(),
    mask=torch.tensor([[1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 1, 1]], dtype=torch.bool),
)
"""With a pair that has two edges, a node that is its own neighbour, and a padding edge."""
IMAGES = NODES._replace(
    receivers=torch.tensor([6, 1, 5, 7]),
    senders=torch.tensor([[1, 2, 2], [0, 3, 1], [4, 1, 3], [3, 0, 4]]),
)
"""Eight points, of which the first five are senders."""
TOPOLOGIES = {"nodes": (NODES, 4, 4), "images": (IMAGES, 8, 5)}


def make_radial() -> RadialFunction:
    settings = RadialSettings("gaussian", 5, 5, apply_cutoff=True, gaussian_coefficient=-0.8)
    embedding = RadialEmbedding(settings)
    grid = torch.linspace(0, R_MAX, 5, dtype=torch.float64)
    embedding.bessel_fn.register_buffer("gaussian_weights", grid)
    r_max = torch.tensor(R_MAX, dtype=torch.float64)
    embedding.cutoff_fn.register_buffer("r_max", r_max)
    network = RadialNetwork(2, Activation("silu", 1.6))
    outputs = sum(path.channels for path in PATHS)
    for layer, shape in zip(network.children(), [(5, 4), (4, outputs)], strict=True):
        layer.weight = nn.Parameter(random(*shape, seed=shape[0]), requires_grad=False)
    return RadialFunction(embedding, network, SPECIES, SPECIES)


RADIAL = make_radial()
RADIAL_TENSORS = tuple(t.detach() for t in RADIAL.tensors)


class Case:
    """Messages on a topology: the engine's and the plain sum, of the same tensors."""

    def __init__(self, name: str) -> None:
        self.edges, points, senders = TOPOLOGIES[name]
        features = [random(senders, 1, 2, seed=21), random(senders, 3, 3, seed=22)]
        self.tensors = (
            1.4 * random(points, 3, seed=1),
            CELL,
            *features,
            random(4, WIDTH, seed=7),
            *RADIAL_TENSORS,
        )

    def engine(self, coordinates: EdgeCoordinates | None = None) -> Callable[..., list[Tensor]]:
        """The engine's, from one object for all calls."""
        coordinates = coordinates or EdgeCoordinates(EdgeGeometry(1))
        layer = LayerMessages(PATHS, RADIAL, coordinates)

        def messages(*tensors: Tensor) -> list[Tensor]:
            points, cell, h0, h1, coupling, *radial = tensors
            layer.passing.radial = with_tensors(radial)
            r_max = torch.tensor(R_MAX, dtype=torch.float64)
            return layer(points, cell, [h0, h1], self.edges, r_max, coupling)

        return messages

    def plain(self, *tensors: Tensor) -> list[Tensor]:
        points, cell, h0, h1, coupling, *radial = tensors
        edges = self.edges
        vectors = points[edges.receivers][:, None] - points[edges.senders]
        vectors = vectors + edges.unit_shifts @ cell
        vectors = torch.where(edges.mask[..., None], vectors, 1.0)
        r = vectors.square().sum(-1, keepdim=True).sqrt()
        within = edges.mask[..., None] & (r < R_MAX)
        y = torch.cat(spherical_harmonics(vectors / r, 1), -1) * within
        couplings = (y @ coupling).split([(2 * p.l1 + 1) * (2 * p.l3 + 1) for p in PATHS], -1)
        inputs = RADIAL.inputs(r, edges.senders, radial, 0)
        weights = RADIAL.jet(radial, inputs)[0].split([p.channels for p in PATHS], -1)
        return [
            torch.einsum(
                "ijac,iju,ijau->icu",
                t.view(4, 3, 2 * p.l1 + 1, 2 * p.l3 + 1),
                w,
                (h0, h1)[p.source][edges.senders],
            )
            for p, t, w in zip(PATHS, couplings, weights, strict=True)
        ]


def with_tensors(tensors: Sequence[Tensor]) -> RadialFunction:
    radial = RadialFunction(RADIAL.embedding, RADIAL.network, SPECIES, SPECIES)
    radial.tensors = tuple(tensors)
    return radial


POINTS, CELLS, FEATURE, COUPLING = 0, 1, 3, 4
LAST_WEIGHT = 4 + len(RADIAL_TENSORS)


def number_of(f: Callable[..., list[Tensor]]) -> Function:
    """A number in which everything is non-linear."""

    def number(*tensors: Tensor) -> Tensor:
        points, cell, h0, h1, *rest = tensors
        moved = points + 0.1 * torch.sin(points), cell + 0.1 * torch.sin(cell)
        return sum(torch.sin(a).sum() for a in f(*moved, torch.sin(h0), torch.sin(h1), *rest))

    return number


MOVING = [POINTS, CELLS, FEATURE, COUPLING, LAST_WEIGHT]
FIRST = {
    **{f"f{k}": forward(k) for k in MOVING},
    **{f"r{k}": reverse(k) for k in MOVING},
    "f": forward_in_all,
    f"v{POINTS}": mapped(POINTS),
}
THIRD = [
    *itertools.product([f"f{POINTS}", f"r{POINTS}"], repeat=3),
    (f"r{FEATURE}", f"f{CELLS}", f"r{POINTS}"),
    (f"f{FEATURE}", f"r{POINTS}", f"f{CELLS}"),
    (f"r{POINTS}", f"f{POINTS}", f"r{LAST_WEIGHT}"),
    (f"r{FEATURE}", f"v{POINTS}", f"f{POINTS}"),
    ("f", f"r{CELLS}", "f"),
]


def assert_nesting(case: Case, names: Sequence[str], tolerance: float) -> None:
    """One object for a nesting twice, against the plain function."""
    ours, theirs = number_of(case.engine()), number_of(case.plain)
    for name in names:
        ours, theirs = FIRST[name](ours), FIRST[name](theirs)
    expected = theirs(*case.tensors)
    for value in (ours(*case.tensors), ours(*case.tensors)):
        assert (value - expected).abs() <= tolerance * (1 + expected.abs()), names


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_layer_messages_are_the_sum_over_edges(name):
    case = Case(name)
    found, expected = case.engine()(*case.tensors), case.plain(*case.tensors)
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other)
    places = tuple(range(len(case.tensors)))
    found, expected = (
        grad(number_of(f), argnums=places)(*case.tensors) for f in (case.engine(), case.plain)
    )
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, 1e-11)


@pytest.mark.parametrize("outer", mostly_slow(FIRST, {f"r{POINTS}", f"f{CELLS}"}))
def test_all_nestings_of_two_transforms_equal_those_of_the_sum(outer):
    for inner in FIRST:
        assert_nesting(Case("images"), (inner, outer), 1e-11)


@pytest.mark.parametrize(
    "nesting", mostly_slow(map("-".join, THIRD), ["-".join(THIRD[k]) for k in (1, 8, 10, 11)])
)
def test_third_derivatives_equal_those_of_the_sum(nesting):
    assert_nesting(Case("nodes"), nesting.split("-"), 1e-10)


VARIABLES = {
    "points": (POINTS,),
    "cell": (CELLS,),
    "features": (FEATURE,),
    "all": (POINTS, CELLS, 2, FEATURE),
}


def of_some(
    f: Callable[..., list[Tensor]], case: Case, places: Sequence[int]
) -> tuple[Function, Tensor]:
    """A number as a function of some tensors as one vector, and that vector."""
    shapes = [case.tensors[k].shape for k in places]

    def number(flat: Tensor) -> Tensor:
        tensors = list(case.tensors)
        pieces = flat.split([s.numel() for s in shapes])
        for k, piece, shape in zip(places, pieces, shapes, strict=True):
            tensors[k] = piece.view(shape)
        return number_of(f)(*tensors)

    return number, torch.cat([case.tensors[k].flatten() for k in places])


@pytest.fixture(params=[False, True], ids=["edges", "matrices"])
def dense(request: Any, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Vectors along edges, or by matrices between points."""
    monkeypatch.setattr(layer_messages, "dense_pays", lambda *args: request.param)
    return bool(request.param)


@pytest.mark.parametrize("variables", VARIABLES)
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_columns_equal_those_of_the_sum(name, variables, dense):
    case = Case(name)
    plain, x = of_some(case.plain, case, VARIABLES[variables])
    expected = hessian(plain)(x)
    unit = torch.eye(len(x)).double()
    number, _ = of_some(case.engine(), case, VARIABLES[variables])
    pull_back = vjp(grad(number), x)[1]
    for _ in range(2):
        assert_close(vmap(pull_back)(unit)[0], expected, 1e-11)
        assert_close(pull_back(unit[1])[0], expected[1], 1e-11)
    assert_close(vmap(pull_back, -1)(unit)[0], expected, 1e-11)
    assert_close(vmap(lambda v: jvp(grad(number), (x,), (v,))[1])(unit), expected, 1e-11)
    slopes = vmap(lambda v: jvp(number, (x,), (v,))[1])(unit)
    assert_close(slopes, grad(plain)(x), 1e-11)


@pytest.mark.parametrize("variables", VARIABLES)
def test_third_order_columns_equal_those_of_the_sum(variables):
    case = Case("nodes")
    plain, x = of_some(case.plain, case, VARIABLES[variables])
    number, _ = of_some(case.engine(), case, VARIABLES[variables])
    u, unit = random(len(x), seed=31), torch.eye(len(x)).double()
    expected = jvp(hessian(plain), (x,), (u,))[1]

    def columns(y: Tensor) -> Tensor:
        return vmap(vjp(grad(number), y)[1])(unit)[0]

    def product(y: Tensor, v: Tensor = u) -> Tensor:
        return jvp(grad(number), (y,), (v,))[1]

    pull_back = vjp(product, x)[1]
    for _ in range(2):
        assert_close(jvp(columns, (x,), (u,))[1], expected, 1e-11)
        assert_close(vmap(pull_back)(unit)[0], expected, 1e-11)
        assert_close(pull_back(unit[1])[0], expected[1], 1e-11)
    both = vmap(lambda v, w: jvp(lambda y: product(y, v), (x,), (w,))[1])
    assert_close(both(unit, u.expand_as(unit)), expected, 1e-11)


def test_slopes_by_points_alone_depend_on_features(dense):
    """Their derivatives are products of vectors without features and with rows of features."""
    case = Case("nodes")

    def slope(f: Callable[..., list[Tensor]]) -> Function:
        first = grad(lambda x, h: number_of(f)(x, *case.tensors[1:3], h, *case.tensors[4:]))
        return vjp(first, case.tensors[0], case.tensors[FEATURE])[1]

    ours, theirs = slope(case.engine()), slope(case.plain)
    vectors = random(4, *case.tensors[0].shape, seed=44)
    for found, expected in zip(vmap(ours)(vectors), vmap(theirs)(vectors), strict=True):
        assert_close(found, expected, 1e-11)


def test_a_batch_may_lie_in_any_dimension_of_some_of_the_vectors(dense):
    case = Case("nodes")
    before, after = case.tensors[2], case.tensors[FEATURE + 1 :]

    def slope(f: Callable[..., list[Tensor]]) -> Function:
        return grad(lambda x, c, h: number_of(f)(x, c, before, h, *after), argnums=(0, 1, 2))

    ours, theirs = slope(case.engine()), slope(case.plain)
    primals = case.tensors[0], case.tensors[1], case.tensors[FEATURE]
    tangents = [random(3, *t.shape, seed=70 + k) for k, t in enumerate(primals)]
    for dims in [(0, None, None), (None, 1, None), (None, None, 2), (1, 0, None), (2, 2, 0)]:
        moved = tuple(
            t[0] if dim is None else t.movedim(0, dim)
            for t, dim in zip(tangents, dims, strict=True)
        )
        found, expected = (
            vmap(lambda *d, f=f: jvp(f, primals, d)[1], dims)(*moved) for f in (ours, theirs)
        )
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other, 1e-11)


@pytest.mark.parametrize("changed", [POINTS, CELLS, FEATURE, COUPLING, LAST_WEIGHT])
def test_what_is_kept_for_one_point_is_not_taken_for_another(changed, dense):
    """One object at two points in turns."""
    case = Case("nodes")
    engine, unit = case.engine(), torch.eye(12).double()
    other = list(case.tensors)
    other[changed] = 1.05 * other[changed]
    first = list(case.tensors)
    for tensors in (first, other, first, other):

        def column(v: Tensor, f: Any, tensors: Any = tensors) -> Tensor:
            number = number_of(f)
            slope = grad(lambda x: number(x, *tensors[1:]))
            return vjp(slope, tensors[0])[1](v.view(4, 3))[0]

        found = vmap(lambda v: column(v, engine))(unit)
        assert_close(found, vmap(lambda v: column(v, case.plain))(unit), 1e-11)


def test_matrices_are_kept_for_the_pull_back_and_released_with_it(monkeypatch):
    monkeypatch.setattr(layer_messages, "dense_pays", lambda *args: True)
    made = []
    build = layer_messages.all_matrices

    def counted(*args: Any) -> Any:
        out = build(*args)
        made.append([weakref.ref(j) for j in out[0].by_rows])
        return out

    monkeypatch.setattr(layer_messages, "all_matrices", counted)
    case = Case("nodes")
    number, x = of_some(case.engine(), case, VARIABLES["all"])
    gc.collect()
    gc.disable()  # it must not take a search for cycles
    try:
        pull_back = vjp(grad(number), x)[1]
        del number
        for _ in range(3):
            vmap(pull_back)(random(2, len(x)))
        assert len(made) == 1
        assert all(reference() is not None for reference in made[0])
        del pull_back
        assert all(reference() is None for reference in made[0])
    finally:
        gc.enable()


@pytest.mark.parametrize(("repeats", "matrices"), [(1, True), (20, False)])
def test_matrices_are_for_small_cells(repeats, matrices, monkeypatch):
    made = []
    build = layer_messages.all_matrices
    monkeypatch.setattr(
        layer_messages, "all_matrices", lambda *args: made.append(1) or build(*args)
    )
    model = mf.load_model("embedded", dtype="float64")
    atoms = bulk("SiO", "zincblende", 4.5, cubic=True).repeat((repeats, 1, 1))
    atoms.rattle(0.05)
    s = mf.from_ase(atoms, model)
    energy = mf.energy_fn(model, s.graph)
    found = mf.hessian(energy, indices=[0])(s.positions, s.cell, model.params)
    assert bool(made) == matrices
    monkeypatch.setattr(layer_messages, "dense_pays", lambda *args: False)
    expected = mf.hessian(energy, indices=[0])(s.positions, s.cell, model.params)
    assert_close(found, expected)
