"""Run of an optimiser on a potential energy surface.

`OptimizerRun` has everything that all runs share: the surface, the state with its Hessian, the
springs of the model, and the counts of trial steps. `relax`, `find_saddle` and the optimiser for
ASE are such runs, with the strategies `Descend` and `ClimbMode`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from mace_functional.optimize.bond_springs import BondSprings
from mace_functional.optimize.coordinates import Coordinates, Matrix
from mace_functional.optimize.dense_hessian import DenseHessian, HessianModel
from mace_functional.optimize.trust_region import Springs
from mace_functional.optimize.trust_region_state import (
    ROUNDING_UNITS,
    Strategy,
    TrustRegionState,
)

MAX_REJECTED_STEPS = 8
"""Number of successive rejected steps after which a relaxation computes the exact Hessian.

If it has the exact Hessian already, it ends.
"""


class EvaluatedPoint(Protocol):
    """Energy and gradient at a geometry."""

    @property
    def z(self) -> np.ndarray:
        """Free coordinates, Å, (d,)."""

    @property
    def energy(self) -> float:
        """Energy, eV; infinite if the geometry is impossible."""

    @property
    def gradient(self) -> np.ndarray:
        """Gradient of the energy by z, eV/Å, (d,)."""


class EnergySurface(Protocol):
    """Energy as a function of free coordinates z."""

    @property
    def coordinates(self) -> Coordinates:
        """Coordinates that define z."""

    def at(self, z: np.ndarray) -> Any:
        """Return the `EvaluatedPoint` at z, or at the point to which constraints project z."""


P = TypeVar("P", bound=EvaluatedPoint)


class Attempt(NamedTuple):
    """A trial step: the point at its end, and True if the run has moved there."""

    point: Any
    accepted: bool


class OptimizerRun(Generic[P]):
    """Run of an optimiser: its position and its model of the surface.

    Args:
        surface: Surface that evaluates energy and gradient.
        strategy: Strategy that proposes and judges steps.
        pbc: True for each periodic direction, (3,).
        epsilon: Relative precision of the floats in which energies are computed.
        energy_noise: Noise of the energy that does not depend on its size, eV.

    Attributes:
        surface: Surface that evaluates energy and gradient.
        strategy: Strategy that proposes and judges steps.
        point: Energy and gradient at the current geometry.
        state: Current coordinates, with the model of the surface.
        springs: Springs of the model.
        rejected: Number of rejected trial steps since the last accepted one.
        trials: Number of trial steps since the Hessian was set.
        accepted: Number of accepted steps since the Hessian was set.
    """

    point: P
    state: TrustRegionState
    springs: BondSprings

    def __init__(
        self,
        surface: EnergySurface,
        strategy: Strategy,
        pbc: np.ndarray,
        epsilon: float,
        energy_noise: float = 0.0,
    ) -> None:
        self.surface, self.strategy = surface, strategy
        self.rejected = self.trials = self.accepted = 0
        self._pbc = np.asarray(pbc, dtype=bool)
        self._rounding, self._energy_noise = ROUNDING_UNITS * epsilon, energy_noise

    def start_at(self, point: P) -> None:
        """Start at a point, with a Hessian of zero."""
        sqrt_n = (self.surface.coordinates.basis.shape[0] / 3 - 2) ** 0.5  # square root of N
        no_curvature = np.broadcast_to(0.0, (len(point.z), len(point.z)))
        self.point = point
        self.state = TrustRegionState(
            z=point.z,
            energy=point.energy,
            gradient=point.gradient,
            hessian=DenseHessian(no_curvature),
            radius=self.strategy.first_radius * sqrt_n,
            max_radius=self.strategy.max_radius * sqrt_n,
            rounding=self._rounding,
            energy_noise=self._energy_noise,
        )

    def move_to(self, point: P) -> None:
        """Move to a point, and keep the Hessian."""
        self.point = point
        self.state = replace(self.state, z=point.z, energy=point.energy, gradient=point.gradient)

    def set_hessian(self, hessian: np.ndarray, stiffness: np.ndarray | None = None) -> None:
        """Replace the Hessian, and take the springs from it.

        Args:
            hessian: Hessian by the joint vector y, eV/Å², (3N + 6, 3N + 6).
            stiffness: Matrix by z that is added to it, without springs, eV/Å², (d, d); None for
                none.
        """
        c = self.surface.coordinates
        matrix = c.by_free(hessian)
        if stiffness is not None:
            matrix = matrix + stiffness
        self.set_model(DenseHessian(matrix), hessian)

    def set_model(self, model: HessianModel, hessian: Matrix) -> None:
        """Replace the model of the Hessian, and take the springs from a Hessian.

        Args:
            model: Hessian by z.
            hessian: Hessian by the joint vector y, dense or sparse, eV/Å², (3N + 6, 3N + 6).
        """
        c = self.surface.coordinates
        self.state = replace(self.state, hessian=model)
        self.springs = BondSprings.from_hessian(c, c.basis @ self.state.z, hessian, self._pbc)
        self.rejected = self.trials = self.accepted = 0

    def reset_radius(self) -> None:
        """Reset the trust radius to its initial value."""
        ratio = self.strategy.first_radius / self.strategy.max_radius
        self.state = replace(self.state, radius=self.state.max_radius * ratio)

    def widest_radius(self) -> None:
        """Set the trust radius to its largest value."""
        self.state = replace(self.state, radius=self.state.max_radius)

    def attempt(self) -> Attempt:
        """Evaluate a trial step, and move to its end if it is accepted."""
        trial = self.strategy.propose(self.state, self.step_springs())
        target = self.state.z + trial.step
        point = self.surface.at(target)
        if point.z is not target:  # constraints changed the step
            actual_step = point.z - self.state.z
            trial = self.state.hessian.predict(self.state.gradient, actual_step)
        self.state, accepted = self.state.tell(trial, point.energy, point.gradient, self.strategy)
        self.trials += 1
        self.rejected = 0 if accepted else self.rejected + 1
        if accepted:
            self.point = point
            self.accepted += 1
        return Attempt(point, accepted)

    def step_springs(self) -> Springs:
        """Return the springs as a function of a step from the current geometry."""
        basis = self.surface.coordinates.basis
        return self.springs.as_step_function(basis @ self.state.z, basis)
