"""Spherical harmonics against e3nn and against the theorems they obey."""

from __future__ import annotations

import pytest
import torch
from e3nn import o3
from torch import Tensor

from mace_functional.mace.harmonics import spherical_harmonics

L_MAX = 6
AXES = torch.cat([torch.eye(3), -torch.eye(3)]).double()


@pytest.fixture
def directions() -> Tensor:
    """Random unit vectors, and the axes, where angles are undefined."""
    vectors = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    return torch.cat([vectors / vectors.norm(dim=1, keepdim=True), AXES])


@pytest.mark.parametrize("degree", range(L_MAX + 1))
def test_harmonics_equal_e3nn(directions, degree):
    expected = o3.spherical_harmonics(degree, directions, normalize=True, normalization="component")
    found = spherical_harmonics(directions, L_MAX)[degree]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("l_max", [0, 1, 4])
def test_harmonics_do_not_depend_on_the_largest_degree(directions, l_max):
    found = spherical_harmonics(directions, l_max)
    assert len(found) == l_max + 1
    for low, high in zip(found, spherical_harmonics(directions, L_MAX), strict=False):
        assert torch.equal(low, high)


def test_addition_theorem_gives_legendre_polynomials(directions):
    cosines = directions @ directions.T
    for degree, harmonics in enumerate(spherical_harmonics(directions, L_MAX)):
        legendre = torch.special.legendre_polynomial_p(cosines, degree)
        torch.testing.assert_close(harmonics @ harmonics.T, (2 * degree + 1) * legendre)


@pytest.mark.parametrize("degree", range(1, L_MAX + 1))
def test_derivatives_in_the_vector_equal_e3nn_and_are_finite_on_the_axes(degree, directions):
    def ours(vectors: Tensor) -> Tensor:
        return spherical_harmonics(vectors / vectors.norm(dim=-1, keepdim=True), degree)[degree]

    def theirs(vectors: Tensor) -> Tensor:
        return o3.spherical_harmonics(degree, vectors, normalize=True, normalization="component")

    vectors = 1.7 * directions
    weights = torch.linspace(-1, 1, 2 * degree + 1, dtype=torch.float64)
    found = torch.func.grad(lambda v: (ours(v) @ weights).sum())(vectors)
    leaf = vectors.clone().requires_grad_()
    (expected,) = torch.autograd.grad((theirs(leaf) @ weights).sum(), leaf)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
