"""Energy, forces and virial of a structure, from one gradient.

With positions x and cell h as rows, both of which a strain e moves, x' = x (1 + e) and
h' = h (1 + e), the virial is

    W = dE/de = (x^T dE/dx + h^T dE/dh), symmetrised,

and the stress of a crystal of volume V is W / V.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor
from torch.func import grad


class EnergyDerivatives(NamedTuple):
    """An energy and its first derivatives.

    Attributes:
        energy: Energy, eV.
        energies: What the energy function returned: energies of the atoms (N,), or the energy.
        forces: -dE/dx, eV/Å, (N, 3).
        virial: dE/de, symmetric, eV, (3, 3).
    """

    energy: Tensor
    energies: Tensor
    forces: Tensor
    virial: Tensor


def energy_forces_virial(energy: Callable[..., Tensor]) -> Callable[..., EnergyDerivatives]:
    """Energy, forces and virial as a function of positions and cell, from one gradient.

    Args:
        energy: `E(positions, cell, ...)` in eV, of the structure or of each atom.

    Returns:
        A function of the same arguments.
    """

    def total(positions: Tensor, cell: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
        energies = energy(positions, cell, *args)
        return energies.sum(), energies

    gradient = grad(total, argnums=(0, 1), has_aux=True)

    def derivatives(positions: Tensor, cell: Tensor, *args: Any) -> EnergyDerivatives:
        (by_positions, by_cell), energies = gradient(positions, cell, *args)
        virial = positions.mT @ by_positions + cell.mT @ by_cell
        virial = 0.5 * (virial + virial.mT)
        return EnergyDerivatives(energies.sum(), energies, -by_positions, virial)

    return derivatives
