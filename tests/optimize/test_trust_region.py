"""Steps within a trust radius, for every matrix, gradient and radius that may occur."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

import mace_functional as mf
from mace_functional.optimize import surface
from mace_functional.optimize.climber import Climber, Internal
from mace_functional.optimize.coordinates import free_coordinates
from mace_functional.optimize.minimiser import Minimiser
from mace_functional.optimize.quasi_newton import updated_hessian
from mace_functional.optimize.surface import Surface
from mace_functional.optimize.trust_region import BOUNDARY, model_step, quadratic_step

SPECTRA = ("spread", "conditioned", "degenerate", "singular", "indefinite", "negative", "zero")
GRADIENTS = ("all", "soft", "stiff", "hard", "none")


def no_springs(step):
    return 0.0, np.zeros_like(step), np.zeros((len(step), len(step)))


def problem(size, spectrum, direction, exponents, seed):
    """Eigenvalues, parts of the gradient along eigenvectors, eigenvectors, and a radius."""
    random = np.random.default_rng(seed)
    values = {
        "spread": np.linspace(0.1, 1.0, size),
        "conditioned": np.logspace(-14, 0, size),
        "degenerate": np.repeat([0.2, 1.0], [(size + 1) // 2, size // 2]),
        "singular": np.repeat([0.0, 1.0], [(size + 1) // 2, size // 2]),
        "indefinite": np.linspace(-0.5, 1.0, size),
        "negative": -np.logspace(0, -14, size),
        "zero": np.zeros(size),
    }[spectrum]
    parts = random.normal(size=size)
    parts *= {
        "all": 1.0,
        "soft": np.arange(size) == 0,
        "stiff": np.arange(size) == size - 1,
        "hard": values > values[0],
        "none": 0.0,
    }[direction]
    vectors = np.linalg.qr(random.normal(size=(size, size)))[0]
    scale, slope, radius = 10.0 ** np.array(exponents)
    return scale * values, slope * parts, vectors, radius


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


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    exponents=st.tuples(st.floats(-14, 14), st.floats(-14, 14), st.floats(-7, 2)),
    spectrum=st.sampled_from(SPECTRA),
    direction=st.sampled_from(GRADIENTS),
    seed=st.integers(0, 2**32 - 1),
)
def test_minimiser_and_climber_take_any_surface(exponents, spectrum, direction, seed):
    """Ten steps on a quadratic surface: no exception, and nothing that is not finite."""
    values, parts, vectors, radius = problem(5, spectrum, direction, exponents, seed)
    slope, hessian = vectors @ parts, (vectors * values) @ vectors.T

    def quadratic(z):
        return float(slope @ z + 0.5 * z @ hessian @ z), slope + hessian @ z

    z = np.zeros(5)
    start = (z, *quadratic(z), np.zeros((5, 5)), radius, 10 * radius, 2e-16)
    internal = Internal(np.eye(5), np.eye(5), np.eye(5))
    minimiser, climber = Minimiser(*start), Climber(*start)
    for _ in range(10):
        minimiser.take(*quadratic(minimiser.propose(no_springs)))
        climber.take(*quadratic(climber.propose(no_springs, internal)))
        for state in (minimiser, climber):
            assert np.isfinite(state.hessian).all()
            assert np.isfinite(state.z).all()
            assert state.radius > 0
    assert minimiser.energy <= 0


def test_curvature_of_a_structure_without_internal_motions_is_not_looked_for():
    state = Minimiser(np.zeros(2), 0.0, np.zeros(2), np.eye(2), 0.1, 0.5, 2e-16)
    assert state.lowest_curvature(lambda v: v, np.eye(2), 1e-6) == np.inf
    np.testing.assert_array_equal(state.hessian, np.eye(2))


@pytest.mark.parametrize("scale", [1e-120, 1e-14, 1e14])
def test_update_of_a_hessian_is_the_same_for_a_step_of_any_length(scale):
    random = np.random.default_rng(0)
    hessian = random.normal(size=(4, 4))
    hessian = hessian + hessian.T
    step, change = random.normal(size=(2, 4))
    np.testing.assert_allclose(
        updated_hessian(hessian, scale * step, scale * change),
        updated_hessian(hessian, step, change),
        rtol=1e-10,
    )


def test_products_along_a_direction_that_is_given_twice_count_once():
    random = np.random.default_rng(0)
    exact = random.normal(size=(4, 4))
    exact = exact + exact.T
    directions = random.normal(size=(4, 2))
    directions = np.column_stack([directions, directions @ [1.0, -2.0], np.zeros(4)])
    state = Minimiser(np.zeros(4), 0.0, np.zeros(4), np.eye(4), 0.1, 0.5, 2e-16)
    state.correct(directions, exact @ directions)
    np.testing.assert_allclose(state.hessian @ directions, exact @ directions, atol=1e-12)


def test_products_of_a_hessian_that_overflow_are_refused_in_words(monkeypatch):
    quartz = mf.example_structure("quartz")
    cell = torch.as_tensor(quartz.cell.array)
    coordinates = free_coordinates(quartz, torch.as_tensor(quartz.positions), cell)
    at_rest = Surface(mf.load_model("embedded"), quartz, coordinates)
    z = np.zeros(coordinates.count)
    monkeypatch.setattr(surface, "map_columns", lambda _, columns: columns * torch.nan)
    with pytest.raises(ArithmeticError, match="entries that are not finite"):
        at_rest.products(z)(np.ones_like(z))
