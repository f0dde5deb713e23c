"""Error bars of spectra are changes of repeated calculations with other weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from helpers import assert_close

import mace_functional as mf
from mace_functional.uncertainty import (
    WeightPosterior,
    uncertain_frequencies,
    uncertain_thermo,
)

NAME = "readouts.1.linear_2.weight"
STEP = 0.01


@pytest.fixture(scope="module")
def model() -> mf.MaceModel:
    return mf.load_model("embedded")


def step_of(model: mf.MaceModel) -> torch.Tensor:
    w = model.params[NAME]
    return STEP * w.abs().mean() * torch.cos(torch.arange(w.numel(), dtype=w.dtype)).view_as(w)


def one_direction(model: mf.MaceModel) -> WeightPosterior:
    """Weights that are uncertain along one direction, so that a spread is a change along it."""
    return WeightPosterior((NAME,), (model.params[NAME],), step_of(model).reshape(-1, 1))


def relaxed(model: mf.MaceModel, atoms: Atoms, response: str) -> Atoms:
    if response == "nothing":
        return atoms
    found = mf.relax(model, atoms, fmax=1e-7, relax_cell=response == "cell").atoms
    found.calc = None
    return found


def structure(model: mf.MaceModel, name: str) -> Atoms:
    if name == "water":
        atoms = molecule("H2O")
    else:
        atoms = bulk("SiC", "zincblende", 4.36)
        atoms.positions[1] += 0.02  # the response has a direction
    return relaxed(model, atoms, "cell" if name != "water" else "ions")


def changes(model: mf.MaceModel, atoms: Atoms, response: str, function: Any) -> torch.Tensor:
    """Half the difference of a function between both ends, each with a minimum of its own."""
    ends = []
    for sign in (1, -1):
        moved = model.with_params(
            {**model.params, NAME: model.params[NAME] + sign * step_of(model)}
        )
        ends.append(function(moved, relaxed(moved, atoms, response)))
    return (ends[0] - ends[1]) / 2


@pytest.mark.parametrize(
    ("name", "response"), [("water", "ions"), ("crystal", "nothing"), ("crystal", "cell")]
)
def test_spread_of_frequencies_is_the_change_of_repeated_calculations(model, name, response):
    atoms = structure(model, name)
    found = uncertain_frequencies(model, atoms, one_direction(model), response=response)

    def vibrations(m: mf.MaceModel, moved: Atoms) -> torch.Tensor:
        return mf.gamma_modes(m, moved).frequencies

    assert_close(found.frequencies, vibrations(model, atoms), 1e-8)
    expected = changes(model, atoms, response, vibrations).abs()
    assert expected.max() > 0.1
    assert_close(found.spread, expected, 2e-3)


def test_spread_of_a_barrier_is_the_change_of_repeated_searches(model):
    """That of the inversion of ammonia; stationary points need no response."""
    flat = molecule("NH3")
    flat.positions[:, 2] = 0.01 * flat.positions[:, 2]

    def ends(m: mf.MaceModel) -> tuple[mf.Structure, mf.Structure]:
        saddle = mf.find_saddle(m, flat, fmax=1e-7, connect=False).atoms
        minimum = mf.relax(m, molecule("NH3"), fmax=1e-7).atoms
        return mf.from_ase(saddle, m), mf.from_ase(minimum, m)

    def barrier_fn(m: mf.MaceModel) -> Any:
        structures = ends(m)

        def barrier(params: Any) -> torch.Tensor:
            energies = [mf.energy_fn(m, s.graph)(s.positions, s.cell, params) for s in structures]
            return energies[0] - energies[1]

        return barrier

    value, spread = one_direction(model).spread(barrier_fn(model), model.params)
    assert value > 0.05
    expected = changes(model, flat, "nothing", lambda m, _: barrier_fn(m)(m.params)).abs()
    assert expected > 1e-4
    assert_close(spread, expected, 1e-3)


@pytest.mark.slow
def test_spread_of_thermodynamics_is_the_change_of_repeated_calculations(model):
    atoms, size = structure(model, "crystal"), (2, 1, 1)
    posterior = one_direction(model)
    found = uncertain_thermo(model, atoms, posterior, 300.0, mesh=size, response="cell")

    def thermo(m: mf.MaceModel, moved: Atoms) -> Any:
        mesh = mf.Mesh.of(moved, size, symmetry=False)
        return mf.mesh_thermo(mf.mesh_modes(mf.phonons_of(m, moved), mesh), 300.0).thermo

    exact = thermo(model, atoms)
    for quantity in "heat_capacity", "entropy", "free_energy", "zero_point_energy":
        assert_close(getattr(found.thermo, quantity), getattr(exact, quantity), 1e-8)
        expected = changes(model, atoms, "cell", lambda m, a, q=quantity: getattr(thermo(m, a), q))
        assert_close(getattr(found.spread, quantity), expected.abs(), 5e-3)


def test_spreads_of_heat_capacities_have_the_units_of_heat_capacities(model):
    atoms = structure(model, "crystal")
    found = uncertain_thermo(model, atoms, one_direction(model), [300.0], response="nothing")
    expected = found.spread.heat_capacity / found.thermo.heat_capacity
    ratio = found.spread.specific_heat_capacity() / found.thermo.specific_heat_capacity()
    assert_close(ratio, expected)
    assert float(found.spread.heat_capacity) > 0


def test_at_other_wave_vectors_there_are_all_modes(model):
    atoms = structure(model, "crystal")
    q = [0.5, 0.0, 0.0]
    found = uncertain_frequencies(model, atoms, one_direction(model), q=q)
    expected = mf.frequencies(mf.phonons_of(model, atoms).dynamical_matrix(q))
    assert_close(found.frequencies, expected, 1e-8)
    assert (found.spread > 0).all()


def test_bad_input_is_refused(model):
    atoms = structure(model, "crystal")
    with pytest.raises(ValueError, match="response must be"):
        uncertain_frequencies(model, atoms, one_direction(model), response="everything")
    two = molecule("H2O")
    two.positions += [0, 0, 20]
    two += molecule("H2O")
    with pytest.raises(ValueError, match="several parts"):
        uncertain_frequencies(model, two, one_direction(model))
