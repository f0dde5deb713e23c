"""Anharmonic crystals: third-order force constants, and what follows from them.

third_order            third-order force constants by exact derivatives
third_order_constants  force constants of second and third order in supercells
phono3py               conversion to phono3py and back, as objects and as files
displaced_pairs        pairs of displacements that determine all force constants
pair_derivatives       third derivatives along pairs, by many workers
supercells             supercells as structures, and what they do to phonons
"""

from mace_functional.anharmonic.phono3py import from_phono3py, to_phono3py, write_phono3py
from mace_functional.anharmonic.third_order import third_order_force_constants
from mace_functional.anharmonic.third_order_constants import ThirdOrderForceConstants

__all__ = [
    "ThirdOrderForceConstants",
    "from_phono3py",
    "third_order_force_constants",
    "to_phono3py",
    "write_phono3py",
]
