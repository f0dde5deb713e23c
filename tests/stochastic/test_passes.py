"""Sums over passes against all eigenvalues, and their errors against exact variances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import random
from torch import Tensor

from mace_functional.stochastic.passes import Stage
from mace_functional.stochastic.spectral_functions import SpectralFunctions

N_ATOMS = 24
TEMPERATURES = torch.tensor([100.0, 300.0, 1000.0], dtype=torch.float64)
FUNCTIONS = SpectralFunctions(TEMPERATURES)
N_FUNCTIONS = FUNCTIONS.count - 1
"""Number of functions, without the count of eigenvalues below zero."""


def hessian() -> tuple[Tensor, Tensor]:
    """A mass-weighted Hessian of springs along a ring, and its three translations (3N, 3)."""
    masses = 4 + 12 * torch.rand(N_ATOMS, generator=torch.Generator().manual_seed(0)).double()
    ring = torch.arange(N_ATOMS)
    h = torch.zeros(N_ATOMS, 3, N_ATOMS, 3, dtype=torch.float64)
    for reach, strength in ((1, 4.0), (2, 0.8)):
        other = (ring + reach) % N_ATOMS
        axes = random(N_ATOMS, 3, seed=reach)
        blocks = strength * (axes[:, :, None] * axes[:, None] + 0.2 * torch.eye(3).double())
        for i, j, block in zip(ring.tolist(), other.tolist(), blocks, strict=True):
            h[i, :, i] += block
            h[j, :, j] += block
            h[i, :, j] -= block
            h[j, :, i] -= block
    root = masses.sqrt().repeat_interleave(3)
    translations = torch.eye(3).double().repeat(N_ATOMS, 1) * root[:, None]
    d = h.reshape(3 * N_ATOMS, -1) / (root[:, None] * root)
    return d, translations / translations.norm(dim=0)


D, RIGID = hessian()
EIGENVALUES = torch.as_tensor(np.linalg.eigvalsh(D.numpy())[3:])
EXACT = FUNCTIONS(EIGENVALUES).sum(-1)


def project(vectors: Tensor) -> Tensor:
    return vectors - (vectors @ RIGID) @ RIGID.mT


def stage(
    colour: np.ndarray | None,
    seed: int = 0,
    base: int = 0,
    functions: SpectralFunctions = FUNCTIONS,
) -> Stage:
    return Stage(
        lambda vectors: project(vectors @ D),
        project,
        functions,
        n_modes=3 * N_ATOMS - 3,
        colour=colour,
        n_atoms=N_ATOMS,
        seed=seed,
        base=base,
    )


EIGHT = np.arange(N_ATOMS) % 8
"""Atoms of one colour are eight apart on the ring."""


def test_vectors_that_span_everything_are_exact():
    every = stage(np.arange(N_ATOMS))
    every.run(most_steps=3 * N_ATOMS)
    every.run()
    found = every.estimate()
    value, error = found.value[:N_FUNCTIONS], found.error()[:N_FUNCTIONS]
    assert (value / EXACT[:N_FUNCTIONS] - 1).abs().max() < 1e-9
    assert (error / EXACT[:N_FUNCTIONS].abs()).max() < 1e-6


def test_errors_are_the_standard_deviations_of_random_signs():
    """The exact variance of passes is 2 sum F_ij^2 within groups."""
    values, vectors = torch.linalg.eigh(D)
    functions = FUNCTIONS(values[3:])
    group = (3 * torch.as_tensor(EIGHT)[:, None] + torch.arange(3)).reshape(-1)
    same = (group[:, None] == group) & ~torch.eye(3 * N_ATOMS, dtype=torch.bool)
    estimates = []
    for seed in range(8):
        passes = stage(EIGHT, seed)
        passes.run(most_steps=25)
        passes.run()
        estimates.append(passes.estimate().variance)
    found = torch.stack(estimates).mean(0).sqrt()
    inner = vectors[:, 3:]
    for k in (1, 2, 4, 12):  # Cv at 300 and 1000 K, S at 300 K, zero-point energy
        f = (inner * (functions[k] - functions[k].mean())) @ inner.mT
        # the ratio of sums takes out the mean of the function
        exact = (2 * f.square()[same].sum() / 2).sqrt()
        assert found[k] == pytest.approx(float(exact), rel=0.2)


def test_the_true_value_lies_within_two_standard_errors():
    inside = []
    for seed in range(10):
        short = stage(EIGHT, seed)
        short.run(most_steps=8)
        short.run()
        long = stage(None, seed + 100, base=8)
        long.run(most_steps=40)
        long.run()
        found = short.estimate().corrected(long.estimate())
        inside.append((found.value - EXACT).abs() <= 2 * found.error())
    assert (torch.stack(inside).sum(0)[:N_FUNCTIONS] >= 8).all()
    assert torch.stack(inside)[:, :N_FUNCTIONS].double().mean() > 0.93


@pytest.mark.parametrize(("temperature", "base"), [(30.0, 8), (100.0, 5)])
def test_one_long_vector_knows_the_error_of_its_correction(temperature, base):
    functions = SpectralFunctions(torch.tensor([temperature]).double())
    found = []
    for seed in range(100):
        long = stage(None, seed, base, functions)
        long.run(most_steps=40)
        found.append(long.estimate())
    values = torch.stack([e.value for e in found])[:, :4]
    deviation = values - values.mean(0)
    z = deviation / torch.stack([e.error() for e in found])[:, :4]
    assert ((z.abs() <= 2).double().mean(0) >= 0.93).all()
    rms = z.square().mean(0).sqrt()
    assert ((rms > 0.5) & (rms < 1.15)).all()  # in 24 atoms, the bound of the variance is not tight


def test_where_few_modes_are_excited_their_number_sets_the_error():
    """With weight at a node at zero, corrections would scatter ten times as much."""
    functions = SpectralFunctions(torch.tensor([30.0]).double())
    c = functions(EIGENVALUES)[0]
    excited = float(c.sum() ** 2 / c.square().sum())
    long = stage(None, 0, 4, functions)
    long.run(most_steps=40)
    error = float(long.estimate().error()[0] / c.sum())
    assert error < 1.5 * (2 / excited) ** 0.5


def test_long_passes_correct_what_short_ones_miss():
    short = stage(EIGHT)
    short.run(most_steps=4)
    short.run()
    long = stage(None, base=4)
    long.run(most_steps=60)
    long.run()
    before, after = short.estimate(), short.estimate().corrected(long.estimate())
    entropy = 4  # at 300 K
    assert before.systematic[entropy] > 0.05 * EXACT[entropy]
    assert after.systematic[entropy].abs() < before.systematic[entropy] / 100
    assert (after.value - EXACT)[entropy].abs() < (before.value - EXACT)[entropy].abs()


def test_the_first_pass_stops_when_the_bracket_is_narrow():
    first = stage(EIGHT)
    first.run(
        enough=lambda ends: bool((ends[1] - ends[0])[1].abs() < 1e-4 * ends[0][1]), most_steps=50
    )
    assert 3 <= first.steps < 12
    assert first.n_products == 24 * first.steps
    assert (first.estimate().value[1] / EXACT[1] - 1).abs() < 0.1


def test_one_pass_has_no_error():
    single = stage(EIGHT)
    single.run(most_steps=4)
    assert single.estimate().variance[1].isinf()


def test_a_restored_stage_continues_as_if_it_had_not_stopped():
    whole, part, rest = (stage(EIGHT) for _ in range(3))
    for passes in (whole, part):
        passes.run(most_steps=5)
    rest.restore(part.state())
    for passes in (whole, rest):
        passes.run()
    assert torch.equal(whole.estimate().value, rest.estimate().value)
    assert torch.equal(whole.estimate().variance, rest.estimate().variance)


def test_modes_below_zero_are_estimated_and_bounded():
    shift = 0.1
    shifted = Stage(
        lambda vectors: project(vectors @ D - shift * vectors),
        project,
        FUNCTIONS,
        n_modes=3 * N_ATOMS - 3,
        colour=EIGHT,
        n_atoms=N_ATOMS,
        seed=0,
    )
    shifted.run(most_steps=20)
    shifted.run()
    exact = int((EIGENVALUES - shift < 0).sum())
    found = shifted.estimate()
    assert shifted.lowest[0] < 0
    assert abs(float(found.value[-1]) - exact) < 0.25 * exact
    assert exact <= shifted.below_zero_bound() + 2 * float(found.error()[-1])
