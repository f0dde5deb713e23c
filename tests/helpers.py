"""Random tensors and a comparison of tensors, for all tests."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor


def random(*shape: int, seed: int = 0) -> Tensor:
    """Normal deviates in double precision, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def mostly_slow(cases: Iterable[Any], quick: Collection[Any]) -> list[Any]:
    """Cases of a parametrisation (tuples for several arguments), slow but for the quick ones."""
    cases = [case if isinstance(case, tuple) else (case,) for case in cases]
    chosen = [case if isinstance(case, tuple) else (case,) for case in quick]
    assert all(case in cases for case in chosen), "a quick case has another name"
    return [pytest.param(*case, marks=() if case in chosen else pytest.mark.slow) for case in cases]


def assert_close(found: Any, expected: Any, tolerance: float = 1e-12) -> None:
    """Compare to the largest entry: what cancels is no better than what it is made of."""
    found, expected = torch.as_tensor(found), torch.as_tensor(expected)
    assert found.shape == expected.shape
    assert torch.isfinite(expected).all()
    error = (found - expected).abs().max().item() / (expected.abs().max().item() or 1.0)
    assert error <= tolerance, f"relative error {error:.1e} > {tolerance:.0e}"
