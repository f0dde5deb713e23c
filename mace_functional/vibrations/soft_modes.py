"""Soft modes of a molecule as rotations: the interpolation of Grimme.

The entropy of a harmonic mode is infinite at frequency zero, and in a molecule the softest modes
are hindered rotations. Between a harmonic mode and a free rotor of the same frequency omega, with

    w = 1 / (1 + (omega_0 / omega)^4)                   weight of the vibration
    mu = hbar / (2 omega),   mu' = mu B / (mu + B)      moment of inertia of the rotor
    S_rotor = k [1/2 + ln sqrt(2 pi mu' k T / hbar^2)]

the entropy of the mode is `w S_vibration + (1 - w) S_rotor`. B bounds the moment of inertia of very
soft modes. Energies stay harmonic, or are interpolated with the same weights to that of the rotor,
k T / 2. With interpolated energies, C = T dS/dT holds; with harmonic ones it does not.

Source: Grimme, Chem. Eur. J. 2012, 18, 9955, doi:10.1002/chem.201200497, equations 3 to 8; for the
energies Li, Gomes, Mallikarjun Sharada, Bell, Head-Gordon, J. Phys. Chem. C 2015, 119, 1840,
doi:10.1021/jp509921r.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mace_functional.units import K_B, vibrational_quantum
from mace_functional.vibrations.rigid_rotor import HBAR_SQUARED
from mace_functional.vibrations.thermodynamics import HarmonicThermo, harmonic_thermo

GRIMME_CUTOFF = 100.0
"""Wavenumber omega_0 of the source, cm-1, at which vibration and rotor have equal weights."""

LARGEST_INERTIA = 602.2140763
"""Moment of inertia B of the source, 1e-44 kg m², in amu Å²."""


def interpolated_thermo(
    frequencies: Tensor, temperatures: Tensor, *, cutoff: float, unit: str, energies: bool
) -> HarmonicThermo:
    """Compute thermodynamics of modes between harmonic vibrations and free rotors.

    Modes that are not positive are left out, as in `harmonic_thermo`.

    Args:
        frequencies: Frequencies in `unit`, (M,).
        temperatures: Temperatures in K, above zero, (T,) or a scalar.
        cutoff: Wavenumber at which vibration and rotor have equal weights, cm-1.
        unit: Unit of the frequencies.
        energies: Interpolate the energies and heat capacities too.

    Returns:
        Thermodynamics of all modes.
    """
    harmonic = harmonic_thermo(frequencies, temperatures, unit=unit)
    if len(frequencies) == 0:
        return harmonic
    positive = frequencies > 0
    e = vibrational_quantum(unit) * torch.where(positive, frequencies, 1.0)
    w = 1 / (1 + (cutoff * vibrational_quantum("cm-1") / e) ** 4)
    share = torch.where(positive, 1 - w, 0.0).reshape(-1, *[1] * temperatures.ndim)
    # The harmonic values of each mode are those of a structure with this mode alone.
    single = torch.vmap(lambda f: harmonic_thermo(f[None], temperatures, unit=unit))(frequencies)
    kt = K_B * temperatures
    mu = HBAR_SQUARED / (2 * e)
    mu = (mu * LARGEST_INERTIA / (mu + LARGEST_INERTIA)).reshape(share.shape)
    rotor_entropy = K_B * (1 + torch.log(2 * math.pi * mu * kt / HBAR_SQUARED)) / 2

    def towards(rotor: Tensor, quantity: str) -> Tensor:
        """Return the interpolated sum, given the value of a rotor."""
        change = share * (rotor - getattr(single, quantity))
        return getattr(harmonic, quantity) + change.sum(0)

    entropy = towards(rotor_entropy, "entropy")
    energy, heat_capacity = harmonic.internal_energy, harmonic.heat_capacity
    if energies:
        energy = towards(kt / 2, "internal_energy")
        heat_capacity = towards(torch.full_like(kt, K_B / 2), "heat_capacity")
    return harmonic._replace(
        entropy=entropy,
        internal_energy=energy,
        heat_capacity=heat_capacity,
        free_energy=energy - temperatures * entropy,
    )
