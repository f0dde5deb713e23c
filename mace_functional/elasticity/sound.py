r"""Speeds of sound from an elastic tensor, and the Debye temperature.

Waves along n with the polarisation u and the speed v obey Christoffel's equation,

    rho v^2 u_i = [C_ijkl n_j n_l + (n.s.n) d_ik] u_k,

with the density rho, the Lagrangian coefficients C for relaxed ions, and the stress s of the
crystal, positive under tension. The speeds are the slopes of the acoustic branches at the zone
centre. With the mean <v^-3> of three branches over all directions and N atoms in the volume V, the
Debye temperature is

    theta = (hbar / k_B) (6 pi^2 N / V)^(1/3) <v^-3>^(-1/3).

The functions are pure; energies are in eV, lengths in Å, masses in amu.

Source: Wallace, Thermodynamics of Crystals, chapter 6; Anderson, J. Phys. Chem. Solids 24, 909
(1963), doi:10.1016/0022-3697(63)90067-2.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from mace_functional.units import ANGULAR_FREQUENCY, HBAR, K_B
from mace_functional.vibrations.harmonic_modes import signed_sqrt

KM_PER_S: float = ANGULAR_FREQUENCY * 1e-13
"""Velocity of one sqrt(eV/amu), km/s."""

POLAR_ANGLES = 24
"""Number of polar angles of the mean over directions; there are twice as many azimuths.

The Debye temperatures of silicon and quartz, from measured elastic constants, differ by less than
1e-9 from those of 48 polar angles; with 12 by 1e-7.
"""


def christoffel_matrices(lagrangian: Tensor, stress: Tensor, directions: Tensor) -> Tensor:
    """Compute Christoffel's matrices `C_ijkl n_j n_l + (n.s.n) d_ik`.

    Args:
        lagrangian: Lagrangian elastic coefficients C, (d, d, d, d).
        stress: Stress, positive under tension, in the same unit, (d, d).
        directions: Directions n of any length, (..., d).

    Returns:
        Matrices in the same unit, (..., d, d).
    """
    n = directions / directions.square().sum(-1, keepdim=True).sqrt()
    tension = torch.einsum("jl,...j,...l->...", stress, n, n)[..., None, None]
    identity = torch.eye(len(stress), dtype=stress.dtype, device=stress.device)
    return torch.einsum("ijkl,...j,...l->...ik", lagrangian, n, n) + tension * identity


def sound_velocities(
    lagrangian: Tensor, stress: Tensor, density: Tensor | float, directions: Tensor
) -> Tensor:
    """Compute the speeds of sound along directions.

    Args:
        lagrangian: Lagrangian elastic coefficients with relaxed ions, eV/Å^d, (d, d, d, d).
        stress: Stress, positive under tension, eV/Å^d, (d, d).
        density: Mass per volume, area or length, amu/Å^d.
        directions: Directions of any length, (..., d).

    Returns:
        Speeds in km/s, ascending, (..., d); -sqrt(-v^2) where a wave grows and v^2 is negative.

    Source: Wallace, Thermodynamics of Crystals, chapter 6.
    """
    matrices = christoffel_matrices(lagrangian, stress, directions)
    return KM_PER_S * signed_sqrt(torch.linalg.eigvalsh(matrices) / density)


def debye_temperature(
    lagrangian: Tensor, stress: Tensor, density: Tensor | float, number_density: Tensor | float
) -> Tensor:
    """Compute the Debye temperature of a crystal from its speeds of sound in all directions, K.

    No isotropic moduli are used.

    Args:
        lagrangian: Lagrangian elastic coefficients with relaxed ions, eV/Å³, (3, 3, 3, 3).
        stress: Stress, positive under tension, eV/Å³, (3, 3).
        density: Mass per volume, amu/Å³.
        number_density: Number of atoms per volume, 1/Å³.

    Returns:
        The temperature; NaN if a wave in some direction is not stable.

    Source: Anderson, J. Phys. Chem. Solids 24, 909 (1963).
    """
    directions, weights = _half_sphere(stress)
    velocities = sound_velocities(lagrangian, stress, density, directions)
    speeds = torch.where(velocities > 0, velocities, math.nan)
    mean = (weights[:, None] * speeds**-3).sum() / 3
    wave_vector = (6 * math.pi**2 * torch.as_tensor(number_density)) ** (1 / 3)
    per_second = 1e13 * wave_vector * mean ** (-1 / 3)  # 1 km/s is 1e13 Å/s
    return HBAR / K_B * per_second


def _half_sphere(like: Tensor) -> tuple[Tensor, Tensor]:
    """Return directions of a half sphere, (M, 3), and weights with sum 1, (M,)."""
    heights, weights = np.polynomial.legendre.leggauss(POLAR_ANGLES)
    azimuths = np.pi * (np.arange(2 * POLAR_ANGLES) + 0.5) / (2 * POLAR_ANGLES)
    z, azimuth = np.meshgrid(heights, azimuths, indexing="ij")
    r = np.sqrt(1 - z**2)
    directions = np.stack([r * np.cos(azimuth), r * np.sin(azimuth), z], -1).reshape(-1, 3)
    weight = np.repeat(weights, len(azimuths)) / (2 * len(azimuths))
    return torch.as_tensor(directions).to(like), torch.as_tensor(weight).to(like)
