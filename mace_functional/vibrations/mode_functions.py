r"""Energies and heat capacities of harmonic modes, and derivatives of their free energy.

With the quantum hbar omega, lambda = omega^2, x = hbar omega / kT and n = 1 / (exp(x) - 1),

    free energy        f = hbar omega / 2 + kT ln(1 - exp(-x))
    energy             u = hbar omega (n + 1/2)
    heat capacity      c = k x^2 n (n + 1)
    df/dlambda         g = u / (2 lambda)
    d2f/dlambda2         = -(u + T c) / (4 lambda^2)

Source: Dove, Introduction to Lattice Dynamics, chapter 5.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mace_functional.units import ANGULAR_FREQUENCY, HBAR, K_B
from mace_functional.vibrations.thermodynamics import MAX_QUANTUM_OVER_KT


class ModeFunctions(NamedTuple):
    """Thermodynamic functions of modes; zero for modes with omega^2 <= 0.

    Attributes:
        energy: Energy with the zero-point energy, eV.
        free_energy: Helmholtz free energy, eV.
        entropy: Entropy, eV/K.
        heat_capacity: Heat capacity, eV/K.
    """

    energy: Tensor
    free_energy: Tensor
    entropy: Tensor
    heat_capacity: Tensor


def mode_functions(eigenvalues: Tensor, temperature: float) -> ModeFunctions:
    """Compute the thermodynamic functions of modes.

    Args:
        eigenvalues: Squared frequencies in eV/Å²/amu, of any shape.
        temperature: Temperature, K.
    """
    stable = eigenvalues > 0
    omega = torch.where(stable, eigenvalues, 1.0).sqrt()
    quantum = HBAR * ANGULAR_FREQUENCY * omega
    kt = K_B * temperature
    excited = stable & (quantum < MAX_QUANTUM_OVER_KT * kt)
    x = torch.where(excited, quantum, 1.0) / (kt or 1.0)
    n = torch.where(excited, torch.exp(-x) / -torch.expm1(-x), 0.0)
    log = torch.log1p(n)
    values = (
        quantum * (n + 0.5),
        0.5 * quantum - kt * log,
        K_B * (x * n + log),
        K_B * (x * n) * (x * (1 + n)),
    )
    return ModeFunctions(*(torch.where(stable, value, 0.0) for value in values))
