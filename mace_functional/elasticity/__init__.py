"""Elasticity: what a strain of the cell costs, and how the ions answer it.

voigt          strains and elastic tensors in Voigt notation
tensor         elastic tensors, internal strain and response of the ions, as function transforms
coefficients   the three elastic tensors of a crystal under stress
"""

from mace_functional.elasticity.coefficients import birch_coefficients, lagrangian_coefficients
from mace_functional.elasticity.tensor import elastic_tensor, internal_strain, ion_response
from mace_functional.elasticity.voigt import from_voigt, to_voigt

__all__ = [
    "birch_coefficients",
    "elastic_tensor",
    "from_voigt",
    "internal_strain",
    "ion_response",
    "lagrangian_coefficients",
    "to_voigt",
]
