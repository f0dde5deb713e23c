"""Errors of truncated heat capacities, against eigenvalues of exact and truncated matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import assert_close
from layered_springs import dense, diamond, layered_springs

import mace_functional as mf
from mace_functional.sparse import truncation_error as module
from mace_functional.sparse.truncation_error import (
    TruncationError,
    exact_process,
    truncation_error,
)
from mace_functional.units import K_B, frequency_factor

SIZE = 40


def heat_capacity(matrix: np.ndarray, rigid: np.ndarray, temperature: float) -> float:
    """Of all modes but the rigid ones, by `harmonic_thermo`."""
    internal = np.linalg.qr(rigid, mode="complete")[0][:, rigid.shape[1] :]
    values = torch.as_tensor(np.linalg.eigvalsh(internal.T @ matrix @ internal))
    assert values.min() > 0
    frequencies = frequency_factor("THz") * values.sqrt()
    return float(mf.harmonic_thermo(frequencies, temperature, unit="THz").heat_capacity)


def random_matrices(size_of_error: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A stored and an exact matrix, and three rigid motions."""
    random = np.random.default_rng(3)
    q = np.linalg.qr(random.standard_normal((SIZE, SIZE)))[0]
    stored = (q * np.linspace(0.5, 35.0, SIZE)) @ q.T
    error = random.standard_normal((SIZE, SIZE))
    exact = stored + size_of_error * (error + error.T) / (2 * SIZE**0.5)
    return stored, exact, np.linalg.qr(random.standard_normal((SIZE, 3)))[0]


def measured(
    exact: np.ndarray,
    stored: np.ndarray,
    rigid: np.ndarray,
    *,
    seed: int = 0,
    temperature: float = 300.0,
) -> TruncationError:
    process = exact_process(lambda v: exact @ v, rigid, seed=seed)
    return truncation_error(process, lambda v: stored @ v, rigid, temperature=temperature)


@pytest.mark.parametrize("temperature", [100.0, 300.0, 1000.0])
@pytest.mark.parametrize("size_of_error", [1e-3, 0.1])
def test_the_bound_holds(size_of_error: float, temperature: float) -> None:
    stored, exact, rigid = random_matrices(size_of_error)
    difference = heat_capacity(exact, rigid, temperature) - heat_capacity(
        stored, rigid, temperature
    )
    projector = np.eye(SIZE) - rigid @ rigid.T
    norm = np.linalg.norm(projector @ (exact - stored) @ projector)
    for seed in range(3):
        found = measured(exact, stored, rigid, seed=seed, temperature=100.0)
        assert norm < found.norm < 3 * norm
        error = found.heat_capacity(temperature)
        assert abs(difference) <= error.bound
        assert abs(difference - error.shift) <= error.bound


def test_estimates_have_no_bias_and_scatter_by_their_standard_error() -> None:
    stored, exact, rigid = random_matrices(1.0)
    difference = heat_capacity(exact, rigid, 300.0) - heat_capacity(stored, rigid, 300.0)
    errors = [measured(exact, stored, rigid, seed=seed).heat_capacity(300.0) for seed in range(60)]
    shifts, standard_errors = np.array([(e.shift, e.standard_error) for e in errors]).T
    assert abs(shifts.mean() - difference) < 2 * shifts.std() / 60**0.5
    assert abs((standard_errors**2).mean() ** 0.5 / shifts.std() - 1) < 0.15
    assert all(abs(difference) <= e.bound for e in errors)


def test_many_probes_find_the_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "N_PROBES", 100)
    stored, _, rigid = random_matrices(0.0)
    exact = 1.001 * stored
    difference = heat_capacity(exact, rigid, 300.0) - heat_capacity(stored, rigid, 300.0)
    found = measured(exact, stored, rigid).heat_capacity(300.0)
    assert abs(found.shift / difference - 1) < 0.1
    assert abs(found.heat_capacity / heat_capacity(stored, rigid, 300.0) - 1) < 0.1


