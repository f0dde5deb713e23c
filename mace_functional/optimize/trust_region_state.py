"""The state of a trust-region optimiser, and how an evaluation changes it.

A strategy proposes a trial step, the surface is evaluated at its end, and the strategy judges what
was found: `Descend` for minima, `ClimbMode` for saddle points. Whatever the strategy, the Hessian
is corrected by the error of the predicted gradient, an accepted step moves the state, and the trust
radius shrinks after a poor prediction and grows after a good one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np

from mace_functional.optimize.dense_hessian import HessianModel, Trial
from mace_functional.optimize.trust_region import Springs

ROUNDING_UNITS = 16
"""Rounding of an energy, in units of its last digit: energies that differ by less are equal."""

SHRINK_REJECTED, SHRINK_POOR, GROW = 0.25, 0.5, 2.0
"""New trust radius over the length of a step that was rejected, or accepted with a poor prediction;
and over the old radius after a good prediction."""

AT_BOUNDARY = 0.8
"""Length of a step over the trust radius, above which the radius has limited the step and may
grow."""


class StepVerdict(NamedTuple):
    """The judgement of a strategy on an evaluated trial step.

    Attributes:
        accepted: Whether to go there.
        good: Whether the prediction is good enough for a larger radius.
        poor: Whether it is so poor that the radius must shrink.
        within_noise: Whether the energy changes by no more than its noise.
    """

    accepted: bool
    good: bool
    poor: bool
    within_noise: bool = False


class Strategy(Protocol):
    """A way to choose and to judge trial steps."""

    @property
    def first_radius(self) -> float:
        """First trust radius over the square root of the number of atoms, Å."""

    @property
    def max_radius(self) -> float:
        """Largest trust radius over the square root of the number of atoms, Å."""

    def propose(self, state: TrustRegionState, springs: Springs) -> Trial:
        """The step to try, within the trust radius.

        Args:
            state: Where the optimiser is.
            springs: The part of the model that is not quadratic, as a function of the step.
        """

    def judge(
        self, state: TrustRegionState, trial: Trial, energy: float, gradient: np.ndarray
    ) -> StepVerdict:
        """Whether to accept a step, by the energy (eV) and gradient (d,) at its end, both finite.

        The step is not zero.
        """


@dataclass(frozen=True, eq=False)
class TrustRegionState:
    """The place of an optimiser on the surface, and its model of the surface there.

    Attributes:
        z: Coordinates, Å, (d,).
        energy: Energy at z, eV.
        gradient: Gradient at z, eV/Å, (d,).
        hessian: Model of the Hessian at z.
        radius: Trust radius, Å.
        max_radius: Largest trust radius, Å.
        rounding: Relative rounding of energies.
        energy_noise: Differences of the energy that mean nothing whatever its size, eV.
        within_noise: Whether the last trial step changed the energy by no more than its noise.
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
        """Differences of the energy that mean nothing, eV."""
        return self.rounding * abs(self.energy) + self.energy_noise

    def tell(
        self, trial: Trial, energy: float, gradient: np.ndarray, strategy: Strategy
    ) -> tuple[TrustRegionState, bool]:
        """The state after a trial step was evaluated.

        Args:
            trial: The step, with its predictions.
            energy: Energy at its end, eV; not finite where there is no structure.
            gradient: Gradient at its end, eV/Å, (d,).
            strategy: Judges the step.

        Returns:
            The new state, and whether the step was accepted.
        """
        length = float(np.linalg.norm(trial.step))
        if length == 0 or trial.energy == 0:  # the gradient is zero to the last digit
            return replace(self, within_noise=True), False
        if not (np.isfinite(energy) and np.isfinite(gradient).all()):
            return replace(self, radius=SHRINK_REJECTED * length), False
        verdict = strategy.judge(self, trial, energy, gradient)
        radius = self.radius
        if verdict.poor:
            radius = (SHRINK_POOR if verdict.accepted else SHRINK_REJECTED) * length
        elif verdict.good and length > AT_BOUNDARY * radius:
            radius = min(GROW * radius, self.max_radius)
        error = gradient - self.gradient - trial.gradient
        hessian = (trial.hessian if verdict.accepted else self.hessian).update(trial.step, error)
        here = replace(self, hessian=hessian, radius=radius, within_noise=verdict.within_noise)
        if verdict.accepted:
            here = replace(here, z=self.z + trial.step, energy=energy, gradient=gradient)
        return here, verdict.accepted

    def refine(self, directions: np.ndarray, products: np.ndarray) -> TrustRegionState:
        """The state with its Hessian made exact along some directions.

        Args:
            directions: Any columns, (d, m).
            products: The exact Hessian at z times each, (d, m).
        """
        return replace(self, hessian=self.hessian.refine(directions, products))
