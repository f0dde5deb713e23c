"""The parts of a relaxation: coordinates, surface, springs, steps and updates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from scipy.optimize import minimize, rosen, rosen_der, rosen_hess

import mace_functional as mf
from mace_functional.optimize.bond_stretch import BondStretch
from mace_functional.optimize.coordinates import STRAINS, free_coordinates
from mace_functional.optimize.minimiser import Minimiser
from mace_functional.optimize.quasi_newton import updated_hessian
from mace_functional.optimize.surface import Surface
from mace_functional.optimize.trust_region import model_step, quadratic_step


@pytest.fixture(scope="module")
def crystal():
    atoms = mf.example_structure("quartz")
    atoms.rattle(0.05, seed=0)
    return atoms


def coordinates_of(atoms, **options):
    cell = torch.as_tensor(atoms.cell.array)
    return free_coordinates(atoms, torch.as_tensor(atoms.positions), cell, **options)


def no_springs(step):
    return 0.0, np.zeros_like(step), np.zeros((len(step), len(step)))


def random_matrix(size, lowest, seed=0):
    random = np.random.default_rng(seed)
    vectors = np.linalg.qr(random.normal(size=(size, size)))[0]
    return (vectors * np.linspace(lowest, 5.0, size)) @ vectors.T, vectors, random


def test_strains_are_an_orthonormal_basis_in_the_order_of_voigt():
    np.testing.assert_allclose(np.einsum("kab,lab->kl", STRAINS, STRAINS), np.eye(6), atol=1e-15)
    np.testing.assert_allclose(STRAINS, STRAINS.transpose(0, 2, 1))
    assert STRAINS[3, 1, 2] == STRAINS[3, 2, 1] > 0  # yz


def test_translations_are_no_coordinates(crystal):
    coordinates = coordinates_of(crystal)
    assert coordinates.count == 3 * len(crystal) - 3 + 6
    np.testing.assert_allclose(
        coordinates.basis.T @ coordinates.basis, np.eye(coordinates.count), atol=1e-12
    )
    z = np.random.default_rng(0).normal(size=coordinates.count)
    displacements, _ = coordinates.split(coordinates.joint(z))
    np.testing.assert_allclose(displacements.mean(0), 0, atol=1e-12)


@pytest.mark.parametrize(
    ("pbc", "freedom", "count"),
    [
        ((1, 1, 1), True, 6),
        ((1, 1, 0), True, 3),
        ((0, 0, 1), True, 1),
        ((0, 0, 0), True, 0),
        ((1, 1, 1), False, 0),
        ((1, 1, 0), "isotropic", 1),
        ((1, 1, 1), (1, 1, 0, 0, 0, 1), 3),
        ((1, 1, 0), (1, 0, 1, 1, 1, 1), 2),
    ],
)
def test_free_strains(pbc, freedom, count):
    atoms = Atoms("Si2", [[0, 0, 0], [1, 1, 1]], cell=np.diag([4, 5, 6]), pbc=pbc)
    assert coordinates_of(atoms, cell_freedom=freedom).count == 3 + count


def test_strains_of_a_slab_lie_in_its_plane():
    """However it is turned: what is normal to the periodic directions is not strained."""
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    atoms = Atoms("Si", cell=np.diag([4.0, 5.0, 30.0]) @ turn, pbc=(1, 1, 0))
    coordinates = coordinates_of(atoms)
    z = np.random.default_rng(0).normal(size=coordinates.count)
    _, strain = coordinates.split(coordinates.joint(z))
    np.testing.assert_allclose(strain.numpy() @ turn[2], 0, atol=1e-12)
    assert coordinates.count == 3


def test_gradient_and_hessian_are_derivatives_of_the_enthalpy(model, crystal):
    surface = Surface(model, crystal, coordinates_of(crystal), pressure=10.0)
    random = np.random.default_rng(0)
    z, v = 0.1 * random.normal(size=(2, surface.coordinates.count))
    step = 1e-4
    here = surface.at(z)
    above, below = surface.at(z + step * v), surface.at(z - step * v)
    np.testing.assert_allclose(
        here.gradient @ v, (above.energy - below.energy) / (2 * step), rtol=1e-6
    )
    expected = (above.gradient - below.gradient) / (2 * step)
    product = surface.products(z)(v)
    np.testing.assert_allclose(product, expected, atol=1e-5 * abs(expected).max())
    basis = surface.coordinates.basis
    for rough, tolerance in ((None, 1e-11), (model.to(dtype=torch.float32), 1e-4)):
        hessian = basis.T @ surface.joint_hessian(z, rough) @ basis
        np.testing.assert_allclose(hessian @ v, product, atol=tolerance * abs(product).max())


def test_surface_ends_where_there_is_no_structure(model, crystal):
    surface = Surface(model, crystal, coordinates_of(crystal))
    joint = np.zeros(len(surface.coordinates.basis))
    joint[-6:-3] = -1.1 * surface.coordinates.strain_length
    assert surface.at(surface.coordinates.basis.T @ joint).energy == np.inf


@pytest.fixture
def springs(crystal):
    coordinates = coordinates_of(crystal)
    size = coordinates.basis.shape[0]
    hessian = random_matrix(size, -1.0)[0]
    y = 0.05 * np.random.default_rng(3).normal(size=size)
    return BondStretch.of(coordinates, y, hessian, np.array(crystal.pbc)), y


def test_springs_are_at_rest_where_they_were_made(springs):
    found, y = springs
    assert len(found.first) > 10
    assert (found.stiffness > 0).all()
    energy, gradient = found(y)
    assert energy < 1e-25
    np.testing.assert_allclose(gradient, 0, atol=1e-12)
    there = y + 0.1
    assert found(there + 0.1 * np.sin(np.arange(len(y))))[0] > 1e-3
    assert found.at_rest(there)(there)[0] < 1e-25


def test_derivatives_of_springs(springs):
    found, y = springs
    random, step = np.random.default_rng(0), 1e-5
    v = random.normal(size=len(y))
    there = y + 0.05 * random.normal(size=len(y))
    slope = (found(there + step * v)[0] - found(there - step * v)[0]) / (2 * step)
    np.testing.assert_allclose(found(there)[1] @ v, slope, rtol=1e-7)
    bend = (found(y + step * v)[1] - found(y - step * v)[1]) / (2 * step)
    np.testing.assert_allclose(found.hessian(y) @ v, bend, atol=1e-5 * abs(bend).max())


def test_springs_of_a_dimer_have_the_stiffness_of_its_bond(model):
    dimer = Atoms("H2", [[0, 0, 0], [0, 0, 0.75]])
    surface = Surface(model, dimer, coordinates_of(dimer))
    hessian = surface.joint_hessian(np.zeros(3))
    found = BondStretch.of(surface.coordinates, np.zeros(12), hessian, np.zeros(3, bool))
    np.testing.assert_allclose(found.stiffness, [hessian[2, 2]], rtol=1e-12)


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


@pytest.mark.parametrize("lowest", [0.5, -1.0])
def test_updated_hessian_knows_the_last_step(lowest):
    exact, _, random = random_matrix(8, lowest)
    known = exact + 0.1 * np.diag(random.normal(size=8))
    step = random.normal(size=8)
    updated = updated_hessian(known, step, exact @ step)
    np.testing.assert_allclose(updated @ step, exact @ step, atol=1e-12)
    np.testing.assert_allclose(updated, updated.T, atol=1e-12)
    np.testing.assert_array_equal(updated_hessian(exact, np.zeros(8), np.zeros(8)), exact)
    np.testing.assert_allclose(updated_hessian(exact, step, exact @ step), exact, atol=1e-12)


@pytest.mark.parametrize("dimensions", [2, 10])
def test_minimiser_finds_the_end_of_a_bent_valley(dimensions):
    z = np.full(dimensions, -1.0)
    state = Minimiser(z, rosen(z), rosen_der(z), rosen_hess(z), 0.1, 0.5, 2e-16)
    energies = [state.energy]
    for _ in range(400):
        tried = state.propose(no_springs)
        if state.take(rosen(tried), rosen_der(tried)):
            assert state.lost_in_rounding or state.energy < energies[-1]
            energies.append(state.energy)
        if np.linalg.norm(state.gradient) < 1e-8:
            break
    assert np.linalg.norm(state.gradient) < 1e-8
    assert state.expected_gain(1e-6) < 1e-12


def test_minimiser_refuses_what_is_not_finite():
    state = Minimiser(np.ones(2), 1.0, np.ones(2), np.eye(2), 0.1, 0.5, 2e-16)
    state.propose(no_springs)
    assert not state.take(np.nan, np.ones(2))
    assert state.radius < 0.1
    np.testing.assert_array_equal(state.z, np.ones(2))


def test_minimiser_has_nothing_to_do_where_the_gradient_is_zero():
    state = Minimiser(np.ones(2), 1.0, np.zeros(2), np.eye(2), 0.1, 0.5, 2e-16)
    tried = state.propose(no_springs)
    np.testing.assert_array_equal(tried, np.ones(2))
    assert not state.take(1.0, np.zeros(2))
    assert state.lost_in_rounding
    assert state.radius == 0.1


@pytest.mark.parametrize("known", [True, False])
def test_negative_curvature_is_found_where_it_is_not_known(known):
    exact, vectors, _ = random_matrix(20, 0.5)
    exact -= 2.4 * np.outer(vectors[:, 7], vectors[:, 7])  # from 2.2 to -0.2
    assert np.linalg.eigvalsh(exact)[0] < 0
    hessian = exact if known else random_matrix(20, 0.5)[0]
    state = Minimiser(np.zeros(20), 0.0, np.zeros(20), hessian, 0.1, 0.5, 2e-16)
    assert state.lowest_curvature(lambda v: exact @ v, np.zeros((20, 0)), 1e-6) < 0
    assert np.linalg.eigvalsh(state.hessian)[0] < 0
    rigid = np.linalg.eigh(exact)[1][:, :1]
    state = Minimiser(np.zeros(20), 0.0, np.zeros(20), hessian, 0.1, 0.5, 2e-16)
    assert state.lowest_curvature(lambda v: exact @ v, rigid, 1e-6) > 0
