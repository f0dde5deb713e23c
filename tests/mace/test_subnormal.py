"""Subnormal weights: set to zero on loading, told, and without influence on any result."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from models import build, crystal
from torch import Tensor, nn

import mace_functional as mf
from mace_functional.mace.subnormal import flush_subnormal

TINY = {torch.float64: 3e-310, torch.float32: 3e-40}
"""Below the smallest normal number of each precision."""

NAMES = "interactions.0.linear_up.weight", "products.1.linear.weight", "readouts.0.linear.weight"


def planted(value: float) -> nn.Module:
    """A mace-torch model in which every third weight of some layers has a value."""
    module = build()
    for name, weight in module.named_parameters():
        if name in NAMES:
            with torch.no_grad():
                weight.view(-1)[::3] = value
    return module


def n_planted() -> int:
    named = dict(build().named_parameters())
    return sum(len(named[name].view(-1)[::3]) for name in NAMES)


def subnormal(params: dict[str, Tensor]) -> int:
    return sum(
        int(((p != 0) & (p.abs() < torch.finfo(p.dtype).tiny)).sum()) for p in params.values()
    )


def energy_and_hessian(model: mf.MaceModel) -> tuple[Tensor, Tensor]:
    s = mf.from_ase(crystal(), model)
    energy, at = mf.energy_fn(model, s.graph), (s.positions, s.cell, model.params)
    return energy(*at), mf.hessian(energy)(*at)


def test_subnormal_weights_are_zero_after_loading_and_change_no_result():
    module = planted(TINY[torch.float64])
    model = mf.load_model(module)
    assert subnormal(model.params) == 0
    assert model.n_subnormal == n_planted()
    assert f"{n_planted()} subnormal weights set to zero)" in repr(model)
    kept = {k: v for k, v in module.state_dict().items() if k in model.params}
    assert subnormal(kept) == n_planted()
    as_it_was = energy_and_hessian(replace(model, params=kept))
    for found, expected in zip(energy_and_hessian(model), as_it_was, strict=True):
        assert expected.abs().max() > 1e-2
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


def test_weights_that_become_subnormal_in_single_precision_are_zero_too():
    module = planted(TINY[torch.float32])
    double = mf.load_model(module)
    assert (double.n_subnormal, "subnormal" in repr(double)) == (0, False)
    for single in mf.load_model(module, dtype=torch.float32), double.to(dtype=torch.float32):
        assert subnormal(single.params) == 0
        assert single.n_subnormal == n_planted()
    assert single.to(dtype=torch.float64).n_subnormal == n_planted()


def test_weights_that_round_to_zero_in_single_precision_are_counted():
    assert mf.load_model(planted(1e-60), dtype=torch.float32).n_subnormal == n_planted()


@pytest.mark.parametrize("scale", [1, 2])
def test_the_smallest_normal_weights_stay(scale):
    smallest = scale * torch.finfo(torch.float64).tiny
    model = mf.load_model(planted(smallest))
    assert model.n_subnormal == 0
    assert sum(int((model.params[name] == smallest).sum()) for name in NAMES) == n_planted()


def test_saved_models_have_none(tmp_path):
    mf.save_model(mf.load_model(planted(TINY[torch.float64])), tmp_path / "m.safetensors")
    assert mf.load_model(tmp_path / "m.safetensors").n_subnormal == 0


def test_modules_of_mace_torch_are_flushed_alike():
    module = planted(TINY[torch.float64])
    assert flush_subnormal(module) == n_planted()
    assert flush_subnormal(module) == 0
    state = module.state_dict()
    ours = mf.load_model(planted(TINY[torch.float64])).params
    assert all(torch.equal(ours[name], state[name]) for name in ours)


def test_subnormal_weights_are_left_in_the_original():
    module = planted(TINY[torch.float64])
    mf.load_model(module)
    assert subnormal(dict(module.named_parameters())) == n_planted()
