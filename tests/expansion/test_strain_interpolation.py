"""Interpolation by strain: data are reproduced, and polynomials along lines are exact."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import hessian, jacrev

from mace_functional.expansion.strain_interpolation import StrainInterpolation

STRAINS = torch.tensor([[0.03, 0.01], [0.012, 0.02]], dtype=torch.float64)


def smooth(e: Tensor) -> Tensor:
    return torch.exp(3 * e[0] - 2 * e[1]) + torch.sin(4 * e.sum())


def data(f, strains: Tensor, order: int) -> Tensor:
    """Values and slopes in the order of `StrainInterpolation`."""
    zero = torch.zeros_like(strains[0])
    parts = [f(zero)[None], jacrev(f)(zero)]
    if order == 2:
        parts.append(hessian(f)(zero).flatten())
    parts.append(torch.stack([f(e) for e in strains]))
    parts.append(torch.stack([jacrev(f)(e) for e in strains]).flatten())
    return torch.cat(parts)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("last_slopes", [True, False])
def test_data_are_reproduced(order, last_slopes):
    interpolation = StrainInterpolation(STRAINS, order, last_slopes=last_slopes)
    values = data(smooth, STRAINS, order)
    for k, e in enumerate([torch.zeros_like(STRAINS[0]), *STRAINS]):
        value, slopes, second = (w @ values for w in interpolation.weights(e))
        torch.testing.assert_close(value, smooth(e), rtol=0, atol=1e-9)
        if last_slopes or k < len(STRAINS):
            torch.testing.assert_close(slopes, jacrev(smooth)(e), rtol=0, atol=1e-7)
        if k == 0 and order == 2:
            torch.testing.assert_close(second, hessian(smooth)(e), rtol=0, atol=1e-5)


def test_weights_are_derivatives_of_each_other():
    interpolation = StrainInterpolation(STRAINS, 1)
    values, e = data(smooth, STRAINS, 1), torch.tensor([0.02, 0.01], dtype=torch.float64)

    def value(e: Tensor) -> Tensor:
        return interpolation.weights(e)[0] @ values

    _, slopes, second = (w @ values for w in interpolation.weights(e))
    torch.testing.assert_close(slopes, jacrev(value)(e))
    torch.testing.assert_close(second, hessian(value)(e))


def test_along_a_line_it_is_the_hermite_interpolant():
    """Value and slope at 0 and at another strain determine a cubic polynomial."""

    def cubic(e: Tensor) -> Tensor:
        return 2 + 3 * e[0] - 5 * e[0] ** 2 + 70 * e[0] ** 3

    strains = torch.tensor([[0.04]], dtype=torch.float64)
    interpolation = StrainInterpolation(strains, 1)
    e = torch.tensor([0.017], dtype=torch.float64)
    found = interpolation.weights(e)[0] @ data(cubic, strains, 1)
    torch.testing.assert_close(found, cubic(e), rtol=0, atol=1e-12)
