"""Jets against nested forward mode of plain torch formulas, for every function of a length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import comb, pi, sqrt
from typing import Any

import pytest
import torch
from helpers import assert_close, mostly_slow, random
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp

from mace_functional.autodiff.jets import compose, jet_of, multiply
from mace_functional.mace.activation import activate, activation_derivatives, silu
from mace_functional.mace.cutoff import polynomial_cutoff
from mace_functional.mace.radial_bases import Bessel, Chebyshev, Gaussian
from mace_functional.mace.radial_embedding import RadialEmbedding
from mace_functional.mace.radial_function import RadialFunction
from mace_functional.mace.radial_inputs import RadialInputs
from mace_functional.mace.radial_network import (
    AffineLayer,
    NormalisedRadialNetwork,
    RadialNetwork,
    layer_norm,
)
from mace_functional.mace.settings import Activation, RadialSettings
from mace_functional.structure.species import Species

R_MAX = 4.0
SIZE = 6
SPECIES = Species((0, 2), (1, 8), (2, 3))
SENDERS = torch.tensor([[1, 2, 4], [0, 3, 3], [0, 1, 4], [2, 2, 1], [3, 0, 1]])

Function = Callable[[Tensor], Tensor]


def lengths(below: float = 0.95 * R_MAX) -> Tensor:
    """Edge lengths (nodes, K, 1)."""
    generator = torch.Generator().manual_seed(5)
    return 0.7 + (below - 0.7) * torch.rand(5, 3, 1, dtype=torch.float64, generator=generator)


def nested_jvp(function: Function, x: Tensor, order: int) -> list[Tensor]:
    """Value and derivatives of a function that acts on every element, one by one."""
    out = [function(x)]
    for _ in range(order):
        function = slope(function)
        out.append(function(x))
    return out


def slope(function: Function) -> Function:
    return lambda x: jvp(function, (x,), (torch.ones_like(x),))[1]


def assert_jet(jet: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float = 1e-12) -> None:
    assert len(jet) == len(expected)
    for found, wanted in zip(jet, expected, strict=True):
        assert_close(found, wanted.expand_as(found), tolerance)


# Products and compositions.


@pytest.mark.parametrize("order", range(6))
def test_multiply_is_the_jet_of_the_product(order):
    x = random(7, 1)
    factors: list[Function] = [lambda x: torch.sin(2 * x), lambda x: torch.exp(-x * x)]
    jets = [nested_jvp(f, x, order) for f in factors]
    expected = nested_jvp(lambda x: factors[0](x) * factors[1](x), x, order)
    assert_jet(multiply(*jets), expected)
    assert_jet(multiply(*jets[::-1]), expected)


def test_multiply_broadcasts_channels():
    x, widths = random(7, 1), random(1, 4)
    a, b = (lambda x: torch.sin(widths * x)), torch.exp
    product = multiply(nested_jvp(a, x, 3), nested_jvp(b, x, 3))
    assert_jet(product, nested_jvp(lambda x: a(x) * b(x), x, 3))


def test_multiply_has_binomial_coefficients():
    """Jets of `exp` are all equal, and those of its square are powers of two."""
    ones = [torch.ones(1)] * 7
    assert [int(t) for t in multiply(ones, ones)] == [
        sum(comb(n, k) for k in range(n + 1)) for n in range(7)
    ]


@pytest.mark.parametrize("order", range(6))
@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        (torch.sin, lambda x: torch.exp(0.3 * x)),
        (torch.exp, torch.sin),
        (lambda y: y**3, lambda x: x + torch.cos(x)),
        (torch.tanh, lambda x: 1 / (2 + x * x)),
    ],
)
def test_compose_is_the_jet_of_the_composition(order, outer, inner):
    x = random(7, 1)
    jet = nested_jvp(inner, x, order)
    found = compose(nested_jvp(outer, jet[0], order), jet)
    assert_jet(found, nested_jvp(lambda x: outer(inner(x)), x, order), 1e-11)


def test_compose_counts_partitions():
    """With all derivatives one, the n-th is the Bell number."""
    ones = [torch.ones(1)] * 8
    assert [int(t) for t in compose(ones, ones)] == [1, 1, 2, 5, 15, 52, 203, 877]


def test_compose_of_several_outputs_broadcasts():
    x, widths = random(5, 1), random(1, 3)
    jet = nested_jvp(torch.sin, x, 3)
    outer = nested_jvp(lambda y: torch.exp(y * widths), jet[0], 3)
    assert_jet(compose(outer, jet), nested_jvp(lambda x: torch.exp(torch.sin(x) * widths), x, 3))


@pytest.mark.parametrize("order", range(5))
def test_jet_of_a_function_is_nested_forward_mode(order):
    x = random(7, 1)
    found = jet_of(lambda x: torch.exp(torch.sin(x)), x, order)
    assert_jet(found, nested_jvp(lambda x: torch.exp(torch.sin(x)), x, order))


def test_jets_may_be_differentiated_in_what_they_come_from():
    x = random(4, 1)

    def through_jets(x: Tensor) -> Tensor:
        inner = jet_of(torch.sin, x, 2)
        outer = nested_jvp(torch.exp, inner[0], 2)
        return compose(multiply(outer, outer), inner)[2].sum()

    def plain(x: Tensor) -> Tensor:
        return nested_jvp(lambda x: torch.exp(2 * torch.sin(x)), x, 2)[2].sum()

    assert_close(grad(through_jets)(x), grad(plain)(x))
    assert_close(
        grad(lambda x: grad(through_jets)(x).sum())(x), grad(lambda x: grad(plain)(x).sum())(x)
    )


# Activations.

ACTIVATIONS: dict[str, Function] = {
    "identity": lambda x: 1.0 * x,
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "tanh": torch.tanh,
    "sigmoid": lambda x: 1 / (1 + torch.exp(-x)),
    "abs": torch.abs,
}
every_activation = pytest.mark.parametrize("name", ACTIVATIONS)


@every_activation
@pytest.mark.parametrize("order", range(5))
@pytest.mark.parametrize("scale", [1.0, 1.7])
def test_activation_derivatives_are_nested_forward_mode(name, order, scale):
    x = 2 * random(40)
    found = activation_derivatives(x, Activation(name, scale), order)
    assert_jet(found, [scale * d for d in nested_jvp(ACTIVATIONS[name], x, order)])


@every_activation
def test_activation_derivatives_may_be_differentiated(name):
    x = 2 * random(40)
    for order in range(4):
        derivatives = activation_derivatives(x, Activation(name, 1.3), order + 1)

        def last(x: Tensor, order: int = order) -> Tensor:
            return activation_derivatives(x, Activation(name, 1.3), order)[-1]

        assert_close(slope(last)(x), derivatives[-1])
        assert_close(grad(lambda x, last=last: last(x).sum())(x), derivatives[-1])


@every_activation
def test_activation_is_the_first_of_its_derivatives(name):
    x = random(40)
    assert_close(activate(x, Activation(name, 1.3)), 1.3 * ACTIVATIONS[name](x))
    torch.testing.assert_close(silu(x), nn.functional.silu(x))


@pytest.mark.parametrize("name", ["silu", "tanh", "sigmoid"])
def test_activations_are_finite_far_from_zero(name):
    x = torch.tensor([-800.0, -40.0, 40.0, 800.0], dtype=torch.float64)
    value, *derivatives = activation_derivatives(x, Activation(name), 4)
    assert torch.isfinite(value).all()
    limits = {"silu": [0.0, 0.0, 1.0, 1.0]}.get(name, [0.0] * 4)
    for n, derivative in enumerate(derivatives):
        wanted = torch.tensor(limits if n == 0 else [0.0] * 4, dtype=torch.float64)
        assert (derivative - wanted).abs().max() < 1e-14


# Bases and the cutoff function: each a module, and the formula of its value with explicit tensors.


def bessel() -> tuple[nn.Module, dict[str, Tensor], Callable[..., Tensor]]:
    state = {
        "bessel_weights": pi / R_MAX * torch.linspace(1.0, SIZE, SIZE, dtype=torch.float64),
        "prefactor": torch.tensor(sqrt(2 / R_MAX), dtype=torch.float64),
    }

    def formula(r: Tensor, bessel_weights: Tensor, prefactor: Tensor) -> Tensor:
        return prefactor * torch.sin(bessel_weights * r) / r

    return holding(Bessel(), state), state, formula


def gaussian() -> tuple[nn.Module, dict[str, Tensor], Callable[..., Tensor]]:
    state = {"gaussian_weights": torch.linspace(0.0, R_MAX, SIZE, dtype=torch.float64)}
    coefficient = -0.5 / (R_MAX / (SIZE - 1)) ** 2

    def formula(r: Tensor, gaussian_weights: Tensor) -> Tensor:
        return torch.exp(coefficient * (r - gaussian_weights) ** 2)

    return holding(Gaussian(coefficient), state), state, formula


def chebyshev() -> tuple[nn.Module, dict[str, Tensor], Callable[..., Tensor]]:
    def formula(r: Tensor) -> Tensor:
        """Coefficients of the polynomials of the first kind."""
        table = [
            [0, 1],
            [-1, 0, 2],
            [0, -3, 0, 4],
            [1, 0, -8, 0, 8],
            [0, 5, 0, -20, 0, 16],
            [-1, 0, 18, 0, -48, 0, 32],
        ]
        return torch.cat([sum(c * r**k for k, c in enumerate(row)) for row in table], -1)

    return Chebyshev(SIZE), {}, formula


def holding(module: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    for name, tensor in state.items():
        module.register_buffer(name, tensor.clone())
    return module


BASES = {"bessel": bessel, "gaussian": gaussian, "chebyshev": chebyshev}


@pytest.mark.parametrize("name", BASES)
def test_bases_are_jets_of_their_formulas(name):
    module, state, formula = BASES[name]()
    r = lengths()
    expected = nested_jvp(lambda r: formula(r, **state), r, 4)
    assert expected[0].shape == (5, 3, SIZE)
    for order in range(5):
        assert_jet(module(r, order), expected[: order + 1], 1e-11)


@pytest.mark.parametrize("name", ["bessel", "gaussian"])
@pytest.mark.parametrize("order", range(4))
def test_derivatives_of_bases_in_their_tensors_are_those_of_the_formula(name, order):
    module, state, formula = BASES[name]()
    r, weights = lengths(), random(5, 3, SIZE)

    def through_jets(state: dict[str, Tensor]) -> Tensor:
        return (functional_call(module, state, (r, order))[order] * weights).sum()

    def plain(state: dict[str, Tensor]) -> Tensor:
        return (nested_jvp(lambda r: formula(r, **state), r, order)[order] * weights).sum()

    found, expected = grad(through_jets)(state), grad(plain)(state)
    for key in state:
        assert_close(found[key], expected[key], 1e-11)


def envelope(r: Tensor, r_max: Tensor | float, p: int) -> Tensor:
    u = r / r_max
    inner = 1 - (p + 1) * (p + 2) / 2 * u**p + p * (p + 2) * u ** (p + 1)
    return torch.where(u < 1, inner - p * (p + 1) / 2 * u ** (p + 2), 0.0)


@pytest.mark.parametrize("p", [2, 5, 6])
@pytest.mark.parametrize("order", range(5))
def test_cutoff_is_the_jet_of_its_formula(p, order):
    r, r_max = lengths(1.4 * R_MAX), torch.tensor(R_MAX, dtype=torch.float64)
    assert (r > R_MAX).any()
    assert (r < R_MAX).any()
    found = polynomial_cutoff(r, r_max, p, order)
    assert_jet(found, nested_jvp(lambda r: envelope(r, r_max, p), r, order), 1e-11)
    weights = random(5, 3, 1)
    one = grad(lambda r_max: (polynomial_cutoff(r, r_max, p, order)[order] * weights).sum())(r_max)
    other = grad(
        lambda r_max: (nested_jvp(lambda r: envelope(r, r_max, p), r, order)[-1] * weights).sum()
    )(r_max)
    assert_close(one, other, 1e-11)


@pytest.mark.parametrize("p", [2, 5, 6])
def test_cutoff_and_its_derivatives_are_zero_at_and_beyond_the_cutoff(p):
    r_max = torch.tensor(R_MAX, dtype=torch.float64)
    r = torch.tensor([[R_MAX], [R_MAX + 1e-12], [1.5 * R_MAX], [100 * R_MAX]], dtype=torch.float64)
    for derivative in polynomial_cutoff(r, r_max, p, 3):
        assert torch.equal(derivative, torch.zeros_like(r))
        assert torch.equal(slope(lambda r: polynomial_cutoff(r, r_max, p, 3)[2])(r), 0 * r)
    below = torch.tensor([[R_MAX * (1 - 1e-7)]], dtype=torch.float64)
    value, first, second, _ = polynomial_cutoff(below, r_max, p, 3)
    assert value.abs() < 1e-12
    assert first.abs() < 1e-11
    assert second.abs() < 1e-4
    zero = torch.zeros(1, 1, dtype=torch.float64)
    assert polynomial_cutoff(zero, r_max, p, 0)[0] == 1


# The embedding.

RADII = torch.tensor([0.2, 0.31, 0.28, 1.28, 0.96, 0.84, 0.76, 0.71, 0.66], dtype=torch.float64)
TRANSFORMS: dict[str | None, dict[str, Tensor]] = {
    None: {},
    "Agnesi": {
        "q": torch.tensor(0.9183, dtype=torch.float64),
        "p": torch.tensor(4.5791, dtype=torch.float64),
        "a": torch.tensor(1.0805, dtype=torch.float64),
        "covalent_radii": RADII,
    },
    "Soft": {"alpha": torch.tensor(4.0, dtype=torch.float64), "covalent_radii": RADII},
}
EMBEDDINGS = [
    (basis, transform, apply_cutoff)
    for basis in BASES
    for transform in TRANSFORMS
    for apply_cutoff in (True, False)
]
every_embedding = pytest.mark.parametrize(("basis", "transform", "apply_cutoff"), EMBEDDINGS)
some_embeddings = pytest.mark.parametrize(
    ("basis", "transform", "apply_cutoff"),
    mostly_slow(EMBEDDINGS, EMBEDDINGS[::4] + EMBEDDINGS[3::4]),
)
"""Quick is each basis with each transform, with the cutoff early or late in turn."""


def make_embedding(basis: str, transform: Any, apply_cutoff: bool) -> RadialEmbedding:
    module, state, _ = BASES[basis]()
    coefficient = getattr(module, "coefficient", 0.0)
    settings = RadialSettings(basis, SIZE, 5, transform, apply_cutoff, coefficient)
    embedding = RadialEmbedding(settings)
    holding(embedding.bessel_fn, state)
    holding(embedding.cutoff_fn, {"r_max": torch.tensor(R_MAX, dtype=torch.float64)})
    if transform is not None:
        holding(embedding.distance_transform, TRANSFORMS[transform])
    return embedding


def transformed(
    name: str | None, r: Tensor, tensors: dict[str, Tensor], pair: tuple[Tensor, Tensor]
) -> Tensor:
    total = pair[0] + pair[1]
    if name == "Agnesi":
        x, q, p = 2 * r / total, tensors["q"], tensors["p"]
        return 1 / (1 + tensors["a"] * x**q / (1 + x ** (q - p)))
    if name == "Soft":
        low, high = 0.75 * total, 4 / 3 * total
        step = torch.tanh(tensors["alpha"] / (high - low) * (r - (low + high) / 2))
        return low + (r - low) * (1 + step) / 2
    return r


def plain_embedding(
    basis: str, transform: str | None, state: dict[str, Tensor]
) -> tuple[Function, Function]:
    """Basis and cutoff function as functions of the lengths."""
    formula = BASES[basis]()[2]
    parts: dict[str, dict[str, Tensor]] = {"bessel_fn": {}, "distance_transform": {}}
    for key, tensor in state.items():
        module, name = key.split(".")
        parts.setdefault(module, {})[name] = tensor
    numbers = torch.tensor([1, 1, 8, 8, 8])
    radii = parts["distance_transform"].get("covalent_radii", RADII)[numbers]
    pair = radii[:, None, None], radii[SENDERS][..., None]

    def values(r: Tensor) -> Tensor:
        x = transformed(transform, r, parts["distance_transform"], pair)
        return formula(x, **parts["bessel_fn"])

    return values, lambda r: envelope(r, parts["cutoff_fn"]["r_max"], 5)


@some_embeddings
def test_embedding_is_the_jet_of_its_formula(basis, transform, apply_cutoff):
    embedding, r = make_embedding(basis, transform, apply_cutoff), lengths()
    values, cutoff = plain_embedding(basis, transform, dict(embedding.named_buffers()))
    together = (lambda r: values(r) * cutoff(r)) if apply_cutoff else values
    expected, of_cutoff = nested_jvp(together, r, 3), nested_jvp(cutoff, r, 3)
    for order in range(4):
        jet, late = embedding(r, SENDERS, SPECIES, SPECIES, order)
        assert_jet(jet, expected[: order + 1], 1e-11)
        if apply_cutoff:
            assert late is None
        else:
            assert_jet(late, of_cutoff[: order + 1], 1e-11)


@some_embeddings
@pytest.mark.parametrize("order", [0, 2])
def test_derivatives_of_the_embedding_in_its_tensors(basis, transform, apply_cutoff, order):
    embedding, r = make_embedding(basis, transform, apply_cutoff), lengths()
    state, weights = dict(embedding.named_buffers()), random(5, 3, SIZE)

    def through_jets(state: dict[str, Tensor]) -> Tensor:
        jet, late = functional_call(embedding, state, (r, SENDERS, SPECIES, SPECIES, order))
        return ((jet if late is None else multiply(jet, late))[order] * weights).sum()

    def plain(state: dict[str, Tensor]) -> Tensor:
        values, cutoff = plain_embedding(basis, transform, state)
        jet = nested_jvp(lambda r: values(r) * cutoff(r), r, order)
        return (jet[order] * weights).sum()

    found, expected = grad(through_jets)(state), grad(plain)(state)
    for key in state:
        assert_close(found[key], expected[key], 1e-10)
    assert "cutoff_fn.r_max" in state


@every_embedding
def test_embedding_is_zero_with_all_derivatives_beyond_the_cutoff(basis, transform, apply_cutoff):
    embedding = make_embedding(basis, transform, apply_cutoff)
    r = lengths() + R_MAX
    jet, late = embedding(r, SENDERS, SPECIES, SPECIES, 3)
    for derivative in jet if late is None else multiply(jet, late):
        assert torch.equal(derivative, torch.zeros_like(derivative))


# The networks.


def radial_network(depth: int, inputs: int, activation: Activation) -> RadialNetwork:
    widths = [inputs, *[7, 5, 6][: depth - 1], 4]
    network = RadialNetwork(depth, activation)
    for k, layer in enumerate(network.children()):
        layer.weight = nn.Parameter(random(widths[k], widths[k + 1], seed=10 + k))
    return network


def normalised_network(depth: int, inputs: int) -> NormalisedRadialNetwork:
    widths = [inputs, *[7, 5, 6][: depth - 1], 4]
    network = NormalisedRadialNetwork(depth)
    linear = [layer for i, layer in enumerate(network.net) if i % 3 == 0]
    norms = [layer for i, layer in enumerate(network.net) if i % 3 == 1]
    for k, layer in enumerate(linear):
        layer.weight = nn.Parameter(random(widths[k + 1], widths[k], seed=20 + k))
        layer.bias = nn.Parameter(random(widths[k + 1], seed=30 + k))
    for k, layer in enumerate(norms):
        layer.weight = nn.Parameter(1 + 0.3 * random(widths[k + 1], seed=40 + k))
        layer.bias = nn.Parameter(random(widths[k + 1], seed=50 + k))
    assert all(isinstance(layer, AffineLayer) for layer in [*linear, *norms])
    return network


def plain_radial_network(x: Tensor, tensors: Sequence[Tensor], activation: Activation) -> Tensor:
    first, *deeper = tensors
    x = x @ first / sqrt(first.shape[0])
    for weight in deeper:
        x = activation.scale * ACTIVATIONS[activation.name](x) @ weight / sqrt(weight.shape[0])
    return x


def plain_normalised_network(x: Tensor, tensors: Sequence[Tensor], _: Activation) -> Tensor:
    weight, bias, *deeper = tensors
    x = x @ weight.T + bias
    while deeper:
        scale, shift, weight, bias, *deeper = deeper
        centred = x - x.mean(-1, keepdim=True)
        x = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5) * scale + shift
        x = ACTIVATIONS["silu"](x) @ weight.T + bias
    return x


NETWORKS = {
    "silu": ("radial", Activation("silu", 1.6)),
    "tanh": ("radial", Activation("tanh")),
    "sigmoid": ("radial", Activation("sigmoid", 0.9)),
    "normalised": ("normalised", Activation()),
}
every_network = pytest.mark.parametrize("network", NETWORKS)


class Case:
    """A radial function, and its weights as a plain function of lengths and tensors."""

    def __init__(self, network: str, depth: int, late: bool, nodes: bool) -> None:
        kind, self.activation = NETWORKS[network]
        self.late, self.widths = late, (3, 2) if nodes else (0, 0)
        self.embedding = make_embedding("bessel", "Agnesi", not late)
        inputs = SIZE + sum(self.widths)
        self.network = (
            radial_network(depth, inputs, self.activation)
            if kind == "radial"
            else normalised_network(depth, inputs)
        )
        self.forward = plain_radial_network if kind == "radial" else plain_normalised_network
        vectors = tuple(random(5, n, seed=60 + n) for n in self.widths) if nodes else ()
        self.function = RadialFunction(self.embedding, self.network, SPECIES, SPECIES, vectors)
        self.tensors = tuple(t.detach() for t in self.function.tensors)

    def jet(self, r: Tensor, tensors: Sequence[Tensor], order: int) -> list[Tensor]:
        inputs = self.function.inputs(r, SENDERS, tensors, order)
        return self.function.jet(tensors, inputs)

    def plain(self, r: Tensor, tensors: Sequence[Tensor], enveloped: bool = True) -> Tensor:
        names = [name for name, _ in self.embedding.named_buffers()]
        state = dict(zip(names, tensors, strict=False))
        values, cutoff = plain_embedding("bessel", "Agnesi", state)
        rest = list(tensors[len(names) :])
        x = values(r) if self.late else values(r) * cutoff(r)
        if self.widths[0]:
            source, target, *rest = rest
            x = torch.cat([x, source[SENDERS], target[:, None].expand(-1, 3, -1)], -1)
        weights = self.forward(x, rest, self.activation)
        return weights * cutoff(r) if self.late and enveloped else weights


SHAPES = (1, True, False), (2, False, True), (3, True, True), (4, False, False)
"""Layers, whether the cutoff is late, and whether there are vectors of the nodes."""


@pytest.mark.parametrize(
    ("network", "depth", "late", "nodes"),
    mostly_slow(
        [(network, *shape) for network in NETWORKS for shape in SHAPES],
        [
            (n, *shape)
            for k in (0, 2)
            for n, shape in zip(NETWORKS, SHAPES[k:] + SHAPES[:k], strict=True)
        ],
    ),
)
def test_networks_are_jets_of_their_formulas(network, depth, late, nodes):
    case, r = Case(network, depth, late, nodes), lengths()
    expected = nested_jvp(lambda r: case.plain(r, case.tensors), r, 3)
    assert expected[0].shape == (5, 3, 4)
    for order in range(4):
        assert_jet(case.jet(r, case.tensors, order), expected[: order + 1], 1e-10)
    inputs = case.function.inputs(r, SENDERS, case.tensors, 2)
    bare = nested_jvp(lambda r: case.plain(r, case.tensors, enveloped=False), r, 2)
    assert_jet(case.function.without_cutoff(case.tensors, inputs), bare, 1e-10)
    x, matrix = case.function.factors(case.tensors, inputs)
    assert_jet([d @ matrix for d in x], expected[:3], 1e-10)


@every_network
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("order", range(3))
def test_derivatives_of_networks_in_every_tensor(network, late, order):
    case, r, weights = Case(network, 3, late, True), lengths(), random(5, 3, 4)

    def through_jets(tensors: tuple[Tensor, ...]) -> Tensor:
        return (case.jet(r, tensors, order)[order] * weights).sum()

    def plain(tensors: tuple[Tensor, ...]) -> Tensor:
        jet = nested_jvp(lambda r: case.plain(r, tensors), r, order)
        return (jet[order] * weights).sum()

    found, expected = grad(through_jets)(case.tensors), grad(plain)(case.tensors)
    assert len(found) == len(case.tensors)
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, 1e-9)


@every_network
def test_derivatives_of_networks_equal_finite_differences(network):
    """An oracle that no automatic differentiation takes part in."""
    case, r, step = Case(network, 3, True, True), lengths(), 1e-3
    jet = case.jet(r, case.tensors, 3)
    for n in range(3):
        near, far = (
            case.jet(r + k * step, case.tensors, n)[n] - case.jet(r - k * step, case.tensors, n)[n]
            for k in (1, 2)
        )
        assert_close(jet[n + 1], (8 * near - far) / (12 * step), 1e-7)
    directions = [random(*t.shape, seed=k) for k, t in enumerate(case.tensors)]

    def slopes(step: float) -> Tensor:
        moved = [t + step * d for t, d in zip(case.tensors, directions, strict=True)]
        return case.jet(r, moved, 2)[2]

    found = jvp(lambda *tensors: case.jet(r, tensors, 2)[2], case.tensors, tuple(directions))[1]
    step = 1e-4
    near, far = (slopes(k * step) - slopes(-k * step) for k in (1, 2))
    assert_close(found, (8 * near - far) / (12 * step), 1e-7)


@every_network
def test_late_cutoff_makes_weights_zero_with_all_derivatives_beyond_it(network):
    case = Case(network, 2, True, True)
    for derivative in case.jet(lengths() + R_MAX, case.tensors, 3):
        assert torch.equal(derivative, torch.zeros_like(derivative))


def test_early_cutoff_makes_weights_without_biases_zero_beyond_it():
    case = Case("silu", 3, False, False)
    for derivative in case.jet(lengths() + R_MAX, case.tensors, 3):
        assert torch.equal(derivative, torch.zeros_like(derivative))


@every_network
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("nodes", [False, True])
def test_some_nodes_have_the_jets_that_they_have_among_all(network, late, nodes):
    case, r = Case(network, 2, late, nodes), lengths()
    inputs = case.function.inputs(r, SENDERS, case.tensors, 2)
    every = case.function.jet(case.tensors, inputs)
    for rows in (slice(0, 2), slice(2, 5), slice(3, 4), slice(0, 5)):
        some = case.function.jet(case.tensors, inputs.of(rows))
        assert_jet(some, [d[rows] for d in every], 1e-14)


def test_layer_norm_is_that_of_torch():
    x, weight, bias = random(6, 5), random(5, seed=1), random(5, seed=2)
    (value,) = layer_norm([x], weight, bias)
    expected = nn.functional.layer_norm(x, (5,), weight, bias)
    assert_close(value, expected)
    value, first = layer_norm([x, torch.ones_like(x)], weight, bias)
    assert_close(value, expected)
    assert first.abs().max() < 1e-12  # a constant that is added to all


def test_node_vectors_are_constants_of_the_jet():
    weight = random(SIZE + 5, 4)
    basis = [random(5, 3, SIZE, seed=k) for k in range(3)]
    source, target = random(5, 3, seed=7), random(5, 2, seed=8)
    value, first, second = RadialInputs(SENDERS, basis, None, source, target).linear(weight)
    x = torch.cat([basis[0], source[SENDERS], target[:, None].expand(-1, 3, -1)], -1)
    assert_close(value, x @ weight)
    assert_close(first, basis[1] @ weight[:SIZE])
    assert_close(second, basis[2] @ weight[:SIZE])
