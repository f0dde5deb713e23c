"""Springs between near atoms: lengths, stiffness and derivatives."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from optimizer_problems import coordinates_of, random_matrix, rattled_quartz

from mace_functional.optimize.bond_springs import BondSprings
from mace_functional.optimize.surface import Surface


@pytest.fixture(scope="module")
def crystal():
    return rattled_quartz()


@pytest.fixture
def springs(crystal):
    coordinates = coordinates_of(crystal)
    size = coordinates.basis.shape[0]
    hessian = random_matrix(size, -1.0)[0]
    y = 0.05 * np.random.default_rng(3).normal(size=size)
    return BondSprings.from_hessian(coordinates, y, hessian, np.array(crystal.pbc)), y


def test_springs_are_at_rest_where_they_were_made(springs):
    found, y = springs
    assert len(found.first) > 10
    assert (found.stiffness > 0).all()
    energy, gradient = found(y)
    assert energy < 1e-25
    np.testing.assert_allclose(gradient, 0, atol=1e-12)
    there = y + 0.1
    assert found(there + 0.1 * np.sin(np.arange(len(y))))[0] > 1e-3
    assert found.with_current_lengths(there)(there)[0] < 1e-25


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
    found = BondSprings.from_hessian(surface.coordinates, np.zeros(12), hessian, np.zeros(3, bool))
    np.testing.assert_allclose(found.stiffness, [hessian[2, 2]], rtol=1e-12)
