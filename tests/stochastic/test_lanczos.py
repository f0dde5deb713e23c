"""Lanczos iterations and quadratures against eigenvalues of numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import assert_close, random
from torch import Tensor

from mace_functional.stochastic.lanczos import Lanczos

SIZE = 30


def matrix() -> Tensor:
    """A symmetric matrix with eigenvalues from 0.01 to 9, three of them equal."""
    q = torch.linalg.qr(random(SIZE, SIZE, seed=1)).Q
    values = torch.linspace(0.1, 3.0, SIZE, dtype=torch.float64).square()
    values[4:7] = values[5].clone()
    return q @ torch.diag(values) @ q.mT


def iterated(d: Tensor, start: Tensor, steps: int) -> Lanczos:
    lanczos = Lanczos(lambda vectors: vectors @ d, start)
    for _ in range(steps):
        lanczos.step()
    return lanczos


def quadratic_forms(d: Tensor, y: Tensor, function) -> np.ndarray:
    values, vectors = np.linalg.eigh(d.numpy())
    return (y.numpy() @ vectors) ** 2 @ function(values)


def stacked(*functions):
    return lambda values: torch.stack([f(values) for f in functions])


@pytest.mark.parametrize(("rule", "degree"), [("gauss", 9), ("radau", 10)])
def test_five_products_are_exact_for_polynomials(rule, degree):
    d, y = matrix(), random(3, SIZE)
    nodes = getattr(iterated(d, y, 5), rule)()
    for power, exact in ((degree, True), (degree + 1, False)):
        found = nodes.sums(stacked(lambda x, n=power: (x / 9) ** n))[0]
        expected = quadratic_forms(d, y, lambda x, n=power: (x / 9) ** n)
        error = np.abs(found.numpy() / expected - 1).max()
        assert (error < 1e-11) == exact


def test_gauss_and_radau_bracket_a_decreasing_convex_function():
    d, y = matrix(), random(4, SIZE)
    for steps in (3, 6, 9):
        lanczos = iterated(d, y, steps)
        low = lanczos.gauss().sums(stacked(lambda x: torch.exp(-x)))[0]
        high = lanczos.radau().sums(stacked(lambda x: torch.exp(-x)))[0]
        exact = torch.as_tensor(quadratic_forms(d, y, lambda x: np.exp(-x)))
        assert (low < exact).all()
        assert (exact < high).all()


def test_images_are_functions_of_the_matrix_times_a_vector():
    d, y = matrix(), random(2, SIZE)
    found = iterated(d, y, 24).images(stacked(torch.exp, torch.log1p), 1)
    values, vectors = np.linalg.eigh(d.numpy())
    for row, function in zip(found, (np.exp, np.log1p), strict=True):
        assert_close(row, vectors @ (function(values) * (vectors.T @ y[1].numpy())), 1e-6)


def test_fewer_steps_are_those_of_a_shorter_iteration():
    d, y = matrix(), random(2, SIZE)
    long, short = iterated(d, y, 9), iterated(d, y, 4)
    function = stacked(torch.sqrt)
    assert_close(long.gauss(4).sums(function), short.gauss().sums(function))
    assert_close(long.radau(4).sums(function), short.radau().sums(function))
    assert_close(long.images(function, 1, 4), short.images(function, 1))


def test_complete_krylov_spaces_stay_exact():
    d = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64))
    y = torch.tensor([[1.0, 0, 0, 0], [1, 2, 0, 0], [1, 1, 1, 1]], dtype=torch.float64)
    lanczos = iterated(d, y, 7)
    assert lanczos.complete
    expected = quadratic_forms(d, y, np.log)
    for nodes in (lanczos.gauss(), lanczos.radau()):
        assert_close(nodes.sums(stacked(torch.log))[0], expected)
    assert_close(lanczos.images(stacked(torch.log), 1)[0], np.log(d.diag()) * y[1])


def test_a_zero_vector_has_no_weight():
    nodes = iterated(matrix(), torch.zeros(1, SIZE, dtype=torch.float64), 3).gauss()
    assert not nodes.weights.any()


def test_ritz_values_bound_the_lowest_eigenvalue_within_their_residual():
    d, y = matrix() - torch.eye(SIZE), random(3, SIZE)
    exact = torch.linalg.eigvalsh(d)
    values, residuals = iterated(d, y, 8).extremes()
    assert (values[:, 0] >= exact[0]).all()
    assert (values[:, 1] <= exact[-1]).all()
    nearest = (values[..., None] - exact).abs().min(-1).values
    assert (nearest <= residuals + 1e-12).all()


def test_radau_with_negative_ritz_values_is_gauss():
    d, y = matrix() - 2 * torch.eye(SIZE), random(2, SIZE)
    lanczos = iterated(d, y, 6)
    assert_close(
        lanczos.radau().sums(stacked(torch.exp)), lanczos.gauss().sums(stacked(torch.exp)), 1e-12
    )
