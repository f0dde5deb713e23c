"""Minimisation by a Hessian that learns from gradients and exact products.

A step minimises a model of the energy, quadratic but for the springs of `bond_stretch`, within a
trust radius. The energy that it leads to decides whether it is taken, what the radius becomes and,
with the gradient, how the Hessian is corrected (`quasi_newton`). A rise of the energy is never
accepted. The same holds for a surface that curves downwards: the step goes to the boundary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy.linalg import eigh, svd

from mace_functional.optimize.quasi_newton import updated_hessian
from mace_functional.optimize.trust_region import Springs, Step, model_step

FIRST_RADIUS = 0.05
LARGEST_RADIUS = 0.07
"""Trust radii over the square root of the number of atoms, Å: far from rest there are many minima
to fall into, and short steps stay near the path down."""

POOR, GOOD = 0.25, 0.75
"""Change of the energy over the predicted one, below and above which the radius is changed."""

FLAT = 1e-4
"""A curvature this small is none, eV/Å²: 1.5 cm-1 for an atom of carbon."""

LEAST_PRODUCTS, MOST_PRODUCTS = 6, 24
"""With which negative curvature is looked for."""

SOFTEST = 1e-4
"""Curvatures below this part of the largest count as that large when directions are compared."""

DEPENDENT = 1e-10
"""Singular values of directions below this part of the largest are rounding: products along them
would be divided by it. Directions that are used here have 1e-2 or more."""

ROUNDING = 16
"""Units of the last digit by which energies may differ for no reason."""


@dataclass(eq=False)
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
        jumps: By how much energies may jump where the surface is not smooth, eV.
        lost_in_rounding: Whether the last step should have changed the energy by no more than its
            rounding, or a jump. The change then follows from the gradients at both ends.
    """

    z: np.ndarray
    energy: float
    gradient: np.ndarray
    hessian: np.ndarray
    radius: float
    largest_radius: float
    epsilon: float
    jumps: float = 0.0
    lost_in_rounding: bool = False
    _step: Step = field(init=False, repr=False)

    def propose(self, springs: Springs) -> np.ndarray:
        """Coordinates to try, (d,).

        Args:
            springs: The part of the model that is not quadratic, as a function of the step.
        """
        self._step = model_step(self.gradient, self.hessian, self.radius, springs)
        return self.z + self._step.step

    def take(self, energy: float, gradient: np.ndarray, made: np.ndarray | None = None) -> bool:
        """Learn from what was found at the proposed coordinates.

        Args:
            energy: eV; not finite where there is no structure.
            gradient: (d,).
            made: The step that was made in place of the proposed one, (d,), if it was another.

        Returns:
            Whether the step was accepted.
        """
        step = self._step
        if made is not None:
            change = self.hessian @ made
            expected = float((self.gradient + 0.5 * change) @ made)
            step = Step(made, expected, change, self.hessian, inside=False)
        length = float(np.linalg.norm(step.step))
        if not (np.isfinite(energy) and np.isfinite(gradient).all()):
            self.radius = POOR * length
            return False
        if length == 0 or step.energy == 0:  # the gradient is zero to the last digit
            self.lost_in_rounding = True
            return False
        change = energy - self.energy
        rounding = ROUNDING * self.epsilon * abs(self.energy)
        self.lost_in_rounding = abs(step.energy) < rounding + self.jumps
        if self.lost_in_rounding:
            change = 0.5 * float((self.gradient + gradient) @ step.step)
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

    def expected_gain(self, flat: float) -> float:
        """How much lower the minimum should lie, g H^-1 g / 2; infinite if there is none, eV.

        Args:
            flat: Curvatures from minus this to this count as this, eV/Å².
        """
        values, vectors = eigh(self.hessian)
        if values[0] < -flat:
            return np.inf
        return 0.5 * float(((vectors.T @ self.gradient) ** 2 / np.maximum(values, flat)).sum())

    def lowest_curvature(
        self, product: Callable[[np.ndarray], np.ndarray], rigid: np.ndarray, flat: float
    ) -> float:
        """A low curvature of the surface, negative if one is found; corrects the Hessian.

        With K = |H| of the Hessian as it is known, the exact one has as many negative eigenvalues
        as K^(-1/2) H K^(-1/2) (Sylvester's law), which is near to one in all directions but those
        that K is wrong about: Lanczos' method finds these first, from a random vector.

        Args:
            product: The exact Hessian, at z, times a vector.
            rigid: Directions that do not count, orthonormal, (d, r).
            flat: Curvature that counts as none, eV/Å².

        Returns:
            Curvature along the lowest direction that was found, eV/Å²; infinite where every
            direction is rigid.
        """
        kept = np.eye(len(self.z)) - rigid @ rigid.T
        values, vectors = eigh(kept @ self.hessian @ kept)
        inner = np.linalg.norm(rigid.T @ vectors, axis=0) < 0.5
        values, vectors = values[inner], vectors[:, inner]
        if not len(values):
            return np.inf
        size = np.abs(values).max(initial=0.0)
        white = vectors / np.sqrt(np.maximum(np.abs(values), SOFTEST * size + FLAT))
        fresh = np.random.default_rng(0).standard_normal(len(values))
        fresh[0] += np.linalg.norm(fresh)
        directions = np.empty((len(values), 0))
        products = np.empty((len(self.z), 0))
        curvature = np.inf
        while products.shape[1] < min(MOST_PRODUCTS, len(values)):
            for _ in range(2):  # once leaves rounding
                fresh = fresh - directions @ (directions.T @ fresh)
                fresh = fresh / np.linalg.norm(fresh)
            directions = np.column_stack([directions, fresh])
            products = np.column_stack([products, product(white @ directions[:, -1])])
            images = white.T @ products
            ritz, parts = eigh(directions.T @ images)
            lowest = directions @ parts[:, 0]
            fresh = images @ parts[:, 0] - ritz[0] * lowest
            curvature = float(ritz[0]) / float(np.sum((white @ lowest) ** 2))
            done = products.shape[1] >= LEAST_PRODUCTS and np.linalg.norm(fresh) < 0.5 * ritz[0]
            if curvature < -flat or done or not np.linalg.norm(fresh) > FLAT:
                break
        self.correct(white @ directions, products)
        return curvature

    def correct(self, directions: np.ndarray, products: np.ndarray) -> None:
        """Make the Hessian that of exact products along some directions.

        Args:
            directions: Columns, (d, m); what depends on others to rounding counts once.
            products: The exact Hessian, at z, times each, (d, m).
        """
        basis, sizes, rotation = svd(directions, full_matrices=False)
        kept = sizes > DEPENDENT * sizes.max(initial=0.0)
        basis = basis[:, kept]
        missing = products @ (rotation[kept].T / sizes[kept]) - self.hessian @ basis
        cross = missing @ basis.T
        self.hessian = self.hessian + cross + cross.T - basis @ (basis.T @ cross)
