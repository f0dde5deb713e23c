"""Steps towards a saddle point: up along one mode, and down along all others.

Where the Hessian H has an eigenvector v of curvature c, a first-order saddle point of the energy
with v for its downward direction is a minimum of the image

    m'(s) = m(s) - 2 (g v)(v s) - c (v s)^2,

the model m of the energy reflected along v. A step minimises the image within a trust radius, with
the springs of `bond_stretch` in it as in a minimisation. What the model has foretold of the
gradient and of the energy decides whether the step is taken, and what the radius becomes: the energy
alone cannot, because it may rise or fall.

Source: Helgaker, Chem. Phys. Lett. 1991, 182, 503; Smith, Theor. Chim. Acta 1988, 74, 55.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mace_functional.optimize.quasi_newton import updated_hessian
from mace_functional.optimize.trust_region import Springs, Step, model_step

FIRST_RADIUS = 0.05
LARGEST_RADIUS = 0.15
"""Trust radii over the square root of the number of atoms, Å."""

GOOD, POOR, BAD = 0.25, 0.6, 1.0
"""Error of the model over what it describes: below, the radius grows; above, it shrinks; above, the
step is refused."""

ROUNDING = 16
"""Units of the last digit by which energies may differ for no reason."""


@dataclass
class Climber:
    """Where a search for a saddle point is, and what it knows of the surface.

    Attributes:
        z: Coordinates, (d,).
        energy: There, eV.
        gradient: There, (d,).
        hessian: As known there, (d, d).
        radius: Trust radius, Å.
        largest_radius: What it may grow to, Å.
        epsilon: Relative rounding of energies.
        followed: Direction whose mode is climbed, (d,), kept up to date; the lowest mode if None.
        mode: Normalised mode that was climbed last, (d,).
        curvature: Along it, eV/Å².
    """

    z: np.ndarray
    energy: float
    gradient: np.ndarray
    hessian: np.ndarray
    radius: float
    largest_radius: float
    epsilon: float
    followed: np.ndarray | None = None
    mode: np.ndarray = field(init=False, repr=False)
    curvature: float = field(init=False)
    _step: Step = field(init=False, repr=False)

    def spectrum(self, rigid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Curvatures (m,) ascending and modes (d, m) of the Hessian without rigid motions.

        Args:
            rigid: Orthonormal rigid motions, (d, r).
        """
        internal = np.linalg.qr(rigid, mode="complete")[0][:, rigid.shape[1] :]
        values, vectors = np.linalg.eigh(internal.T @ self.hessian @ internal)
        return values, internal @ vectors

    def propose(self, springs: Springs, rigid: np.ndarray) -> np.ndarray:
        """Coordinates to try, (d,).

        Args:
            springs: The part of the model that is not quadratic, as a function of the step.
            rigid: Orthonormal rigid motions, which no step contains, (d, r).
        """
        values, vectors = self.spectrum(rigid)
        climbed = 0
        if self.followed is not None:
            climbed = int(np.abs(vectors.T @ self.followed).argmax())
        v, c = vectors[:, climbed], float(values[climbed])
        if self.followed is not None:
            self.followed = v
        self.mode, self.curvature = v, c

        def inner(step: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
            energy, slope, curvature = springs(vectors @ step)
            return energy, vectors.T @ slope, vectors.T @ curvature @ vectors

        slope, along = vectors.T @ self.gradient, np.zeros(len(values))
        along[climbed] = 1.0
        reflected = np.where(along > 0, -slope, slope)
        image = np.diag(np.where(along > 0, -values, values))
        found = model_step(reflected, image, self.radius, inner)
        climb = float(along @ found.step)
        self._step = Step(
            vectors @ found.step,
            found.energy + 2 * float(along @ slope) * climb + c * climb**2,
            vectors @ (found.gradient + 2 * c * climb * along),
            self.hessian + vectors @ (found.hessian - image) @ vectors.T,
            found.inside,
        )
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
            self.radius = 0.25 * length
            return False
        foretold = self.gradient + step.gradient
        scale = max(float(np.linalg.norm(self.gradient)), float(np.linalg.norm(foretold)))
        noise = ROUNDING * self.epsilon * abs(self.energy)
        missed = max(abs(energy - self.energy - step.energy) - noise, 0.0) / length
        error = max(float(np.linalg.norm(gradient - foretold)), 2 * missed) / scale
        accepted = error < BAD
        start = step.hessian if accepted else self.hessian
        surprise = gradient - foretold
        self.hessian = updated_hessian(start, step.step, start @ step.step + surprise)
        if error > POOR:
            self.radius = (0.5 if accepted else 0.25) * length
        elif error < GOOD and length > 0.8 * self.radius:
            self.radius = min(2 * self.radius, self.largest_radius)
        if accepted:
            self.z, self.energy, self.gradient = self.z + step.step, energy, gradient
        return accepted

    def correct(self, directions: np.ndarray, products: np.ndarray) -> None:
        """Make the Hessian exact along orthonormal directions.

        Args:
            directions: (d, k).
            products: Of the exact Hessian with them, (d, k).
        """
        missing = products - self.hessian @ directions
        cross = missing @ directions.T
        self.hessian = self.hessian + cross + cross.T - directions @ (directions.T @ cross)
