"""The two strategies and the state that they share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optimizer_problems import GRADIENTS, SPECTRA, no_springs, problem, random_matrix
from scipy.optimize import rosen, rosen_der, rosen_hess

from mace_functional.optimize.climb_mode import ClimbMode, InternalMotions
from mace_functional.optimize.dense_hessian import DenseHessian, Trial
from mace_functional.optimize.descend import Descend
from mace_functional.optimize.negative_curvature import lowest_curvature
from mace_functional.optimize.trust_region_state import TrustRegionState


def state_at(z, energy, gradient, hessian):
    return TrustRegionState(z, energy, gradient, DenseHessian(hessian), 0.1, 0.5, 3e-15)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    exponents=st.tuples(st.floats(-14, 14), st.floats(-14, 14), st.floats(-7, 2)),
    spectrum=st.sampled_from(SPECTRA),
    direction=st.sampled_from(GRADIENTS),
    seed=st.integers(0, 2**32 - 1),
)
def test_both_strategies_take_any_surface(exponents, spectrum, direction, seed):
    """Ten steps on a quadratic surface: no exception, and nothing that is not finite."""
    values, parts, vectors, radius = problem(5, spectrum, direction, exponents, seed)
    slope, hessian = vectors @ parts, (vectors * values) @ vectors.T

    def quadratic(z):
        return float(slope @ z + 0.5 * z @ hessian @ z), slope + hessian @ z

    z = np.zeros(5)
    start = TrustRegionState(
        z, *quadratic(z), DenseHessian(np.zeros((5, 5))), radius, 10 * radius, 3e-15
    )
    climb = ClimbMode(InternalMotions(np.eye(5), np.eye(5), np.eye(5)))
    for follows, strategy in ((False, Descend()), (True, climb)):
        state = start
        for _ in range(10):
            if follows:
                strategy = climb.track(state.hessian)
            trial = strategy.propose(state, no_springs)
            state, _ = state.tell(trial, *quadratic(state.z + trial.step), strategy)
            assert np.isfinite(state.hessian.matrix).all()
            assert np.isfinite(state.z).all()
            assert state.radius > 0
        assert follows or state.energy <= 0


@pytest.mark.parametrize("dimensions", [2, 10])
def test_descent_finds_the_end_of_a_bent_valley(dimensions):
    z = np.full(dimensions, -1.0)
    descend, state = Descend(), state_at(z, rosen(z), rosen_der(z), rosen_hess(z))
    energies = [state.energy]
    for _ in range(400):
        trial = descend.propose(state, no_springs)
        there = state.z + trial.step
        state, accepted = state.tell(trial, rosen(there), rosen_der(there), descend)
        if accepted:
            assert state.within_noise or state.energy < energies[-1]
            energies.append(state.energy)
        if np.linalg.norm(state.gradient) < 1e-8:
            break
    assert np.linalg.norm(state.gradient) < 1e-8
    assert state.hessian.expected_gain(state.gradient, 1e-6) < 1e-12


@dataclass(frozen=True)
class OneNumber:
    """The least model of a Hessian, c times one, with c from the last step."""

    c: float

    def product(self, vectors):
        return self.c * vectors

    def predict(self, gradient, step):
        return Trial(step, float((gradient + 0.5 * self.c * step) @ step), self.c * step, self)

    def step(self, gradient, radius, springs):
        step = -gradient / self.c
        return self.predict(gradient, step * min(1.0, radius / np.linalg.norm(step)))

    def update(self, step, gradient_error):
        change = self.c * step + gradient_error
        return OneNumber(float(change @ step / (step @ step)))

    def refine(self, directions, products):
        return OneNumber(float((directions * products).sum() / (directions**2).sum()))

    def softest(self, count):
        raise NotImplementedError

    def expected_gain(self, gradient, flat):
        return 0.5 * float(gradient @ gradient) / self.c

    def inverse_root(self, rigid):
        raise NotImplementedError


def test_a_state_takes_any_model_of_the_hessian():
    """Large structures need one that keeps no matrix."""
    hessian = np.diag(np.linspace(1.0, 10.0, 50))
    z = np.ones(50)
    state = TrustRegionState(z, 0.5 * z @ hessian @ z, hessian @ z, OneNumber(5.0), 1.0, 5.0, 3e-15)
    state = state.refine(np.eye(50)[:, -1:], hessian[:, -1:])
    assert state.hessian.c == 10.0
    for _ in range(300):
        trial = Descend().propose(state, no_springs)
        there = state.z + trial.step
        state, _ = state.tell(trial, 0.5 * there @ hessian @ there, hessian @ there, Descend())
    assert state.hessian.expected_gain(state.gradient, 1e-6) < 1e-10


def test_a_state_is_never_changed():
    z = np.full(4, -1.0)
    state = state_at(z, rosen(z), rosen_der(z), rosen_hess(z))
    before = {name: np.array(value) for name, value in vars(state).items() if name != "hessian"}
    matrix = state.hessian.matrix.copy()
    trial = Descend().propose(state, no_springs)
    there = z + trial.step
    after, accepted = state.tell(trial, rosen(there), rosen_der(there), Descend())
    state.refine(np.eye(4)[:, :2], np.ones((4, 2)))
    assert accepted
    assert after.energy < state.energy
    for name, value in before.items():
        np.testing.assert_array_equal(getattr(state, name), value)
    np.testing.assert_array_equal(state.hessian.matrix, matrix)


def test_a_step_to_what_is_not_finite_is_rejected():
    state = state_at(np.ones(2), 1.0, np.ones(2), np.eye(2))
    trial = Descend().propose(state, no_springs)
    state, accepted = state.tell(trial, np.nan, np.ones(2), Descend())
    assert not accepted
    assert state.radius < 0.1
    np.testing.assert_array_equal(state.z, np.ones(2))


def test_there_is_nothing_to_do_where_the_gradient_is_zero():
    state = state_at(np.ones(2), 1.0, np.zeros(2), np.eye(2))
    trial = Descend().propose(state, no_springs)
    np.testing.assert_array_equal(trial.step, np.zeros(2))
    state, accepted = state.tell(trial, 1.0, np.zeros(2), Descend())
    assert not accepted
    assert state.within_noise
    assert state.radius == 0.1


def test_radius_follows_the_quality_of_the_prediction():
    """A quadratic surface is predicted exactly, one that is much stiffer is not."""
    hessian, z = np.diag([1.0, 2.0]), np.array([3.0, 1.0])
    start = state_at(z, 0.5 * z @ hessian @ z, hessian @ z, hessian)
    trial = Descend().propose(start, no_springs)
    there = z + trial.step
    cases = ((1, True, 0.2), (30, True, 0.1), (45, True, 0.05), (100, False, 0.025))
    for factor, accepted, radius in cases:
        energy = start.energy + start.gradient @ trial.step
        energy += 0.5 * factor * trial.step @ hessian @ trial.step
        gradient = start.gradient + factor * hessian @ trial.step
        state, taken = start.tell(trial, energy, gradient, Descend())
        assert taken == accepted
        assert state.radius == pytest.approx(radius, rel=0.02)
        np.testing.assert_allclose(state.z, there if taken else z)
        # Either way the Hessian now knows the step.
        change = state.hessian.product(trial.step)
        np.testing.assert_allclose(change, factor * hessian @ trial.step, rtol=1e-9)


@pytest.mark.parametrize("known", [True, False])
def test_negative_curvature_is_found_where_it_is_not_known(known):
    exact, vectors, _ = random_matrix(20, 0.5)
    exact -= 2.4 * np.outer(vectors[:, 7], vectors[:, 7])  # from 2.2 to -0.2
    assert np.linalg.eigvalsh(exact)[0] < 0
    hessian = DenseHessian(exact if known else random_matrix(20, 0.5)[0])
    found = lowest_curvature(hessian, lambda v: exact @ v, np.zeros((20, 0)), 1e-6)
    assert found.curvature < 0
    refined = hessian.refine(found.directions, found.products)
    assert np.linalg.eigvalsh(refined.matrix)[0] < 0
    rigid = np.linalg.eigh(exact)[1][:, :1]
    assert lowest_curvature(hessian, lambda v: exact @ v, rigid, 1e-6).curvature > 0


def test_products_along_a_direction_that_is_given_twice_count_once():
    random = np.random.default_rng(0)
    exact = random.normal(size=(4, 4))
    exact = exact + exact.T
    directions = random.normal(size=(4, 2))
    directions = np.column_stack([directions, directions @ [1.0, -2.0], np.zeros(4)])
    refined = DenseHessian(np.eye(4)).refine(directions, exact @ directions)
    np.testing.assert_allclose(refined.product(directions), exact @ directions, atol=1e-12)


def test_curvature_of_a_structure_without_internal_motions_is_not_looked_for():
    found = lowest_curvature(DenseHessian(np.eye(2)), lambda v: v, np.eye(2), 1e-6)
    assert found.curvature == np.inf
    assert found.products.shape == (2, 0)
