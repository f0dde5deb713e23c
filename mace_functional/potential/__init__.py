"""Interatomic potentials: what the package asks of one, sums of them, and functions as potentials.

protocol  the interface, and what a potential may offer besides
energy    structures of a potential, and their energies as pure functions
sum       sums of potentials
function  potentials made of a function that a user wrote
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
    HoldsPairs,
    Potential,
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
    "HoldsPairs",
    "Neighbourhood",
    "Potential",
    "SumPotential",
    "energy_fn",
    "from_ase",
]
