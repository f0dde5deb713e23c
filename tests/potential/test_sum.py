"""Sums of potentials against their parts."""

from __future__ import annotations

import pytest
import torch
from pair_potential import smooth_pairs
from torch.func import grad

import mace_functional as mf


@pytest.fixture(scope="module")
def parts(model) -> tuple[mf.Potential, ...]:
    return model, smooth_pairs(elements=None), mf.D3(mf.D3Settings("pbe", 8.0, 6.0))


@pytest.fixture(scope="module")
def quartz():
    atoms = mf.example_structure("quartz")
    atoms.rattle(0.03, seed=4)
    return atoms


def of(potential: mf.Potential, atoms) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    s = potential.structure(atoms)
    E, args = mf.energy_fn(potential, s.topology), (s.positions, s.cell, potential.params)
    return E(*args), mf.forces(E)(*args), mf.stress(E)(*args)


def test_energy_forces_and_stress_are_the_sums_of_those_of_the_parts(parts, quartz):
    whole = of(mf.SumPotential(*parts), quartz)
    for found, *of_parts in zip(whole, *(of(p, quartz) for p in parts), strict=True):
        torch.testing.assert_close(found, sum(of_parts), rtol=1e-12, atol=1e-12)


def test_dynamical_matrix_is_the_sum_of_those_of_the_parts(parts, quartz):
    matrices = []
    for p in (mf.SumPotential(*parts), *parts):
        s = p.structure(quartz)
        D = mf.dynamical_matrix_fn(p, s.topology)
        matrices.append(D([0.2, 0.1, -0.4], s.positions, s.cell, p.params, s.masses))
    torch.testing.assert_close(matrices[0], sum(matrices[1:]), rtol=0, atol=1e-12)


def test_gradients_by_parameters_come_in_the_tuple_of_the_parts(parts, quartz):
    both = mf.SumPotential(*parts)
    s = both.structure(quartz)
    slopes = grad(mf.energy_fn(both, s.topology), argnums=2)(s.positions, s.cell, both.params)
    alone = parts[1].structure(quartz)
    E = mf.energy_fn(parts[1], alone.topology)
    expected = grad(E, argnums=2)(alone.positions, alone.cell, parts[1].params)
    assert slopes[2] == {}
    for name, slope in expected.items():
        torch.testing.assert_close(slopes[1][name], slope)


def test_a_model_with_dispersion_is_a_sum(model):
    both = mf.load_model("embedded", dispersion="pbe")
    assert isinstance(both, mf.SumPotential)
    mace, d3 = both.potentials
    assert isinstance(mace, mf.MaceModel)
    assert isinstance(d3, mf.D3)
    assert both.params[0].keys() == model.params.keys()


def test_references_of_a_sum_are_those_of_its_first_term_that_has_some(parts, quartz):
    pair = next(p for p in parts if not isinstance(p, mf.MaceModel))
    mace = next(p for p in parts if isinstance(p, mf.MaceModel))
    both = mf.SumPotential(pair, mace)
    shifted = both.with_shifted_references({14: 2.0, 8: -1.0})
    energies = [of(potential, quartz)[0] for potential in (both, shifted)]
    assert float(energies[1] - energies[0]) == pytest.approx(3 * 2.0 - 6 * 1.0, abs=1e-9)
    with pytest.raises(TypeError, match="no term of the sum has reference energies"):
        mf.SumPotential(pair, pair).with_shifted_references({14: 2.0})


def test_relaxation_of_a_sum_goes_where_its_forces_vanish(parts):
    both = mf.SumPotential(parts[0], parts[2])
    found = mf.relax(both, mf.example_structure("quartz"), fmax=1e-4)
    assert found.converged
    assert of(both, found.atoms)[1].norm(dim=1).max() < 1e-4


def test_bad_sums_are_refused(model, quartz):
    with pytest.raises(ValueError, match=r"one dtype and on one device, not .*float32"):
        mf.SumPotential(model, mf.D3("pbe", dtype=torch.float32))
    with pytest.raises(ValueError, match="not none"):
        mf.SumPotential()
    both = mf.SumPotential(model, model)
    s = both.structure(quartz)
    with pytest.raises(ValueError, match="must be a tuple with those of each"):
        mf.energy_fn(both, s.topology)(s.positions, s.cell, model.params)
