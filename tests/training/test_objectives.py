"""Losses of phonons and elastic constants: zero at the target, with the slopes of differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from helpers import assert_close
from torch import Tensor
from torch.func import grad

import mace_functional as mf
from mace_functional.training import (
    dynamical_matrix_objective,
    elastic_objective,
    phonon_objective,
)

Q = [[0.0, 0.0, 0.0], [0.5, 0.0, 0.0], [0.31, 0.17, 0.43]]


def pair(near: Any, params: dict[str, Tensor]) -> Tensor:
    smooth = (1 - (near.distances / 5.0) ** 2) ** 4
    return near.sum((params["a"] / near.distances**6 - params["b"] / near.distances**3) * smooth)


PARAMS = {"a": 260.0, "b": 12.0}


@pytest.fixture(scope="module")
def salt() -> mf.FunctionPotential:
    return mf.FunctionPotential(pair, cutoff=5.0, params=PARAMS)


@pytest.fixture(scope="module")
def crystal(salt) -> Atoms:
    found = mf.relax(salt, bulk("NaCl", "rocksalt", a=5.4), relax_cell=True, fmax=1e-8).atoms
    found.calc = None
    return found


def targets(salt: mf.FunctionPotential, crystal: Atoms) -> dict[str, Any]:
    phonons = mf.phonons_of(salt, crystal)
    matrices = [phonons.dynamical_matrix(q) for q in Q]
    constants = mf.elastic_constants(salt, crystal).stiffness
    return {
        "phonons": phonon_objective(salt, crystal, Q, [mf.frequencies(d) for d in matrices]),
        "matrices": dynamical_matrix_objective(salt, crystal, Q, matrices),
        "elastic": elastic_objective(salt, crystal, constants),
    }


@pytest.mark.parametrize("name", ["phonons", "matrices", "elastic"])
def test_loss_is_zero_at_the_target_and_its_gradient_that_of_differences(salt, crystal, name):
    loss = targets(salt, crystal)[name]
    assert float(loss(salt.params)) < 1e-11
    moved = {k: torch.tensor(1.03 * v, dtype=torch.float64) for k, v in PARAMS.items()}
    assert float(loss(moved)) > 1e-8
    gradient = grad(loss)(moved)
    for key, value in moved.items():
        step = 1e-4 * value
        ends = [loss({**moved, key: value + sign * step}) for sign in (1, -1)]
        assert_close(gradient[key], (ends[0] - ends[1]) / (2 * step), 1e-6)


def test_small_errors_are_errors_of_frequencies(salt, crystal):
    phonons = mf.phonons_of(salt, crystal)
    q = Q[2:]
    exact = mf.frequencies(phonons.dynamical_matrix(q[0]))
    loss = phonon_objective(salt, crystal, q, [exact + 0.1], weight=2.0)
    assert float(loss(salt.params)) == pytest.approx(2 * 0.1**2, rel=5e-3)


def test_an_imaginary_mode_has_a_slope_that_makes_it_real(salt, crystal):
    """With the opposite sign of all forces all modes are imaginary."""
    phonons = mf.phonons_of(salt, crystal)
    exact = mf.frequencies(phonons.dynamical_matrix(Q[2]))
    loss = phonon_objective(salt, crystal, Q[2:], [exact])
    wrong = {k: torch.tensor(-0.1 * v, dtype=torch.float64) for k, v in PARAMS.items()}
    gradient = grad(loss)(wrong)
    step = {k: w - 1e-3 * w.abs() * gradient[k].sign() for k, w in wrong.items()}
    assert torch.isfinite(torch.stack(list(gradient.values()))).all()
    assert float(loss(step)) < float(loss(wrong))


def test_training_on_frequencies_alone_finds_a_parameter(salt, crystal):
    exact = [mf.frequencies(mf.phonons_of(salt, crystal).dynamical_matrix(q)) for q in Q[2:]]
    start = salt.with_params({**PARAMS, "a": 270.0})
    objectives = {"phonons": phonon_objective(salt, crystal, Q[2:], exact, weight=1e-2)}
    options = {"validation": 0, "epochs": 60, "average": None, "rate": 1.0}
    found = mf.finetune(start, [], objectives=objectives, trainable=["a"], **options)
    assert float(found.potential.params["a"]) == pytest.approx(260, abs=1)


def test_shapes_that_do_not_fit_are_refused(salt, crystal):
    with pytest.raises(ValueError, match=r"frequencies must have the shape \(3, 6\)"):
        phonon_objective(salt, crystal, Q, np.zeros((3, 5)))
    with pytest.raises(ValueError, match=r"q must have the shape \(any, 3\)"):
        phonon_objective(salt, crystal, [0, 0, 0], np.zeros((1, 6)))
    with pytest.raises(ValueError, match="must be finite"):
        dynamical_matrix_objective(salt, crystal, Q[:1], np.full((1, 6, 6), np.nan))
    with pytest.raises(ValueError, match="periodic in 3 directions"):
        elastic_objective(salt, Atoms("NaCl", [[0, 0, 0], [0, 0, 2.5]]), np.zeros((6, 6)))
