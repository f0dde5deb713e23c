"""Thermal expansion: how strain changes vibrations, and vibrations the cell.

mode_gruneisen     mode Grüneisen tensors at a wave vector, as a function transform
mode_slopes        derivatives of squared frequencies by strain, as a function
gruneisen          mode Grüneisen tensors on a mesh and along a path
thermal_expansion  expansion and Cp to first order, from one cell
quasi_harmonic     cell, expansion, Cp and moduli over temperature, from a few cells

strained_modes     modes, their Grüneisen parameters and stiffness, on a mesh
deformable         derivatives of energy and D(q) by strain
free_energy        Gibbs energy by strain and temperature
strain_interpolation  interpolation between strained cells
expansion_checkpoint  files from which `quasi_harmonic` continues
symmetric_strains  strains that keep the symmetry of a crystal
"""

from mace_functional.expansion.gruneisen import Gruneisen, gruneisen
from mace_functional.expansion.mode_gruneisen import ModeGruneisen, gruneisen_fn
from mace_functional.expansion.quasi_harmonic import QuasiHarmonic, quasi_harmonic
from mace_functional.expansion.symmetric_strains import invariant_strains
from mace_functional.expansion.thermal_expansion import ThermalExpansion, thermal_expansion

__all__ = [
    "Gruneisen",
    "ModeGruneisen",
    "QuasiHarmonic",
    "ThermalExpansion",
    "gruneisen",
    "gruneisen_fn",
    "invariant_strains",
    "quasi_harmonic",
    "thermal_expansion",
]
