"""Thermal expansion: how strain changes vibrations, and vibrations the cell.

mode_gruneisen     mode Grüneisen tensors at a wave vector, as a function transform
gruneisen          mode Grüneisen tensors on a mesh and along a path

deformable         derivatives of energy and D(q) by strain
symmetric_strains  strains that keep the symmetry of a crystal
mode_functions     thermodynamic functions of single modes
"""

from mace_functional.expansion.gruneisen import Gruneisen, gruneisen
from mace_functional.expansion.mode_gruneisen import ModeGruneisen, gruneisen_fn
from mace_functional.expansion.symmetric_strains import invariant_strains

__all__ = ["Gruneisen", "ModeGruneisen", "gruneisen", "gruneisen_fn", "invariant_strains"]
