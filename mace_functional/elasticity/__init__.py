"""Elasticity: what a strain of the cell costs, and how the ions answer it.

voigt          strains and elastic tensors in Voigt notation
tensor         elastic tensors, internal strain and response of the ions, as function transforms
coefficients   the three elastic tensors of a crystal under stress
constants      elastic constants of a structure, with checks
relaxed_ions   response of the ions by a dense matrix or by conjugate gradients
moduli         moduli of an elastic tensor, along directions and of polycrystals
sound          speeds of sound and the Debye temperature
"""

from mace_functional.elasticity.coefficients import birch_coefficients, lagrangian_coefficients
from mace_functional.elasticity.constants import ElasticConstants, elastic_constants
from mace_functional.elasticity.moduli import (
    IsotropicModuli,
    compliance,
    hill_moduli,
    poisson_ratio,
    reuss_moduli,
    shear_modulus,
    universal_anisotropy,
    voigt_moduli,
    young_modulus,
)
from mace_functional.elasticity.sound import (
    christoffel_matrices,
    debye_temperature,
    sound_velocities,
)
from mace_functional.elasticity.tensor import elastic_tensor, internal_strain, ion_response
from mace_functional.elasticity.voigt import from_voigt, to_voigt

__all__ = [
    "ElasticConstants",
    "IsotropicModuli",
    "birch_coefficients",
    "christoffel_matrices",
    "compliance",
    "debye_temperature",
    "elastic_constants",
    "elastic_tensor",
    "from_voigt",
    "hill_moduli",
    "internal_strain",
    "ion_response",
    "lagrangian_coefficients",
    "poisson_ratio",
    "reuss_moduli",
    "shear_modulus",
    "sound_velocities",
    "to_voigt",
    "universal_anisotropy",
    "voigt_moduli",
    "young_modulus",
]
