"""The sparse model of the Hessian: against the dense one, and its steps against exact ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from optimizer_problems import coordinates_of, random_matrix, rattled_quartz
from scipy.sparse import csr_array

from mace_functional.optimize import limited_hessian
from mace_functional.optimize.atom_limit import MAX_ATOM_STEP
from mace_functional.optimize.coordinates import free_coordinates
from mace_functional.optimize.dense_hessian import DenseHessian
from mace_functional.optimize.first_hessian import first_hessian, sparse_first_hessian
from mace_functional.optimize.limited_hessian import LimitedHessian
from mace_functional.optimize.negative_curvature import lowest_curvature
from mace_functional.optimize.sparse_factors import SparseFactors
from mace_functional.optimize.subspace_step import subspace_step
from mace_functional.optimize.trust_region import quadratic_step
from mace_functional.optimize.valence_hessian import valence_hessian, valence_stiffness

SIZE = 30
NONE = np.empty((SIZE, 0))


def model_of(matrix):
    """Return the sparse model of a matrix, whose coordinates move one atom each."""
    sparse = csr_array(matrix)
    groups = np.full(len(matrix), -1)
    return LimitedHessian(sparse, groups, np.empty((len(matrix), 0)), SparseFactors(sparse))


def positive_definite(seed=0, lowest=0.5):
    values, vectors = np.linalg.eigh(random_matrix(SIZE, 1.0)[0])
    values = np.linspace(lowest, 20.0, SIZE) + 0 * values
    return vectors @ np.diag(values) @ vectors.T


def test_first_hessian_equals_the_dense_one():
    crystal = rattled_quartz()
    coordinates = coordinates_of(crystal)
    y = 0.05 * np.random.default_rng(1).normal(size=3 * len(crystal) + 6)
    pbc = np.array(crystal.pbc)
    dense = first_hessian(coordinates, y, crystal.numbers, pbc)
    sparse = sparse_first_hessian(coordinates, y, crystal.numbers, pbc)
    np.testing.assert_allclose(sparse.hessian.toarray(), dense, atol=1e-10 * abs(dense).max())
    near = sparse.near[:-6, :-6].toarray()
    assert np.linalg.eigvalsh(near)[0] > -1e-9 * abs(near).max()
    assert sparse.near.nnz <= sparse.hessian.nnz


def test_only_transverse_pairs_of_molecules_are_stiff_against_rotation():
    ring = np.arange(6) * np.pi / 3
    x = torch.tensor(np.column_stack([1.4 * np.cos(ring), 1.4 * np.sin(ring), 0 * ring]))
    molecule = x, torch.zeros(3, 3), [6] * 6, (False, False, False)
    dense, sparse = valence_hessian(*molecule).numpy(), valence_stiffness(*molecule).toarray()
    assert abs(dense - sparse).max() < 0.02 * abs(dense).max()
    assert np.linalg.eigvalsh(sparse - dense)[0] > -0.02 * abs(dense).max()


def test_sparse_basis_spans_the_free_coordinates():
    crystal = rattled_quartz()
    x, cell = torch.tensor(crystal.positions), torch.tensor(crystal.cell.array)
    dense = free_coordinates(crystal, x, cell)
    sparse = free_coordinates(crystal, x, cell, sparse=True)
    assert sparse.count == dense.count + 3  # translations
    basis = sparse.basis.toarray()
    np.testing.assert_allclose(basis.T @ basis, np.eye(sparse.count), atol=1e-12)
    np.testing.assert_allclose(basis @ (basis.T @ dense.basis), dense.basis, atol=1e-12)
    t = basis @ sparse.translations()
    np.testing.assert_allclose(dense.basis.T @ t, 0, atol=1e-12)
    assert t.shape[1] == 3
    assert (sparse.groups()[:-6] == np.repeat(np.arange(len(crystal)), 3)).all()
    assert (sparse.groups()[-6:] == -1).all()


def test_updates_and_products_are_those_of_the_matrix():
    random = np.random.default_rng(0)
    matrix, exact = positive_definite(), positive_definite(1, 2.0)
    dense, sparse = DenseHessian(matrix), model_of(matrix)
    for _ in range(5):
        step = random.normal(size=SIZE)
        error = exact @ step - dense.product(step)
        dense, sparse = dense.update(step, error), sparse.update(step, error)
        np.testing.assert_allclose(sparse.product(step), exact @ step, atol=1e-10)
    directions = random.normal(size=(SIZE, 4))
    dense, sparse = (m.refine(directions, exact @ directions) for m in (dense, sparse))
    np.testing.assert_allclose(sparse.product(np.eye(SIZE)), dense.matrix, atol=1e-9)
    gradient = random.normal(size=SIZE)
    gain = dense.expected_gain(gradient, 1e-3)
    assert sparse.expected_gain(gradient, 1e-3) == pytest.approx(gain, rel=1e-3)


def test_memory_is_limited(monkeypatch):
    monkeypatch.setattr(limited_hessian, "MAX_COLUMNS", 6)
    random, exact = np.random.default_rng(0), positive_definite(lowest=3.0)
    model = model_of(positive_definite())
    for _ in range(10):
        step = random.normal(size=SIZE)
        model = model.update(step, exact @ step - model.product(step))
    assert model.columns.shape == (SIZE, 6)
    np.testing.assert_allclose(model.product(step), exact @ step, atol=1e-10)


@pytest.mark.parametrize("lowest", [0.5, -2.0])
@pytest.mark.parametrize("radius", [0.01, 0.3, 100.0])
def test_steps_are_those_of_the_matrix(lowest, radius):
    matrix = positive_definite(lowest=lowest)
    gradient = np.random.default_rng(0).normal(size=SIZE)
    expected, inside = quadratic_step(gradient, matrix, radius)
    factors = SparseFactors(csr_array(np.diag(np.diag(matrix))))
    found = subspace_step(gradient, matrix, radius, factors.solve)

    def energy(s):
        return gradient @ s + 0.5 * s @ matrix @ s

    assert found.inside == inside
    assert np.linalg.norm(found.step) <= 1.011 * radius
    assert energy(found.step) < (1 - 2e-3) * energy(expected)
    by_model = model_of(matrix).step(gradient, radius, no_springs_of(SIZE))
    assert by_model.energy == pytest.approx(energy(by_model.step), rel=1e-9)
    assert by_model.energy < (1 - 2e-3) * energy(expected)


def no_springs_of(size):
    return lambda step: (0.0, np.zeros(size), csr_array((size, size)))


def test_no_atom_takes_the_step_of_all():
    matrix = positive_definite(lowest=5.0)
    sparse = csr_array(matrix)
    groups = np.arange(SIZE) // 3
    model = LimitedHessian(sparse, groups, NONE, SparseFactors(sparse))
    gradient = 0.1 * np.random.default_rng(0).normal(size=SIZE)
    gradient[3:6] = 30.0
    free = np.linalg.solve(matrix, -gradient).reshape(-1, 3)
    assert np.linalg.norm(free, axis=1).max() > 1.0
    step = model.step(gradient, 10.0, no_springs_of(SIZE)).step.reshape(-1, 3)
    assert 0.5 * MAX_ATOM_STEP < np.linalg.norm(step, axis=1).max() < 1.2 * MAX_ATOM_STEP


def test_atoms_that_move_together_along_a_soft_mode_are_not_held():
    atoms, axes = np.ones((SIZE // 3, SIZE // 3)), np.eye(3)
    matrix = 50.0 * np.eye(SIZE) - np.kron(49.9 * atoms / len(atoms), axes)  # translations are soft
    sparse = csr_array(matrix)
    groups = np.arange(SIZE) // 3
    model = LimitedHessian(sparse, groups, NONE, SparseFactors(sparse))
    gradient = np.tile([-0.02, 0.0, 0.0], SIZE // 3)  # 0.2 Å to the minimum
    step = model.step(gradient, 10.0, no_springs_of(SIZE)).step.reshape(-1, 3)
    lengths = np.linalg.norm(step, axis=1)
    assert 0.7 * MAX_ATOM_STEP < lengths.max() < 1.1 * MAX_ATOM_STEP


def test_preconditioner_is_positive_definite_whatever_the_matrix():
    matrix = positive_definite(lowest=-0.05)
    factors = SparseFactors(csr_array(matrix))
    inverse = factors.solve(np.eye(SIZE))
    assert np.linalg.eigvalsh((inverse + inverse.T) / 2)[0] > 0
    np.testing.assert_allclose(
        factors.solve(np.ones(SIZE), 10.0),
        np.linalg.solve(matrix + 10 * np.eye(SIZE), np.ones(SIZE)),
    )


def test_negative_curvature_is_found_with_the_sparse_model():
    exact = positive_definite(lowest=-0.5)
    model = model_of(positive_definite())
    found = lowest_curvature(model, lambda v: exact @ v, NONE, 1e-3)
    assert -0.5 - 1e-9 < found.curvature < -1e-3
    refined = model.refine(found.directions, found.products)
    assert refined.expected_gain(np.zeros(SIZE), 1e-3) == np.inf


def test_softest_directions_are_soft():
    matrix = np.diag(np.arange(1.0, SIZE + 1))
    directions = model_of(matrix).softest(4)
    assert directions.shape == (SIZE, 4)
    np.testing.assert_allclose(directions.T @ directions, np.eye(4), atol=1e-10)
    assert np.linalg.eigvalsh(directions.T @ matrix @ directions)[-1] < 4.5
    assert model_of(matrix).softest(10).shape == (SIZE, SIZE)