def test_the_norm_holds_as_often_as_it_says() -> None:
    """Errors of rank one are hardest: a few vectors may all be nearly orthogonal to them."""
    one = np.diag(np.arange(SIZE) == 3).astype(float)
    none, free = np.zeros_like(one), np.zeros((SIZE, 0))
    norms = [measured(one, none, free, seed=seed).norm for seed in range(200)]
    assert np.mean(np.array(norms) < 1) < 0.02
    assert np.median(norms) < 2.5


def test_low_temperatures_take_more_products() -> None:
    stored, exact, rigid = random_matrices(0.1)
    few, many = (measured(exact, stored, rigid, temperature=t) for t in (1000.0, 30.0))
    assert few.n_products < many.n_products < SIZE * module.N_PROBES
    assert many.heat_capacity(1000.0).bound < 1.1 * few.heat_capacity(1000.0).bound
    with pytest.raises(ValueError, match="measured for temperatures from 1000 K on, not for 30 K"):
        few.heat_capacity(30.0)


def test_matrices_that_are_equal_have_no_error() -> None:
    stored, _, rigid = random_matrices(0.0)
    error = measured(stored, stored, rigid).heat_capacity(300.0)
    assert error.bound < 1e-12 * error.heat_capacity


@pytest.mark.parametrize("temperature", [30.0, 300.0])
def test_the_heat_capacity_of_a_mode(temperature: float) -> None:
    y = np.concatenate([np.linspace(1e-6, 2e-3, 50), np.linspace(0.01, 50, 200)])
    c = module._heat_capacity(torch.as_tensor(y), temperature)
    frequencies = torch.as_tensor(frequency_factor("meV") * np.sqrt(y))
    exact = [
        mf.harmonic_thermo(frequencies[None, k], temperature, unit="meV").heat_capacity
        for k in range(len(y))
    ]
    assert_close(c, torch.stack(exact), 1e-9)


def test_the_heat_capacity_of_an_imaginary_mode_is_the_tangent_at_zero() -> None:
    y = torch.tensor([0.0, 1e-6, -1e-6, -1.0, -2.0], dtype=torch.float64)
    zero, above, below, one, two = (module._heat_capacity(y, 300.0) / K_B).tolist()
    assert zero == 1
    assert abs((above - zero) / (zero - below) - 1) < 1e-3
    assert abs((two - one) / (one - zero) - 1) < 1e-12


@pytest.mark.parametrize("method", ["products", "local"])
@pytest.mark.parametrize("hops", [1, 2, 3])
def test_the_bound_of_a_truncated_crystal_holds(method: str, hops: int) -> None:
    potential, atoms = layered_springs(coupling=0.05), diamond(4, 3, 2)
    result = mf.sparse_hessian(potential, atoms, hops=hops, method=method, temperature=100.0)
    weights = np.repeat(atoms.get_masses() ** -0.5, 3)
    exact = dense(potential, atoms) * np.outer(weights, weights)
    stored = result.mass_weighted().toarray()
    assert result.truncation is not None
    for temperature in (100.0, 300.0, 600.0):
        difference = sum(
            sign * _sum_over_modes(matrix, result.rigid, temperature)
            for sign, matrix in ((1, exact), (-1, stored))
        )
        error = result.truncation.heat_capacity(temperature)
        assert abs(difference) <= error.bound
        assert error.relative_bound == error.bound / error.heat_capacity


def _sum_over_modes(matrix: np.ndarray, rigid: np.ndarray, temperature: float) -> float:
    """Of the function whose trace is bounded: imaginary modes are continued by the tangent."""
    internal = np.linalg.qr(rigid, mode="complete")[0][:, rigid.shape[1] :]
    values = np.linalg.eigvalsh(internal.T @ matrix @ internal)
    return float(module._heat_capacity(torch.as_tensor(values), temperature).sum())
