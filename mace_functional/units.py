"""Units: eV, Å, amu and K throughout; frequencies in cm-1, THz or meV.

An eigenvalue of the mass-weighted Hessian is a squared angular frequency omega² in eV/Å²/amu. For
omega = 1 sqrt(eV/Å²/amu),

    omega / (2 pi c)        521.4709 cm-1
    omega / (2 pi)           15.6333 THz
    hbar omega               64.6541 meV

Constants are from CODATA 2022; all but the atomic mass constant are exact.
"""

from __future__ import annotations

import math

_H = 6.62607015e-34
"""Planck constant, J s."""

_E = 1.602176634e-19
"""Elementary charge, C, which is also one eV in J."""

_K = 1.380649e-23
"""Boltzmann constant, J/K."""

_N_A = 6.02214076e23
"""Avogadro constant, 1/mol."""

_C = 299792458.0
"""Speed of light, m/s."""

_AMU = 1.66053906892e-27
"""Atomic mass constant, kg; the CODATA value of 2018 is larger by a relative 9e-11."""

HBAR: float = _H / (2 * math.pi) / _E
"""Reduced Planck constant, eV s."""

K_B: float = _K / _E
"""Boltzmann constant, eV/K."""

EV_PER_MOLECULE: float = _E * _N_A
"""Energy of one eV per molecule, in J/mol."""

BAR: float = 1e5 * 1e-30 / _E
"""Pressure of one bar, eV/Å³."""

ANGULAR_FREQUENCY: float = math.sqrt(_E / _AMU) * 1e10
"""Angular frequency of one sqrt(eV/Å²/amu), in rad/s."""

FREQUENCY_UNITS: dict[str, float] = {
    "cm-1": ANGULAR_FREQUENCY / (2 * math.pi * _C) * 1e-2,
    "THz": ANGULAR_FREQUENCY / (2 * math.pi) * 1e-12,
    "meV": HBAR * ANGULAR_FREQUENCY * 1e3,
}
"""Frequency of one sqrt(eV/Å²/amu), in each unit of frequency."""


def frequency_factor(unit: str) -> float:
    """Return the factor from angular frequencies in sqrt(eV/Å²/amu) to frequencies in `unit`.

    Args:
        unit: "cm-1", "THz" or "meV".

    Raises:
        ValueError: If the unit is none of the three.
    """
    if unit not in FREQUENCY_UNITS:
        raise ValueError(
            f"unknown unit of frequency {unit!r}: choose one of {', '.join(FREQUENCY_UNITS)}"
        )
    return FREQUENCY_UNITS[unit]


def vibrational_quantum(unit: str) -> float:
    """Return the energy hbar omega of a vibration of frequency one `unit`, eV.

    Args:
        unit: "cm-1", "THz" or "meV".

    Raises:
        ValueError: If the unit is none of the three.
    """
    return HBAR * ANGULAR_FREQUENCY / frequency_factor(unit)
