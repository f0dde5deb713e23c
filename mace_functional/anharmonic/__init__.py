"""Anharmonic crystals: third-order force constants, and what follows from them.

thermal_conductivity   thermal conductivity, from the potential
conductivity           thermal conductivity from force constants, by phono3py
conductivity_result    the conductivity, with the modes that it is a sum of
band_linewidths        linewidths along the path of a band structure
kappa_file             the conductivity as a file of phono3py
third_order            third-order force constants by exact derivatives
third_order_constants  force constants of second and third order in supercells
phono3py               conversion to phono3py and back, as objects and as files
displaced_pairs        pairs of displacements that determine all force constants
pair_derivatives       third derivatives along pairs, by many workers
supercell_choice       thick supercells of the conventional cell
supercells             supercells as structures, and what they do to phonons
"""

from mace_functional.anharmonic.band_linewidths import BandLinewidths, linewidths_along
from mace_functional.anharmonic.conductivity import conductivity_of
from mace_functional.anharmonic.conductivity_result import ThermalConductivity
from mace_functional.anharmonic.kappa_file import write_kappa
from mace_functional.anharmonic.phono3py import from_phono3py, to_phono3py, write_phono3py
from mace_functional.anharmonic.thermal_conductivity import thermal_conductivity
from mace_functional.anharmonic.third_order import third_order_force_constants
from mace_functional.anharmonic.third_order_constants import ThirdOrderForceConstants

__all__ = [
    "BandLinewidths",
    "ThermalConductivity",
    "ThirdOrderForceConstants",
    "conductivity_of",
    "from_phono3py",
    "linewidths_along",
    "thermal_conductivity",
    "third_order_force_constants",
    "to_phono3py",
    "write_kappa",
    "write_phono3py",
]
