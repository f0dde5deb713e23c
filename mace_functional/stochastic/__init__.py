"""Thermodynamics and spectra of large cells, from Hessian-vector products alone.

thermo              heat capacity, entropy and energies with error bars
spectral_density    density of states by kernel polynomials
sampling            passes until the errors are as small as asked for
passes              sums over passes, with their statistical and systematic error
probes              random signs on groups of coordinates that hardly feel each other
interpolants        polynomials that quadratures integrate in place of functions
lanczos             Lanczos iterations of many vectors, and quadratures from them
spectral_functions  thermodynamics of a mode as functions of its eigenvalue
hessian             the mass-weighted Hessian without rigid motions
saved_stages        files from which a calculation continues
"""

from mace_functional.stochastic.spectral_density import StochasticDensityOfStates, stochastic_dos
from mace_functional.stochastic.thermo import StochasticThermo, stochastic_thermo

__all__ = [
    "StochasticDensityOfStates",
    "StochasticThermo",
    "stochastic_dos",
    "stochastic_thermo",
]
