"""Random tensors and a comparison of tensors, for all tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def random(*shape: int, seed: int = 0) -> Tensor:
    """Normal deviates in double precision, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def assert_close(found: Any, expected: Any, tolerance: float = 1e-12) -> None:
    """Compare to the largest entry: what cancels is no better than what it is made of."""
    found, expected = torch.as_tensor(found), torch.as_tensor(expected)
    assert found.shape == expected.shape
    assert torch.isfinite(expected).all()
    error = (found - expected).abs().max().item() / (expected.abs().max().item() or 1.0)
    assert error <= tolerance, f"relative error {error:.1e} > {tolerance:.0e}"
