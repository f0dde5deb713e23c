"""Interatomic potentials: their interface, sums of them, and potentials from a user's function.

protocol    the interface of potentials, and the optional additions to it
energy      structures, and their energies as pure functions
parameters  parameters by name
sum         sums of potentials
terms       the terms of sums, each with its topology and parameters
function    potentials made from a user's function of the neighbours
"""

from mace_functional.potential.energy import energy_fn, from_ase
from mace_functional.potential.function import FunctionPotential, Neighbourhood
from mace_functional.potential.protocol import (
    EdgePotential,
    Energy,
    HasDynamicalMatrix,
    HasFeatures,
    HasParts,
    HasReach,
    HasReferenceEnergies,
    HasWaveHessian,
    HoldsPairs,
    Potential,
    Trainable,
)
from mace_functional.potential.sum import SumPotential

__all__ = [
    "EdgePotential",
    "Energy",
    "FunctionPotential",
    "HasDynamicalMatrix",
    "HasFeatures",
    "HasParts",
    "HasReach",
    "HasReferenceEnergies",
    "HasWaveHessian",
    "HoldsPairs",
    "Neighbourhood",
    "Potential",
    "SumPotential",
    "Trainable",
    "energy_fn",
    "from_ase",
]
