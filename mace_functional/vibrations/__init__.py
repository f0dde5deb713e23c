"""Vibrations of molecules and of crystals at the zone centre, and their thermodynamics.

harmonic_modes  frequencies and normal modes of a Hessian
rigid           rigid motions: translations and rotations of connected parts
imaginary       imaginary modes
gamma           normal modes of a structure, from the Hessian of a potential
thermodynamics  energies, entropies and heat capacities of harmonic modes
mode_functions  the same of each mode, as functions of its eigenvalue
ideal_gas       thermodynamics of an ideal gas of molecules
rigid_rotor     moments of inertia and rotational entropies
soft_modes      soft vibrations as rotations
thermo_pieces   thermodynamics at many temperatures, in a bounded amount of memory
result_text     short texts of results
"""

from mace_functional.vibrations.gamma import gamma_modes
from mace_functional.vibrations.harmonic_modes import (
    NormalModes,
    frequencies,
    normal_modes,
    vibrational_frequencies,
)
from mace_functional.vibrations.ideal_gas import IdealGasThermo, ideal_gas_thermo
from mace_functional.vibrations.rigid import internal_motions, rigid_motions
from mace_functional.vibrations.thermodynamics import HarmonicThermo, harmonic_thermo

__all__ = [
    "HarmonicThermo",
    "IdealGasThermo",
    "NormalModes",
    "frequencies",
    "gamma_modes",
    "harmonic_thermo",
    "ideal_gas_thermo",
    "internal_motions",
    "normal_modes",
    "rigid_motions",
    "vibrational_frequencies",
]
