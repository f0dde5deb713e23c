"""Error bars: uncertain weights of a potential, and what follows for computed properties.

weight_posterior   a normal distribution of weights, and the spread of functions of them
label_jacobian     derivatives of energies, forces, stresses and Hessian products by weights
fitted_posterior   the distribution that labelled structures determine, calibrated on others
minimum_response   the response of a relaxed structure to a change of the weights
uncertain_spectra  frequencies and thermodynamics with error bars
"""

from mace_functional.uncertainty.fitted_posterior import Calibration, fit_posterior
from mace_functional.uncertainty.minimum_response import minimum_fn
from mace_functional.uncertainty.uncertain_spectra import (
    UncertainFrequencies,
    UncertainThermo,
    uncertain_frequencies,
    uncertain_thermo,
)
from mace_functional.uncertainty.weight_posterior import WeightPosterior

__all__ = [
    "Calibration",
    "UncertainFrequencies",
    "UncertainThermo",
    "WeightPosterior",
    "fit_posterior",
    "minimum_fn",
    "uncertain_frequencies",
    "uncertain_thermo",
]
