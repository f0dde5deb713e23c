"""Energy, forces and virial of a structure, from one gradient.

A strain e changes the positions x and the cell h (rows) to x' = x (1 + e) and h' = h (1 + e). The
virial is

    W = dE/de = (x^T dE/dx + h^T dE/dh), symmetrised,

and the stress of a crystal of volume V is W / V.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad

from mace_functional.autodiff.primitive import is_plain
from mace_functional.autodiff.torch_internals import pytree


class EnergyDerivatives(NamedTuple):
    """An energy with its first derivatives: forces and virial.

    Attributes:
        energy: Energy of the structure, eV.
        energies: Result of the energy function, eV: energies of the atoms (N,), or the energy.
        forces: Forces -dE/dx, eV/Å, (N, 3).
        virial: Virial dE/de, symmetric, eV, (3, 3).
    """

    energy: Tensor
    energies: Tensor
    forces: Tensor
    virial: Tensor


def energy_forces_virial(energy: Callable[..., Tensor]) -> Callable[..., EnergyDerivatives]:
    """Return energy, forces and virial as a function of positions and cell, from one gradient.

    The gradient of plain tensors is taken by `torch.autograd`, which costs less for each operation
    than `torch.func.grad`. The results are then constants.

    Args:
        energy: Energy function `E(positions, cell, ...)`, in eV, of the structure or each atom.

    Returns:
        A function of the same arguments.
    """

    def total(positions: Tensor, cell: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
        energies = energy(positions, cell, *args)
        return energies.sum(), energies

    gradient = grad(total, argnums=(0, 1), has_aux=True)

    def gradient_of_plain(
        positions: Tensor, cell: Tensor, *args: Any
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        variables = positions.detach().requires_grad_(), cell.detach().requires_grad_()
        with torch.enable_grad():
            sum_of_energies, energies = total(*variables, *args)
        if not sum_of_energies.requires_grad:
            return (torch.zeros_like(positions), torch.zeros_like(cell)), energies
        gradients = torch.autograd.grad(sum_of_energies, variables, materialize_grads=True)
        return gradients, energies.detach()

    def derivatives(positions: Tensor, cell: Tensor, *args: Any) -> EnergyDerivatives:
        plain = _are_plain(positions, cell, *args)
        (de_dx, de_dh), energies = (gradient_of_plain if plain else gradient)(
            positions, cell, *args
        )
        virial = positions.mT @ de_dx + cell.mT @ de_dh
        virial = 0.5 * (virial + virial.mT)
        return EnergyDerivatives(energies.sum(), energies, -de_dx, virial)

    return derivatives


def _are_plain(*args: Any) -> bool:
    """True if no argument is part of another derivative, of compilation or of inference mode."""
    if torch.compiler.is_compiling() or torch.is_inference_mode_enabled():
        return False
    tensors = [leaf for leaf in pytree.tree_leaves(args) if isinstance(leaf, Tensor)]
    return is_plain(tensors) and not any(t.is_inference() for t in tensors)
