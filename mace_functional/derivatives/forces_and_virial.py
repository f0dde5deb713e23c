"""Energy, forces and virial of a structure, from one gradient.

A strain e changes the positions x and the cell h (rows) to x' = x (1 + e) and h' = h (1 + e). The
virial is

    W = dE/de = (x^T dE/dx + h^T dE/dh), symmetrised,

and the stress of a crystal of volume V is W / V.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor
from torch.func import grad


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

    Args:
        energy: Energy function `E(positions, cell, ...)`, in eV, of the structure or each atom.

    Returns:
        A function of the same arguments.
    """

    def total(positions: Tensor, cell: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
        energies = energy(positions, cell, *args)
        return energies.sum(), energies

    gradient = grad(total, argnums=(0, 1), has_aux=True)

    def derivatives(positions: Tensor, cell: Tensor, *args: Any) -> EnergyDerivatives:
        (de_dx, de_dh), energies = gradient(positions, cell, *args)
        virial = positions.mT @ de_dx + cell.mT @ de_dh
        virial = 0.5 * (virial + virial.mT)
        return EnergyDerivatives(energies.sum(), energies, -de_dx, virial)

    return derivatives
