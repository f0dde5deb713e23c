"""Steps within a trust radius, for every matrix, gradient and radius that may occur."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from optimizer_problems import GRADIENTS, SPECTRA, problem, random_matrix
from scipy.optimize import minimize

from mace_functional.optimize.trust_region import BOUNDARY, model_step, quadratic_step


def best_decrease(values, parts, radius):
    """Decrease and length of the best step, in the eigenvectors, by halving an interval of mu."""
    low = max(0.0, -values[0])
    size = np.linalg.norm(parts)

    def step(mu):
        with np.errstate(divide="ignore", over="ignore"):
            return -np.divide(parts, values + mu, out=np.zeros_like(parts), where=parts != 0)

    s = step(low)
    if not np.linalg.norm(s) <= radius:
        # mu - low lies between |parts along the lowest| / radius and |g| / radius, or is less.
        below, above = 1e-40 * size / radius, size / radius
        for _ in range(200):
            middle = np.sqrt(below * above)
            longer = np.linalg.norm(parts / (values + low + middle)) > radius
            below, above = (middle, above) if longer else (below, middle)
        s = -parts / (values + low + above)
    elif values[0] < 0:
        s[0] = np.sqrt(max(radius**2 - s @ s, 0.0))
    return -(parts @ s + 0.5 * s @ (values * s)), float(np.linalg.norm(s))


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    size=st.integers(1, 12),
    spectrum=st.sampled_from(SPECTRA),
    direction=st.sampled_from(GRADIENTS),
    exponents=st.tuples(st.floats(-14, 14), st.floats(-14, 14), st.floats(-7, 7)),
    seed=st.integers(0, 2**32 - 1),
)
@example(6, "indefinite", "all", (-14.0, 14.0, 0.0), 0)  # forces large beside the Hessian
@example(6, "singular", "all", (0.0, 0.0, 0.0), 0)
@example(6, "singular", "all", (0.0, 14.0, -7.0), 1)
@example(6, "indefinite", "hard", (0.0, -9.0, 0.0), 0)
@example(6, "zero", "none", (0.0, 0.0, 0.0), 0)
def test_no_step_within_the_radius_is_lower(size, spectrum, direction, exponents, seed):
    values, parts, vectors, radius = problem(size, spectrum, direction, exponents, seed)
    gradient, hessian = vectors @ parts, (vectors * values) @ vectors.T
    hessian = (hessian + hessian.T) / 2
    step, inside = quadratic_step(gradient, hessian, radius)
    length = np.linalg.norm(step)
    assert length <= (1 + BOUNDARY) * radius * (1 + 1e-12)
    best, best_length = best_decrease(values, parts, radius)
    found = -(gradient @ step + 0.5 * step @ hessian @ step)
    reach = max(length, best_length)
    rounding = np.linalg.norm(parts) * reach + np.abs(values).max() * reach**2
    assert found >= 0.99 * best - 1e-13 * rounding
    if best_length > 0 and (spectrum != "conditioned"):
        assert inside or length >= (1 - BOUNDARY) * min(best_length, radius)


@pytest.mark.parametrize("spectrum", SPECTRA[:2] + SPECTRA[4:6])
@pytest.mark.parametrize("seed", range(3))
def test_step_is_as_low_as_that_of_scipy(spectrum, seed):
    values, parts, vectors, radius = problem(8, spectrum, "all", (0.0, 0.0, -0.5), seed)
    gradient, hessian = vectors @ parts, (vectors * values) @ vectors.T

    def model(s):
        return gradient @ s + 0.5 * s @ hessian @ s

    one_step = {"initial_trust_radius": radius, "max_trust_radius": 1.0001 * radius, "maxiter": 1}
    theirs = minimize(
        model,
        np.zeros(8),
        method="trust-exact",
        jac=lambda s: gradient + hessian @ s,
        hess=lambda s: hessian,
        options=one_step,
    )
    assert model(quadratic_step(gradient, hessian, radius)[0]) <= 0.97 * theirs.fun


@pytest.mark.parametrize(
    ("gradient", "hessian", "radius"),
    [
        ([np.nan, 0.0], np.eye(2), 1.0),
        ([np.inf, 0.0], np.eye(2), 1.0),
        ([1.0, 0.0], np.diag([1.0, np.nan]), 1.0),
        ([1.0, 0.0], np.eye(2), np.nan),
        ([1.0, 0.0], np.eye(2), 0.0),
    ],
)
def test_what_is_not_finite_is_refused_in_words(gradient, hessian, radius):
    with pytest.raises(ValueError, match="a step needs a gradient and a Hessian that are finite"):
        quadratic_step(np.array(gradient), hessian, radius)


def test_nothing_happens_where_all_is_zero_or_there_is_nothing():
    step, inside = quadratic_step(np.zeros(3), np.zeros((3, 3)), 1.0)
    np.testing.assert_array_equal(step, 0)
    assert inside
    assert quadratic_step(np.zeros(0), np.zeros((0, 0)), 1.0)[0].shape == (0,)


def test_springs_that_break_leave_the_step_where_they_hold():
    """A spring whose energy is no number beyond 0.3: the step stays within."""

    def spring(step):
        energy = 0.0 if np.linalg.norm(step) < 0.3 else np.nan
        return energy, np.zeros(2), np.zeros((2, 2))

    found = model_step(np.array([1.0, 0.0]), np.eye(2), 1.0, spring)
    assert np.isfinite(found.energy)
    assert np.linalg.norm(found.step) < 0.3


@pytest.mark.parametrize("lowest", [0.1, -1.0, 0.0])
@pytest.mark.parametrize("radius", [0.05, 0.7, 100.0])
def test_step_is_the_minimum_within_the_radius(lowest, radius):
    hessian, vectors, random = random_matrix(12, lowest)
    gradient = vectors[:, 1:] @ random.normal(size=11) + 0.01 * vectors[:, 0]
    step, inside = quadratic_step(gradient, hessian, radius)
    length = np.linalg.norm(step)
    assert length <= 1.011 * radius
    assert inside == (length < 0.99 * radius)
    if inside:
        np.testing.assert_allclose(hessian @ step, -gradient, atol=1e-9)
        return
    # More and Sorensen's conditions: (H + mu) s = -g, mu >= 0, H + mu has no negative eigenvalue.
    mu = -(gradient + hessian @ step) @ step / length**2
    np.testing.assert_allclose(hessian @ step + mu * step, -gradient, atol=1e-6)
    assert mu >= max(0.0, -lowest) - 1e-6
    assert abs(length / radius - 1) < 0.011


def test_step_leaves_a_saddle_point_where_the_gradient_does_not_point_out():
    hessian, vectors, _ = random_matrix(6, -1.0)
    for gradient in (np.zeros(6), 0.1 * vectors[:, 3]):
        step, inside = quadratic_step(gradient, hessian, 0.5)
        assert not inside
        assert abs(np.linalg.norm(step) / 0.5 - 1) < 1e-4
        assert abs(step @ vectors[:, 0]) > 0.4


def test_step_with_springs_is_lower_than_that_of_the_quadratic_model():
    """A rotor: the distance from the origin is held by a stiff spring, and a field turns it."""

    def spring(step, stiffness=100.0):
        place = np.array([1.0, 0.0]) + step
        r = np.linalg.norm(place)
        n = place / r
        along = np.outer(n, n)
        curvature = stiffness * (along + (1 - 1 / r) * (np.eye(2) - along))
        return 0.5 * stiffness * (r - 1) ** 2, stiffness * (r - 1) * n, curvature

    gradient = np.array([0.0, -1.0])
    hessian = spring(np.zeros(2))[2] + 0.1 * np.eye(2)
    found = model_step(gradient, hessian, 0.8, spring)
    best = minimize(
        lambda s: gradient @ s + 0.05 * s @ s + spring(s)[0],
        [0.0, 0.1],
        constraints={"type": "ineq", "fun": lambda s: 0.8**2 - s @ s},
    )
    np.testing.assert_allclose(found.step, best.x, atol=0.02)
    assert abs(np.linalg.norm(np.array([1.0, 0.0]) + found.step) - 1) < 0.02
    np.testing.assert_allclose(found.energy, best.fun, atol=0.01)
    np.testing.assert_allclose(found.gradient, 0.1 * found.step + spring(found.step)[1], atol=1e-12)
