"""One run of an optimiser on a potential energy surface.

`OptimizerRun` holds what all runs have in common: the surface, the state with its Hessian, the
springs of the model, and the count of what was tried. `relax`, `find_saddle` and the optimiser for
ASE are such runs, with the strategies `Descend` and `ClimbMode`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from mace_functional.optimize.bond_springs import BondSprings
from mace_functional.optimize.coordinates import Coordinates
from mace_functional.optimize.dense_hessian import DenseHessian
from mace_functional.optimize.trust_region import Springs
from mace_functional.optimize.trust_region_state import (
    ROUNDING_UNITS,
    Strategy,
    TrustRegionState,
)

MAX_REJECTED_STEPS = 8
"""Trial steps rejected in a row, after which a relaxation computes the exact Hessian, or ends if it
has it already."""

CLASH_FORCE = 20.0
"""Largest force, eV/Å, that is found only where atoms are too close. A Hessian from such a place is
of no use once they have come apart: it is made again where forces are below a tenth of this."""


class EvaluatedPoint(Protocol):
    """Energy and gradient at a geometry."""

    @property
    def z(self) -> np.ndarray:
        """Coordinates, Å, (d,)."""

    @property
    def energy(self) -> float:
        """Energy, eV; infinite where there is no structure."""

    @property
    def gradient(self) -> np.ndarray:
        """Gradient by z, eV/Å, (d,)."""


class EnergySurface(Protocol):
    """A function of free coordinates z."""

    @property
    def coordinates(self) -> Coordinates:
        """The meaning of z."""

    def at(self, z: np.ndarray) -> Any:
        """The `EvaluatedPoint` at z; where constraints lead elsewhere, the one there."""


P = TypeVar("P", bound=EvaluatedPoint)


class Attempt(NamedTuple):
    """A trial step: the point that it led to, and whether the run has gone there."""

    point: Any
    accepted: bool


class OptimizerRun(Generic[P]):
    """A run of an optimiser: where it is, and what it knows of the surface.

    Args:
        surface: Evaluates energy and gradient.
        strategy: Chooses and judges steps.
        pbc: Periodic directions, (3,).
        epsilon: Relative precision of the numbers that energies are computed with.
        energy_noise: Differences of the energy that mean nothing whatever its size, eV.

    Attributes:
        surface: As given.
        strategy: As given.
        point: The surface where the run is.
        state: Where the run is, with its model of the surface.
        springs: Springs of the model.
        rejected: Trial steps rejected since the last accepted one.
        trials: Trial steps since the Hessian was set.
        accepted: Accepted ones among these.
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
        """Begin at a point, without any knowledge of the Hessian there."""
        root = (len(self.surface.coordinates.basis) / 3 - 2) ** 0.5  # of the number of atoms
        self.point = point
        self.state = TrustRegionState(
            z=point.z,
            energy=point.energy,
            gradient=point.gradient,
            hessian=DenseHessian(np.zeros((len(point.z), len(point.z)))),
            radius=self.strategy.first_radius * root,
            max_radius=self.strategy.max_radius * root,
            rounding=self._rounding,
            energy_noise=self._energy_noise,
        )

    def move_to(self, point: P) -> None:
        """Go to a point, and keep the Hessian."""
        self.point = point
        self.state = replace(self.state, z=point.z, energy=point.energy, gradient=point.gradient)

    def set_hessian(self, hessian: np.ndarray, stiffness: np.ndarray | None = None) -> None:
        """Replace the Hessian, and the springs by those that it shows.

        Args:
            hessian: Hessian by the joint vector y, eV/Å², (3N + 6, 3N + 6).
            stiffness: Added to it by z, eV/Å², (d, d); it has no springs.
        """
        c = self.surface.coordinates
        matrix = c.basis.T @ hessian @ c.basis
        if stiffness is not None:
            matrix = matrix + stiffness
        self.state = replace(self.state, hessian=DenseHessian(matrix))
        self.springs = BondSprings.from_hessian(c, c.basis @ self.state.z, hessian, self._pbc)
        self.rejected = self.trials = self.accepted = 0

    def reset_radius(self) -> None:
        """Set the trust radius to what it was at the start."""
        ratio = self.strategy.first_radius / self.strategy.max_radius
        self.state = replace(self.state, radius=self.state.max_radius * ratio)

    def widest_radius(self) -> None:
        """Set the trust radius to the largest one."""
        self.state = replace(self.state, radius=self.state.max_radius)

    def attempt(self) -> Attempt:
        """Try a step, and go there if it is accepted."""
        trial = self.strategy.propose(self.state, self.step_springs())
        target = self.state.z + trial.step
        point = self.surface.at(target)
        if point.z is not target:  # constraints led elsewhere
            made = point.z - self.state.z
            trial = self.state.hessian.predict(self.state.gradient, made)
        self.state, accepted = self.state.tell(trial, point.energy, point.gradient, self.strategy)
        self.trials += 1
        self.rejected = 0 if accepted else self.rejected + 1
        if accepted:
            self.point = point
            self.accepted += 1
        return Attempt(point, accepted)

    def step_springs(self) -> Springs:
        """The springs as a function of a step from the present place."""
        basis = self.surface.coordinates.basis
        return self.springs.as_step_function(basis @ self.state.z, basis)
