"""Energy, forces, stress and a Hessian product of a structure, from one linearisation.

With the strain e, all follow from the gradient `(dE/dx, dE/de)` of `E(x (1 + e), cell (1 + e))`:

    F = -dE/dx,      sigma = (1 / V) dE/de,      H v = v . d(dE/dx)/dx,

the last as a pull-back of v through the gradient, whose operations are recorded once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value, vjp

from mace_functional.derivatives.first import strained
from mace_functional.potential.protocol import Energy
from mace_functional.structure.lattice import positive_volume_of


def predictions_fn(
    energy: Energy, *, stress: bool = False, product: bool = False
) -> Callable[..., dict[str, Tensor]]:
    """Return energy, forces, stress and a Hessian product as one function.

    A loss of them is a function of `params` that `grad` takes. It costs as much as a loss of forces
    alone, and twice as much with a product.

    Args:
        energy: Energy function `E(positions, cell, params)`, in eV.
        stress: True for the stress `(1 / V) dE/de`, positive under tension, in all directions of
            the cell.
        product: True for the product of the Hessian with a vector.

    Returns:
        `(positions, cell, params)`, with a product `(positions, cell, params, v)`, to a dictionary:
        "energy" in eV, (), "forces" in eV/Å, (N, 3), "stress" in eV/Å³, (3, 3), and "product" H v
        in eV/Å² times the unit of v, (N, 3). Those that are not asked for are left out.
    """
    function = strained(energy) if stress else lambda _, *args: energy(*args)

    def predictions(x: Tensor, cell: Tensor, params: Any, *vector: Tensor) -> dict[str, Tensor]:
        def gradients(y: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
            by = (0, 1) if stress else (1,)
            return grad_and_value(function, argnums=by)(torch.zeros_like(cell), y, cell, params)

        if product:
            (v,) = vector
            found, pull_back, value = vjp(gradients, x, has_aux=True)  # type: ignore[misc]
            (h_v,) = pull_back((torch.zeros_like(cell), v) if stress else (v,))
            out = {"product": h_v}
        else:
            (found, value), out = gradients(x), {}
        out |= {"energy": value, "forces": -found[-1]}
        if stress:
            out["stress"] = found[0] / positive_volume_of(cell)
        return out

    return predictions
