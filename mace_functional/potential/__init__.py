"""Interatomic potentials: what the package asks of one.

protocol  the interface
energy    the energy of a structure as a pure function
"""

from mace_functional.potential.protocol import (
    AtomicStructure,
    HasDispersion,
    HasDynamicalMatrix,
    HoldsPairs,
    Potential,
)

__all__ = ["AtomicStructure", "HasDispersion", "HasDynamicalMatrix", "HoldsPairs", "Potential"]
