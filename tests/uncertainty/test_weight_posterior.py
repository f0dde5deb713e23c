"""Spreads by derivatives are those of samples, and posteriors those of linear regression."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from energies import crystal
from helpers import assert_close
from models import build, molecule
from torch import Tensor

import mace_functional as mf
from mace_functional.potential.parameters import with_leaves
from mace_functional.training import LabelledStructure, LossWeights, labelled_by
from mace_functional.uncertainty import WeightPosterior, fit_posterior

LAST = ("readouts.0.linear.weight", "readouts.1.linear_2.weight")


@pytest.fixture(scope="module")
def model() -> mf.MaceModel:
    return mf.load_model(build())


def rattled(n: int, start: int = 0) -> list[Atoms]:
    found = []
    for seed in range(start, start + n):
        atoms = molecule() if seed % 3 == 2 else crystal()
        atoms.rattle(0.08, seed=seed)
        found.append(atoms)
    return found


def posterior_of(model: mf.MaceModel, size: float = 1e-3) -> WeightPosterior:
    means = tuple(model.params[name] for name in LAST)
    n = sum(m.numel() for m in means)
    generator = torch.Generator().manual_seed(0)
    factor = size * torch.randn(n, 4, dtype=torch.float64, generator=generator)
    return WeightPosterior(LAST, means, factor)


def forces_of(model: mf.MaceModel) -> Any:
    s = mf.from_ase(crystal(), model)
    force = mf.forces(mf.energy_fn(model, s.graph))
    return lambda params: force(s.positions, s.cell, params)


def test_spread_is_that_of_a_linear_function(model):
    posterior, forces = posterior_of(model), forces_of(model)
    value, spread = posterior.spread(forces, model.params)
    assert_close(value, forces(model.params))
    changes = []
    for column in posterior.factor.T:
        parts = column.split([m.numel() for m in posterior.mean])
        moved = [m + part.view(m.shape) for m, part in zip(posterior.mean, parts, strict=True)]
        changed = with_leaves(model.params, dict(zip(LAST, moved, strict=True)))
        changes.append(forces(changed) - value)
    assert_close(spread, torch.stack(changes).norm(dim=0), 1e-9)
    assert_close(posterior.scaled(3.0).spread(forces, model.params)[1], 3 * spread)


def test_samples_have_the_mean_and_the_covariance(model):
    posterior = posterior_of(model)
    samples = list(posterior.samples(model.params, 3000))
    flat = torch.stack([torch.cat([p[name].reshape(-1) for name in LAST]) for p in samples])
    covariance = posterior.factor @ posterior.factor.T
    assert_close(torch.cov(flat.T), covariance, 0.1)
    mean = torch.cat([m.reshape(-1) for m in posterior.mean])
    assert ((flat.mean(0) - mean).abs() < 4 * covariance.diagonal().sqrt() / 3000**0.5).all()
    assert samples[0][LAST[0]].shape == model.params[LAST[0]].shape


def test_gradients_are_central_differences(model):
    posterior = posterior_of(model)
    s = mf.from_ase(crystal(), model)
    energy = mf.energy_fn(model, s.graph)

    def function(params: Any) -> Tensor:
        return mf.hessian(energy)(s.positions, s.cell, params).reshape(6, 6).diagonal()

    _, gradients = posterior.gradients(function, model.params)
    step, w = 1e-4, model.params[LAST[1]]
    for k in 0, w.numel() - 1:
        moved = torch.zeros_like(w).view(-1)
        moved[k] = step
        ends = [
            function(with_leaves(model.params, {LAST[1]: w + sign * moved.view_as(w)}))
            for sign in (1, -1)
        ]
        column = gradients[:, model.params[LAST[0]].numel() + k]
        assert_close(column, (ends[0] - ends[1]) / (2 * step), 1e-6)


def test_an_ensemble_has_its_mean_and_its_covariance(model):
    generator = torch.Generator().manual_seed(1)
    members = []
    for _ in range(5):
        w = model.params[LAST[0]]
        moved = w + 0.01 * torch.randn(w.shape, generator=generator, dtype=w.dtype)
        members.append(model.with_params({**model.params, LAST[0]: moved}))
    mean, posterior = WeightPosterior.of_ensemble(members)
    forces = forces_of(model)
    value, spread = posterior.spread(forces, mean.params)
    every = torch.stack([forces(m.params) for m in members])  # linear in these weights
    assert_close(value, every.mean(0), 1e-10)
    assert_close(spread, every.std(0), 1e-10)
    with pytest.raises(ValueError, match="at least two"):
        WeightPosterior.of_ensemble(members[:1])
    with pytest.raises(ValueError, match="the same weights"):
        WeightPosterior.of_ensemble([model, mf.load_model(build(hidden_irreps="4x0e"))])


def test_an_ensemble_gives_bars_to_a_model_that_was_trained_like_its_members(model):
    members = list(posterior_of(model).samples(model.params, 5))
    mean, posterior = WeightPosterior.of_ensemble([model.with_params(p) for p in members])
    forces = forces_of(model)
    for params in (members[0], model.params):
        value, spread = posterior.centred(params).spread(forces, params)
        assert_close(value, forces(params))
        assert_close(spread, posterior.spread(forces, mean.params)[1], 1e-9)  # linear
    far = {**model.params, LAST[0]: model.params[LAST[0]] + 1.0}
    with pytest.raises(ValueError, match="times as far from the mean of the ensemble"):
        posterior.centred(far)
    with pytest.raises(ValueError, match="has not the weights"):
        posterior.centred(mf.load_model(build(hidden_irreps="4x0e")).params)


def test_it_is_saved_and_read(model, tmp_path):
    posterior = posterior_of(model)
    posterior.save(tmp_path / "p.npz")
    found = WeightPosterior.load(tmp_path / "p.npz")
    assert found.names == posterior.names
    assert torch.equal(found.factor, posterior.factor)
    assert all(map(torch.equal, found.mean, posterior.mean))
    (tmp_path / "other.npz").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"no file of WeightPosterior\.save"):
        WeightPosterior.load(tmp_path / "other.npz")
    np.savez(tmp_path / "q.npz", a=1)
    with pytest.raises(ValueError, match=r"no file of WeightPosterior\.save"):
        WeightPosterior.load(tmp_path / "q.npz")


def test_another_potential_is_refused(model):
    posterior = posterior_of(model)
    other = mf.load_model(build(seed=3))
    with pytest.raises(ValueError, match="are not those for which the posterior was made"):
        posterior.spread(forces_of(other), other.params)
    with pytest.raises(ValueError, match="rows, but there are"):
        replace(posterior, factor=posterior.factor[:-1])
    with pytest.raises(ValueError, match="finite"):
        replace(posterior, factor=posterior.factor * float("nan"))


def noisy(
    model: mf.MaceModel, atoms: list[Atoms], seed: int, noise: float
) -> list[LabelledStructure]:
    """Labels with normal errors of forces."""
    rng = np.random.default_rng(seed)
    return [
        LabelledStructure(k.atoms, forces=k.forces + noise * rng.normal(size=k.forces.shape))
        for k in labelled_by(model, atoms, directions=0)
    ]


def test_a_fitted_posterior_is_that_of_linear_regression(model):
    """Of forces with known noise, which are linear in the weights of the last layers."""
    noise = 0.02
    data, held = noisy(model, rattled(4), 0, noise), noisy(model, rattled(6, 50), 1, noise)
    loss = LossWeights(energy=0, forces=1, stress=0, products=0)
    posterior, calibration = fit_posterior(model, data, held, loss=loss)
    assert posterior.names == LAST
    size = posterior.factor.shape[0]

    def features(atoms: Atoms) -> np.ndarray:
        """Forces for each weight: it is one, and all others of the last layers are zero."""
        s = mf.from_ase(atoms, model)
        force = mf.forces(mf.energy_fn(model, s.graph))
        columns = []
        for k in range(size):
            flat = torch.zeros(size, dtype=torch.float64)
            flat[k] = 1
            parts = flat.split([m.numel() for m in posterior.mean])
            weights = [p.view(m.shape) for p, m in zip(parts, posterior.mean, strict=True)]
            changed = dict(zip(LAST, weights, strict=True))
            columns.append(
                force(s.positions, s.cell, with_leaves(model.params, changed)).reshape(-1)
            )
        return torch.stack(columns, 1).numpy()

    rows = np.concatenate([features(k.atoms) for k in data])
    precision = rows.T @ rows + calibration.prior * np.eye(size)
    expected = calibration.scale**2 * np.linalg.inv(precision)
    found = (posterior.factor @ posterior.factor.T).numpy()
    assert_close(found, expected, 1e-6)
    assert calibration.rms_z["forces"] == pytest.approx(1, abs=1e-9)
    assert calibration.n_labels == {"forces": sum(3 * len(k.atoms) for k in held)}


@pytest.mark.slow
def test_a_spread_of_weights_is_found_again(model):
    """Truths are samples of a known distribution; the calibrated bars cover them as they should."""
    truth = posterior_of(model, 0.02)
    z = []
    for k, params in enumerate(truth.samples(model.params, 6, seed=5)):
        true = model.with_params(params)
        data = labelled_by(model, rattled(4), directions=0)
        held = labelled_by(true, rattled(9, 100 * k + 10), directions=0)
        tested = labelled_by(true, rattled(6, 100 * k + 50), directions=0)
        loss = LossWeights(energy=0, forces=1, stress=0, products=0)
        posterior, _ = fit_posterior(model, data, held, loss=loss)
        for labelled in tested:
            s = mf.from_ase(labelled.atoms, model)
            force = mf.forces(mf.energy_fn(model, s.graph))
            value, spread = posterior.spread(
                lambda p, s=s, force=force: force(s.positions, s.cell, p), model.params
            )
            z.append(((torch.as_tensor(labelled.forces) - value) / spread).flatten())
    assert 0.6 < torch.cat(z).square().mean().sqrt() < 1.7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "product"}, "no labels 'product' to calibrate on"),
        ({"weights": ["nothing*"]}, "no weights 'nothing"),
        ({"data": []}, "needs structures to fit"),
    ],
)
def test_bad_input_is_refused(model, change, message):
    labelled = labelled_by(model, rattled(2), directions=0)
    arguments = {"data": labelled, "calibration": labelled, **change}
    data, calibration = arguments.pop("data"), arguments.pop("calibration")
    with pytest.raises(ValueError, match=message):
        fit_posterior(model, data, calibration, **arguments)
