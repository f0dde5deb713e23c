"""Thermal expansion: how strain changes vibrations, and vibrations the cell.

mode_gruneisen     mode Grüneisen tensors at a wave vector, as a function transform
gruneisen          mode Grüneisen tensors on a mesh and along a path
thermal_expansion  expansion and Cp to first order, from one cell

deformable         derivatives of energy and D(q) by strain
symmetric_strains  strains that keep the symmetry of a crystal
mode_functions     thermodynamic functions of single modes
"""

from mace_functional.expansion.gruneisen import Gruneisen, gruneisen
from mace_functional.expansion.mode_gruneisen import ModeGruneisen, gruneisen_fn
from mace_functional.expansion.symmetric_strains import invariant_strains
from mace_functional.expansion.thermal_expansion import ThermalExpansion, thermal_expansion

__all__ = [
    "Gruneisen",
    "ModeGruneisen",
    "ThermalExpansion",
    "gruneisen",
    "gruneisen_fn",
    "invariant_strains",
    "thermal_expansion",
]
