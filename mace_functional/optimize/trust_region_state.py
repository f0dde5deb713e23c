"""State of a trust-region optimiser, and its update after an evaluation.

A strategy proposes a trial step, the surface is evaluated at its end, and the strategy judges the
result: `Descend` for minima, `ClimbMode` for saddle points. With any strategy, the Hessian is
updated with the error of the predicted gradient, an accepted step changes the coordinates, and the
trust radius shrinks after a poor prediction and grows after a good one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np

from mace_functional.optimize.dense_hessian import HessianModel, Trial
from mace_functional.optimize.trust_region import Springs

ROUNDING_UNITS = 16
"""Rounding error of an energy, in units of its last digit.

Energies that differ by less count as equal.
"""

SHRINK_REJECTED = 0.25
"""New trust radius over the length of a rejected step."""

SHRINK_POOR = 0.5
"""New trust radius over the length of a step that was accepted with a poor prediction."""

GROW = 2.0
"""New trust radius over the old one, after a good prediction."""

AT_BOUNDARY = 0.8
"""Length of a step over the trust radius, above which the radius may grow.

Shorter steps were not limited by the radius.
"""


class StepVerdict(NamedTuple):
    """Judgement of a strategy on an evaluated trial step.

    Attributes:
        accepted: True to accept the step.
        good: True if the prediction is good enough for a larger trust radius.
        poor: True if the prediction is so poor that the trust radius must shrink.
        within_noise: True if the energy changes by no more than its noise.
    """

    accepted: bool
    good: bool
    poor: bool
    within_noise: bool = False


class Strategy(Protocol):
    """Strategy that proposes and judges trial steps."""

    @property
    def first_radius(self) -> float:
        """First trust radius over the square root of the number of atoms, Å."""

    @property
    def max_radius(self) -> float:
        """Largest trust radius over the square root of the number of atoms, Å."""

    def propose(self, state: TrustRegionState, springs: Springs) -> Trial:
        """Compute the trial step, within the trust radius.

        Args:
            state: State of the optimiser.
            springs: Part of the model that is not quadratic, as a function of the step.
        """

    def judge(
        self, state: TrustRegionState, trial: Trial, energy: float, gradient: np.ndarray
    ) -> StepVerdict:
        """Judge a trial step by the energy (eV) and the gradient (d,) at its end.

        Both are finite, and the step is not zero.
        """


@dataclass(frozen=True, eq=False)
class TrustRegionState:
    """State of an optimiser: coordinates, and the model of the surface around them.

    Attributes:
        z: Free coordinates, Å, (d,).
        energy: Energy at z, eV.
        gradient: Gradient at z, eV/Å, (d,).
        hessian: Model of the Hessian at z.
        radius: Trust radius, Å.
        max_radius: Largest trust radius, Å.
        rounding: Relative rounding error of energies.
        energy_noise: Noise of the energy that does not depend on its size, eV.
        within_noise: True if the last trial step changed the energy by no more than its noise.
    """

    z: np.ndarray
    energy: float
    gradient: np.ndarray
    hessian: HessianModel
    radius: float
    max_radius: float
    rounding: float
    energy_noise: float = 0.0
    within_noise: bool = False

    @property
    def noise(self) -> float:
        """Noise of the energy, eV; smaller differences are meaningless."""
        return self.rounding * abs(self.energy) + self.energy_noise

    def tell(
        self, trial: Trial, energy: float, gradient: np.ndarray, strategy: Strategy
    ) -> tuple[TrustRegionState, bool]:
        """Return the state after the evaluation of a trial step.

        Args:
            trial: Trial step, with its predictions.
            energy: Energy at its end, eV; not finite if the geometry is impossible.
            gradient: Gradient at its end, eV/Å, (d,).
            strategy: Strategy that judges the step.

        Returns:
            The new state, and True if the step was accepted.
        """
        length = float(np.linalg.norm(trial.step))
        if length == 0 or trial.energy == 0:  # the gradient is exactly zero
            return replace(self, within_noise=True), False
        if not (np.isfinite(energy) and np.isfinite(gradient).all()):
            return replace(self, radius=SHRINK_REJECTED * length), False
        verdict = strategy.judge(self, trial, energy, gradient)
        radius = self.radius
        if verdict.poor:
            radius = (SHRINK_POOR if verdict.accepted else SHRINK_REJECTED) * length
        elif verdict.good and length > AT_BOUNDARY * radius:
            radius = min(GROW * radius, self.max_radius)
        gradient_error = gradient - self.gradient - trial.gradient
        hessian = (trial.hessian if verdict.accepted else self.hessian).update(
            trial.step, gradient_error
        )
        state = replace(self, hessian=hessian, radius=radius, within_noise=verdict.within_noise)
        if verdict.accepted:
            state = replace(state, z=self.z + trial.step, energy=energy, gradient=gradient)
        return state, verdict.accepted

    def refine(self, directions: np.ndarray, products: np.ndarray) -> TrustRegionState:
        """Return the state with exact products of its Hessian along some directions.

        Args:
            directions: Any columns, (d, m).
            products: Exact Hessian at z times each of them, (d, m).
        """
        return replace(self, hessian=self.hessian.refine(directions, products))
