"""Thermodynamics from products against those of all modes; options, warnings, refusals."""

from __future__ import annotations

import warnings

import pytest
import torch
from ase import Atoms
from ase.constraints import FixAtoms
from helpers import assert_close
from pair_crystals import ions, relaxed, xenon

import mace_functional as mf
from mace_functional.stochastic import sampling
from mace_functional.stochastic.passes import Stage

T = (100.0, 300.0, 1000.0)


@pytest.fixture(scope="module")
def salt() -> Atoms:
    return relaxed("salt") * (3, 3, 3)


@pytest.fixture(scope="module")
def exact(salt) -> mf.HarmonicThermo:
    return mf.harmonic_thermo(mf.gamma_modes(ions(), salt), T)


def sampled(atoms: Atoms, temperatures=T, rel_error=5e-3, **options) -> mf.StochasticThermo:
    """A result from probing vectors: the Hessian would take more products than are allowed."""
    most = {"max_products": 3 * len(atoms) - 1, "entropy_error": 5e-2}
    return mf.stochastic_thermo(
        ions(), atoms, temperatures, rel_error=rel_error, **{**most, **options}
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_a_crystal_has_the_thermodynamics_of_all_its_modes(salt, exact, seed):
    found = sampled(salt, seed=seed)
    assert found.converged
    assert found.n_vectors > 0
    assert found.n_modes == 3 * len(salt) - 3
    assert found.mass == pytest.approx(float(exact.mass))
    names = "heat_capacity", "entropy", "free_energy", "internal_energy", "zero_point_energy"
    for name in names:
        deviation = (getattr(found, name) - getattr(exact, name)).abs()
        assert (deviation <= 3 * getattr(found, f"{name}_error")).all()
    assert (found.heat_capacity_error <= 5e-3 * found.heat_capacity).all()
    assert (found.entropy_error <= 5e-2 * found.entropy).all()
    low, high = found.interval("heat_capacity", errors=3.0)
    assert ((low <= exact.heat_capacity) & (exact.heat_capacity <= high)).all()


def test_equal_seeds_give_equal_results(salt):
    one, same, other = (sampled(salt, seed=seed) for seed in (4, 4, 5))
    assert torch.equal(one.heat_capacity, same.heat_capacity)
    assert torch.equal(one.entropy_error, same.entropy_error)
    assert not torch.equal(one.heat_capacity, other.heat_capacity)


def test_an_interrupted_calculation_continues(salt, tmp_path, monkeypatch):
    whole = sampled(salt)
    path, run, made = tmp_path / "passes.npz", Stage.run, []

    def interrupted(stage, **options):
        if len(made) == 1:
            raise KeyboardInterrupt
        made.append(stage)
        run(stage, **options)

    monkeypatch.setattr(Stage, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sampled(salt, checkpoint=path)
    monkeypatch.setattr(Stage, "run", run)
    rest = sampled(salt, checkpoint=path)
    assert rest.n_products == whole.n_products
    assert torch.equal(rest.heat_capacity, whole.heat_capacity)
    again = sampled(salt, checkpoint=path)
    assert torch.equal(again.entropy, whole.entropy)
    with pytest.raises(ValueError, match="belongs to another calculation: it differs in seed"):
        sampled(salt, checkpoint=path, seed=9)
    path.write_text("nothing")
    with pytest.raises(ValueError, match="is no checkpoint of stochastic_thermo"):
        sampled(salt, checkpoint=path)


def test_more_colours_replace_many_passes(salt, exact, monkeypatch):
    monkeypatch.setattr(sampling, "SCATTER", {1: 1e-9})
    found = sampled(salt, 300.0, 8e-4, entropy_error=None)
    assert found.n_vectors >= 6
    assert found.n_passes == 2
    assert found.converged
    assert abs(float(found.heat_capacity / exact.heat_capacity[1]) - 1) < 2.4e-3


def test_a_small_structure_is_diagonalised():
    water = Atoms("Xe3", [[0, 0, 0], [3.8, 0, 0], [1.9, 3.3, 0]])
    water = mf.relax(xenon(), water, fmax=1e-8).atoms
    found = mf.stochastic_thermo(xenon(), water, T)
    expected = mf.harmonic_thermo(mf.gamma_modes(xenon(), water), T)
    assert (found.n_rigid, found.n_modes, found.n_vectors) == (6, 3, 0)
    assert_close(found.heat_capacity, expected.heat_capacity, 1e-9)
    assert_close(found.entropy, expected.entropy, 1e-9)
    assert not found.entropy_error.any()
    assert found.n_products == 9


def test_a_single_atom_has_no_vibrations():
    found = mf.stochastic_thermo(xenon(), Atoms("Xe"), T)
    assert found.n_modes == 0
    assert not found.heat_capacity.any()


def test_a_saddle_point_is_reported_with_evidence(salt):
    rattled = salt.copy()
    rattled.rattle(0.5, seed=1)
    modes = mf.gamma_modes(ions(), rattled)
    with pytest.warns(UserWarning, match="the structure is no minimum: the lowest Ritz value"):
        found = sampled(rattled, 300.0, 0.05, entropy_error=None)
    assert modes.n_imaginary > 3
    assert found.lowest_frequency < 0
    assert found.lowest_frequency >= modes.frequencies[0]
    assert found.n_imaginary_bound + 2 * found.n_imaginary_error >= modes.n_imaginary
    assert "imaginary" in repr(found)


def test_errors_larger_than_asked_for_are_a_warning(salt):
    with pytest.warns(UserWarning, match="raise max_products, ask for less"):
        found = sampled(salt, 20.0, 1e-3)
    assert not found.converged
    assert found.heat_capacity_error > 1e-3 * found.heat_capacity
    assert "not as accurate as asked for" in repr(found)


def test_no_warning_where_nothing_is_doubtful(salt):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = sampled(salt, 300.0)
    assert repr(found).startswith("StochasticThermo(300 K: heat capacity ")


def test_absolute_zero_has_the_zero_point_energy_alone(salt):
    found = sampled(salt, [0.0, 300.0])
    assert found.heat_capacity[0] == 0
    assert found.entropy[0] == 0
    assert_close(found.free_energy[0], found.zero_point_energy)
    assert_close(found.internal_energy[0], found.zero_point_energy)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rel_error": 0.0}, "rel_error must be"),
        ({"entropy_error": -1.0}, "entropy_error must be"),
        ({"temperatures": [-1.0]}, "temperatures must lie between"),
        ({"seed": -1}, "seed must be"),
        ({"max_products": 5}, "max_products must be at least"),
    ],
)
def test_bad_options_are_refused(salt, options, message):
    with pytest.raises(ValueError, match=message):
        sampled(salt, **options)


def test_constraints_and_transforms_are_refused(salt):
    held = salt.copy()
    held.set_constraint(FixAtoms([0]))
    with pytest.raises(ValueError, match="stochastic_thermo needs all atoms free"):
        sampled(held)
    with pytest.raises(TypeError, match="swapped"):
        mf.stochastic_thermo(salt, ions(), 300.0)

    def of_a_parameter(epsilon: torch.Tensor) -> torch.Tensor:
        potential = xenon()
        potential.params["epsilon"] = epsilon
        return mf.stochastic_thermo(potential, Atoms("Xe2", [[0] * 3, [4] * 3]), 300.0).entropy

    with pytest.raises(ValueError, match="stochastic_thermo reads numbers"):
        torch.func.grad(of_a_parameter)(torch.tensor(0.02, dtype=torch.float64))


def test_single_precision_products_are_enough(salt, exact):
    found = mf.stochastic_thermo(
        ions().to(dtype=torch.float32),
        salt,
        T,
        rel_error=5e-3,
        entropy_error=None,
        max_products=161,
    )
    deviation = (found.heat_capacity - exact.heat_capacity).abs()
    assert found.heat_capacity.dtype == torch.float64
    assert (deviation <= 3 * found.heat_capacity_error).all()
