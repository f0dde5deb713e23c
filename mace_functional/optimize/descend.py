"""Steps downhill to a minimum.

A step minimises the model of the energy within the trust radius. It is accepted if the energy
falls. If the surface has negative curvature, the minimum within the trust radius lies on its
boundary, so that the search leaves saddle points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mace_functional.optimize.dense_hessian import Trial
from mace_functional.optimize.trust_region import Springs
from mace_functional.optimize.trust_region_state import StepVerdict, TrustRegionState


@dataclass(frozen=True)
class Descend:
    """Strategy of `relax` and `SecondOrder`: steps that lower the energy.

    Five relaxations with the embedded model to 1e-4 eV/Å (ethanol, benzene and quartz rattled by
    0.1 Å, quartz by 0.3 Å, water with overlapping atoms) took 110 gradients in total, with a
    Hessian that was only updated. With one threshold changed they took

        max_radius 0.05     169, one of them to a higher minimum
        max_radius 0.14     135
        poor 0.1            121
        poor 0.5            130
        good 0.5            130
        good 0.9            120

    Attributes:
        first_radius: First trust radius over the square root of the number of atoms, Å.
        max_radius: Largest trust radius, in the same unit. Far from a minimum there are many other
            minima, and short steps stay near the path downhill: with larger radii the framework
                RSM0004
            ends 2 meV per atom higher (`benchmarks/README.md`).
        poor: Ratio of the computed to the predicted change of the energy, below which the trust
            radius shrinks.
        good: The same ratio, above which the trust radius grows.
    """

    first_radius: float = 0.05
    max_radius: float = 0.07
    poor: float = 0.25
    good: float = 0.75

    def propose(self, state: TrustRegionState, springs: Springs) -> Trial:
        """Compute the step that minimises the model of the energy within the trust radius."""
        return state.hessian.step(state.gradient, state.radius, springs)

    def judge(
        self, state: TrustRegionState, trial: Trial, energy: float, gradient: np.ndarray
    ) -> StepVerdict:
        """Accept the step if the energy falls.

        If the predicted change is smaller than the noise of the energy, the change is computed from
        the gradients at both ends, (g + g') s / 2.
        """
        change = energy - state.energy
        within_noise = abs(trial.energy) < state.noise
        if within_noise:
            change = 0.5 * float((state.gradient + gradient) @ trial.step)
        accepted, ratio = change < 0, change / trial.energy
        poor = ratio < self.poor or not accepted
        return StepVerdict(accepted, accepted and ratio > self.good, poor, within_noise)
