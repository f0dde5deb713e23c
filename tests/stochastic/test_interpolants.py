"""Hermite interpolants against polynomials, and as the response of Gauss quadratures."""

from __future__ import annotations

import torch
from helpers import assert_close, random
from torch import Tensor

from mace_functional.stochastic.interpolants import hermite_interpolants
from mace_functional.stochastic.lanczos import Lanczos

NODES = torch.tensor([[0.3, 1.0, 2.5, 4.0]], dtype=torch.float64)
AT = torch.linspace(0.1, 5.0, 20, dtype=torch.float64)[None]


def test_polynomials_of_degree_seven_are_their_own_interpolants():
    def functions(values: Tensor) -> Tensor:
        return torch.stack([values**7 - 3 * values**2, 1 + values**5])

    assert_close(hermite_interpolants(functions, NODES, AT), functions(AT), 1e-7)


def test_interpolants_have_values_and_slopes_of_the_function():
    def function(values: Tensor) -> Tensor:
        return values.log()[None]

    change = 1e-4
    assert_close(hermite_interpolants(function, NODES, NODES), function(NODES), 1e-9)
    above = hermite_interpolants(function, NODES, NODES + change)
    assert_close((above - function(NODES)) / change, 1 / NODES[None], 1e-3)


def test_a_quadrature_changes_as_the_integral_of_its_interpolant():
    values = torch.linspace(0.1, 3.0, 30, dtype=torch.float64).square()
    y, change = random(2, 30, seed=2)

    def function(values: Tensor) -> Tensor:
        return values.log()[None]

    def gauss(y: Tensor) -> Lanczos:
        lanczos = Lanczos(lambda vectors: vectors * values, y[None])
        for _ in range(4):
            lanczos.step()
        return lanczos

    def quadrature(scale: float) -> Tensor:
        return gauss(y + scale * change).gauss().sums(function)[0, 0]

    h = hermite_interpolants(function, gauss(y).gauss().values, values[None])[0, 0]
    found = (quadrature(1e-4) - quadrature(-1e-4)) / 2e-4
    assert_close(found, 2 * (y * change * h).sum(), 1e-6)
