"""Units: eV, Å, amu and K throughout; frequencies in what a spectroscopist reads.

An eigenvalue of the mass-weighted Hessian is a squared angular frequency in eV/Å²/amu. Its square
root, in sqrt(eV/Å²/amu), is one of

    omega / (2 pi c)        521.4709 cm-1
    omega / (2 pi)           15.6333 THz
    hbar omega               64.6541 meV

Constants are CODATA's, as `scipy.constants` has them.
"""

from __future__ import annotations

import math

from scipy import constants as codata

HBAR: float = codata.hbar / codata.e
"""Reduced Planck constant, eV s."""

K_B: float = codata.k / codata.e
"""Boltzmann constant, eV/K."""

EV_PER_MOLECULE: float = codata.e * codata.N_A
"""One eV per molecule, in J/mol."""

ANGULAR_FREQUENCY: float = math.sqrt(codata.e / codata.atomic_mass) / codata.angstrom
"""One sqrt(eV/Å²/amu), in rad/s."""

FREQUENCY_UNITS: dict[str, float] = {
    "cm-1": ANGULAR_FREQUENCY / (2 * math.pi * codata.c) * codata.centi,
    "THz": ANGULAR_FREQUENCY / (2 * math.pi) / codata.tera,
    "meV": HBAR * ANGULAR_FREQUENCY / codata.milli,
}
"""One sqrt(eV/Å²/amu), in each unit of frequency."""


def frequency_factor(unit: str) -> float:
    """One sqrt(eV/Å²/amu) of angular frequency, in `unit`.

    Args:
        unit: "cm-1", "THz" or "meV".

    Returns:
        The factor from sqrt(eV/Å²/amu) to `unit`.

    Raises:
        ValueError: the unit is none of the three.
    """
    if unit not in FREQUENCY_UNITS:
        raise ValueError(
            f"unknown unit of frequency {unit!r}: choose one of {', '.join(FREQUENCY_UNITS)}"
        )
    return FREQUENCY_UNITS[unit]


def vibrational_quantum(unit: str) -> float:
    """The energy hbar omega of a vibration whose frequency is one `unit`.

    Args:
        unit: "cm-1", "THz" or "meV".

    Returns:
        The energy, eV.

    Raises:
        ValueError: the unit is none of the three.
    """
    return HBAR * ANGULAR_FREQUENCY / frequency_factor(unit)
