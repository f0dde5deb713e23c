"""Third derivatives of an energy by the positions, along two directions, as a transform."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from mace_functional.autodiff.forward_mode import jvp
from mace_functional.derivatives.second import hvp


def third(energy: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the third derivative along two directions, `d3E[u, v, .]`, as a function.

    It is the derivative of the product H u as the positions move along v, and symmetric in u and v.
    Many v with the same u share most of the work: map over v alone with `vmap`. All columns for one
    u are the derivative of the whole Hessian, `jvp(hessian(E), ...)` along u.

    Args:
        energy: Energy function `E(positions, cell, params)`, in eV.

    Returns:
        `(positions, cell, params, u, v)` to `d3E[u, v, .]` in eV/Å³ times the units of u and v,
        (N, 3).

    Raises:
        ValueError: If u or v has another shape than the positions.

    Example:
        >>> import torch
        >>> t = third(lambda x: (x**3).sum() / 6)
        >>> t(torch.ones(1, 3), torch.full((1, 3), 2.0), torch.full((1, 3), 5.0))
        tensor([[10., 10., 10.]])
    """
    product = hvp(energy)

    def along_both(positions: Tensor, *args: object) -> Tensor:
        *rest, u, v = args
        if not isinstance(v, Tensor) or v.shape != positions.shape:
            raise ValueError(f"the vectors must have the positions' shape {tuple(positions.shape)}")
        return jvp(lambda x: product(x, *rest, u), (positions,), (v,))[1]

    return along_both
