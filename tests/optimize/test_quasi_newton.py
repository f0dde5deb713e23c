"""The update of a Hessian by one step."""

from __future__ import annotations

import numpy as np
import pytest
from optimizer_problems import random_matrix

from mace_functional.optimize.quasi_newton import updated_hessian


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
