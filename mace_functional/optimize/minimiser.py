"""Minimisation by a Hessian that is exact at first and learns from gradients afterwards.

A step minimises a model of the energy, quadratic but for the springs of `bond_stretch`, within a
trust radius. The energy that it leads to decides whether it is taken, what the radius becomes and,
with the gradient, how the Hessian is corrected (`quasi_newton`). A rise of the energy is never
accepted. The same holds for a surface that curves downwards: the step goes to the boundary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy.linalg import eigh

from mace_functional.optimize.quasi_newton import updated_hessian
from mace_functional.optimize.trust_region import Springs, Step, model_step

FIRST_RADIUS = 0.05
LARGEST_RADIUS = 0.07
"""Trust radii over the square root of the number of atoms, Å: far from rest there are many minima
to fall into, and short steps stay near the path down."""

POOR, GOOD = 0.25, 0.75
"""Change of the energy over the predicted one, below and above which the radius is changed."""

FLAT = 1e-6
"""A curvature this small is none, eV/Å²."""

SOFTEST_PRODUCTS = 16
"""Most products to look for negative curvature with."""

ROUNDING = 16
"""Units of the last digit by which energies may differ for no reason."""


@dataclass
class Minimiser:
    """Where a minimisation is, and what it knows of the surface.

    Attributes:
        z: Coordinates, (d,).
        energy: There, eV.
        gradient: There, (d,).
        hessian: As known there, (d, d).
        radius: Trust radius, Å.
        largest_radius: What it may grow to, Å.
        epsilon: Relative rounding of energies.
        lost_in_rounding: Whether the last step should have changed the energy by rounding only. The
            gradient decided then.
    """

    z: np.ndarray
    energy: float
    gradient: np.ndarray
    hessian: np.ndarray
    radius: float
    largest_radius: float
    epsilon: float
    lost_in_rounding: bool = False
    _step: Step = field(init=False, repr=False)

    def propose(self, springs: Springs) -> np.ndarray:
        """Coordinates to try, (d,).

        Args:
            springs: The part of the model that is not quadratic, as a function of the step.
        """
        self._step = model_step(self.gradient, self.hessian, self.radius, springs)
        return self.z + self._step.step

    def take(self, energy: float, gradient: np.ndarray) -> bool:
        """Learn from what was found at the proposed coordinates.

        Args:
            energy: eV; not finite where there is no structure.
            gradient: (d,).

        Returns:
            Whether the step was accepted.
        """
        step = self._step
        length = float(np.linalg.norm(step.step))
        if not (np.isfinite(energy) and np.isfinite(gradient).all()):
            self.radius = POOR * length
            return False
        noise = ROUNDING * self.epsilon * abs(self.energy)
        change = energy - self.energy
        self.lost_in_rounding = abs(step.energy) < noise
        if self.lost_in_rounding:
            accepted = bool(np.linalg.norm(gradient) < np.linalg.norm(self.gradient))
            ratio = 1.0 if accepted else 0.0
        else:
            accepted, ratio = change < 0, change / step.energy
        start = step.hessian if accepted else self.hessian
        surprise = gradient - self.gradient - step.gradient
        self.hessian = updated_hessian(start, step.step, start @ step.step + surprise)
        if ratio < POOR:
            self.radius = (POOR if ratio <= 0 else 0.5) * length
        elif ratio > GOOD and length > 0.8 * self.radius:
            self.radius = min(2 * self.radius, self.largest_radius)
        if accepted:
            self.z, self.energy, self.gradient = self.z + step.step, energy, gradient
        return accepted

    def expected_gain(self) -> float:
        """How much lower the minimum should lie, g H^-1 g / 2; infinite if there is none, eV."""
        values, vectors = eigh(self.hessian)
        if values[0] < -FLAT:
            return np.inf
        return 0.5 * float(((vectors.T @ self.gradient) ** 2 / np.maximum(values, FLAT)).sum())

    def softest_curvature(
        self, product: Callable[[np.ndarray], np.ndarray], rigid: np.ndarray
    ) -> float:
        """The lowest curvature of the surface, eV/Å², to within half; corrects the Hessian.

        Davidson's method for the lowest eigenvalue, with the Hessian as it is known for
        preconditioner. It ends as soon as the sign is clear.

        Args:
            product: The exact Hessian, at z, times a vector.
            rigid: Directions that do not count, orthonormal, (d, r).
        """
        kept = np.eye(len(self.z)) - rigid @ rigid.T
        values, vectors = eigh(kept @ self.hessian @ kept)
        still = np.argsort(np.linalg.norm(rigid.T @ vectors, axis=0))[: len(kept) - rigid.shape[1]]
        values, vectors = values[np.sort(still)], vectors[:, np.sort(still)]
        # What is soft and not known to be so would be missed: a random direction shows it.
        soft = 1 / np.maximum(np.abs(values), 1e-3 * np.abs(values).max() + FLAT)
        chance = vectors @ (soft * np.random.default_rng(0).standard_normal(len(soft)))
        fresh = np.linalg.qr(np.column_stack([vectors[:, 0], chance]))[0]
        directions = products = np.empty((len(self.z), 0))
        curvature = np.inf
        while fresh.any() and len(products.T) < SOFTEST_PRODUCTS:
            directions = np.column_stack([directions, fresh])
            exact = [kept @ product(direction) for direction in fresh.T]
            products = np.column_stack([products, *exact])
            ritz, parts = eigh(directions.T @ products)
            curvature, softest = float(ritz[0]), directions @ parts[:, 0]
            residual = vectors.T @ (products @ parts[:, 0] - curvature * softest)
            above = np.maximum(values - curvature, 0.1 * np.abs(values))
            improved = residual / np.maximum(above, FLAT)
            if curvature < -FLAT or residual @ improved < max(0.5 * curvature, FLAT):
                break
            fresh = (vectors @ improved)[:, None]
            for _ in range(2):
                fresh = fresh - directions @ (directions.T @ fresh)
                fresh = fresh / max(np.linalg.norm(fresh), 1e-300)
        missing = products - self.hessian @ directions
        cross = missing @ directions.T
        self.hessian = self.hessian + cross + cross.T - directions @ (directions.T @ cross)
        return curvature
