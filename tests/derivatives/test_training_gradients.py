"""Gradients by weights of losses in forces and Hessian products, which training takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from energies import MODELS, central_difference, crystal, load, mace_torch_module, random_like
from helpers import assert_close, mostly_slow
from mace.calculators import MACECalculator
from models import float64_default
from torch import Tensor
from torch.func import grad, vjp

import mace_functional as mf

NAMES = [name for name in MODELS if name not in ("chebyshev", "nonlinear-two-heads")]
"""mace-torch's are wrong for two: torch has no derivative of Chebyshev polynomials, and its third
derivative of layer normalisation by what is normalised differs from finite differences."""


def loss_of(force: Tensor, product: Tensor) -> Tensor:
    weights = random_like(force, 11)
    return (weights * force).sum() ** 2 + (product - 0.3 * weights).square().sum()


def in_mace_torch(name: str) -> dict[str, Tensor]:
    """The gradient by all weights in mace-torch, by torch's own reverse mode three times over."""
    module = mace_torch_module(name)
    wanted = {key: p.requires_grad_() for key, p in module.named_parameters()}
    with float64_default():
        calculator = MACECalculator(models=[module], device="cpu", default_dtype="float64")
        for p in wanted.values():
            p.requires_grad_()
        data = calculator._atoms_to_batch(crystal()).to_dict()
        x = data["positions"] = data["positions"].requires_grad_()
        force = module(data, training=True, compute_stress=False)["forces"]
        (product,) = torch.autograd.grad(-force, x, random_like(x, 1), create_graph=True)
        found = torch.autograd.grad(loss_of(force, product), wanted.values(), allow_unused=True)
    return {key: g for key, g in zip(wanted, found, strict=True) if g is not None}


def arguments(name: str) -> tuple[Any, Tensor, Tensor, dict[str, Tensor]]:
    model = load(name)
    s = mf.from_ase(crystal(), model)
    return mf.energy_fn(model, s.graph), s.positions, s.cell, model.params


def reverse_over_reverse(name: str) -> Any:
    energy, x, cell, _ = arguments(name)

    def loss(params: dict[str, Tensor]) -> Tensor:
        gradient, pull_back = vjp(lambda y: grad(energy)(y, cell, params), x)
        return loss_of(-gradient, pull_back(random_like(x, 1))[0])

    return loss


def forward_over_reverse(name: str) -> Any:
    energy, x, cell, _ = arguments(name)

    def loss(params: dict[str, Tensor]) -> Tensor:
        product = mf.hvp(energy)(x, cell, params, random_like(x, 1))
        return loss_of(mf.forces(energy)(x, cell, params), product)

    return loss


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert sum(g.abs().max() > 1e-3 for g in expected.values()) > 8
    for key, gradient in expected.items():
        assert_close(found[key].reshape(gradient.shape), gradient, 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chebyshev", "nonlinear-two-heads"])
def test_they_equal_central_differences_where_torch_has_no_right_derivative(name):
    params, loss = arguments(name)[-1], reverse_over_reverse(name)
    gradient = grad(loss)(params)
    direction = {key: 0.1 * random_like(p, 3) for key, p in params.items()}
    found = sum((gradient[key] * direction[key]).sum() for key in params)

    def moved(step: float) -> Tensor:
        return loss({key: p + step * direction[key] for key, p in params.items()})

    assert_close(found, central_difference(moved), 1e-6)


@pytest.mark.parametrize("name", mostly_slow(NAMES, ["density-agnesi-zbl"]))
@pytest.mark.parametrize("loss_fn", [reverse_over_reverse, forward_over_reverse])
def test_they_equal_those_of_mace_torch(name, loss_fn):
    params, loss = arguments(name)[-1], loss_fn(name)
    expected = in_mace_torch(name)
    assert_same(grad(loss)(params), expected)
    weights = {key: p.clone().requires_grad_() for key, p in params.items()}
    for _ in range(2):
        chosen = {key: weights[key] for key in expected}
        found = torch.autograd.grad(loss(weights), chosen.values(), allow_unused=True)
        assert_same(dict(zip(chosen, found, strict=True)), expected)


def test_torch_records_the_operations_once_for_all_derivatives(monkeypatch):
    from mace_functional.autodiff.derivative_rules import _PhiDerivative

    evaluated: list[str] = []
    value = _PhiDerivative.value

    def counted(self: _PhiDerivative, *args: Any) -> Any:
        evaluated.append(type(self).__name__)
        return value(self, *args)

    monkeypatch.setattr(_PhiDerivative, "value", counted)
    loss, params = reverse_over_reverse("default"), arguments("default")[-1]
    grad(loss)(params)
    assert evaluated
    assert set(evaluated) == {"_Value"}
