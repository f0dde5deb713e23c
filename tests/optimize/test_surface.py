"""The surface by free coordinates: gradient and Hessian are derivatives of the enthalpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from optimizer_problems import coordinates_of, rattled_quartz

import mace_functional as mf
from mace_functional.optimize import surface as module
from mace_functional.optimize.coordinates import free_coordinates
from mace_functional.optimize.surface import Surface


@pytest.fixture(scope="module")
def crystal():
    return rattled_quartz()


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


def test_products_of_a_hessian_that_overflow_are_refused_in_words(monkeypatch):
    quartz = mf.example_structure("quartz")
    cell = torch.as_tensor(quartz.cell.array)
    coordinates = free_coordinates(quartz, torch.as_tensor(quartz.positions), cell)
    at_rest = Surface(mf.load_model("embedded"), quartz, coordinates)
    z = np.zeros(coordinates.count)
    monkeypatch.setattr(module, "chunked_vmap", lambda _, columns: columns * torch.nan)
    with pytest.raises(ArithmeticError, match="entries that are not finite"):
        at_rest.products(z)(np.ones_like(z))
