"""Steps towards a saddle point: up along one mode, and down along all others.

A normal mode u of the Hessian H and the masses M, H u = c M u with u M u = 1, is reflected: a
first-order saddle point of the energy with u for its downward direction is a minimum of the image

    m'(s) = m(s) - 2 (g u)(u M s) - c (u M s)^2

of the model m of the energy. A step minimises the image within a trust radius, with the springs of
`bond_stretch` in it as in a minimisation. What the model has foretold of the gradient and of the
energy decides whether the step is taken, and what the radius becomes: the energy alone cannot,
because it may rise or fall.

Source: Helgaker, Chem. Phys. Lett. 1991, 182, 503; Smith, Theor. Chim. Acta 1988, 74, 55.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh

from mace_functional.optimize.quasi_newton import updated_hessian
from mace_functional.optimize.trust_region import Springs, Step, model_step

FIRST_RADIUS = 0.05
LARGEST_RADIUS = 0.15
"""Trust radii over the square root of the number of atoms, Å."""

GOOD, POOR, BAD = 0.25, 0.6, 1.0
"""Error of the model over what it describes: below, the radius grows; above, it shrinks; above, the
step is refused."""

CLEAR = 0.7
"""Overlap above which a normal mode is the one that is followed; while there is none, the direction
itself is climbed."""

FALL = 0.1
"""Where the curvature is positive, the image falls with this part of it: enough to lead uphill, and
little, so that the radius leaves room for the way down along other modes."""

ROUNDING = 16
"""Units of the last digit by which energies may differ for no reason."""


class Internal(NamedTuple):
    """Motions without the rigid ones, and what they weigh.

    Attributes:
        basis: Orthonormal, in free coordinates, (d, m).
        displacements: Of the atoms, each with the rigid motion that makes it lightest, (3N, m).
        masses: M between these, amu, (m, m).
    """

    basis: np.ndarray
    displacements: np.ndarray
    masses: np.ndarray


@dataclass(eq=False)
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
        is_mode: Whether a mode has been found for it.
        curvature: c of the mode that was climbed last, eV/Å²/amu.
    """

    z: np.ndarray
    energy: float
    gradient: np.ndarray
    hessian: np.ndarray
    radius: float
    largest_radius: float
    epsilon: float
    followed: np.ndarray | None = None
    is_mode: bool = False
    curvature: float = field(init=False)
    _step: Step = field(init=False, repr=False)

    def modes(self, internal: Internal) -> tuple[np.ndarray, np.ndarray]:
        """Curvatures (m,) ascending, eV/Å²/amu, and normal modes (d, m) of the Hessian as known.

        Args:
            internal: What is no rigid motion.
        """
        basis = internal.basis
        values, vectors = eigh(basis.T @ self.hessian @ basis, internal.masses)
        return values, basis @ vectors

    def next_mode(self, internal: Internal) -> tuple[float, np.ndarray]:
        """Curvature and direction u, (d,), with u M u = 1, of what the next step climbs.

        Of the modes, it is the lowest or the one that is most like the last; but a direction that
        is no mode is climbed as it is, until a mode is like it or curves downwards with it.
        """
        values, vectors = self.modes(internal)
        if self.followed is None:
            return float(values[0]), vectors[:, 0]
        basis = internal.basis
        weighted = internal.masses @ (basis.T @ self.followed)
        size = float(np.sqrt(self.followed @ basis @ weighted))
        overlaps = np.abs(vectors.T @ basis @ weighted) / size
        nearest = int(overlaps.argmax())
        if self.is_mode or overlaps[nearest] > CLEAR:
            self.is_mode = True
            return float(values[nearest]), vectors[:, nearest]
        direction = basis @ (basis.T @ self.followed) / size
        curvature = float(direction @ self.hessian @ direction)
        if curvature < 0 < values[1:].min(initial=1.0):
            self.is_mode = True
            return float(values[0]), vectors[:, 0]
        return curvature, direction

    def propose(self, springs: Springs, internal: Internal) -> np.ndarray:
        """Coordinates to try, (d,).

        Args:
            springs: The part of the model that is not quadratic, as a function of the step.
            internal: What is no rigid motion; no step contains any.
        """
        c, mode = self.next_mode(internal)
        self.curvature = c
        if self.followed is not None:
            self.followed = mode
        basis = internal.basis
        across = internal.masses @ (basis.T @ mode)
        slope, climb_slope = basis.T @ self.gradient, float(self.gradient @ mode)

        def inner(step: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
            energy, force, curvature = springs(basis @ step)
            return energy, basis.T @ force, basis.T @ curvature @ basis

        rest = np.eye(len(slope)) - np.outer(basis.T @ mode, across)
        known = basis.T @ self.hessian @ basis
        # A direction that is no normal mode is taken for one, without its coupling to the rest.
        reflected = -c if c < 0 else -FALL * c
        image = rest.T @ known @ rest + reflected * np.outer(across, across)
        found = model_step(slope - 2 * climb_slope * across, image, self.radius, inner)
        climb = float(across @ found.step)
        unlike = (known - image) @ found.step
        self._step = Step(
            basis @ found.step,
            found.energy + 2 * climb_slope * climb + 0.5 * float(unlike @ found.step),
            basis @ (found.gradient + unlike),
            self.hessian + basis @ (found.hessian - image) @ basis.T,
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
        foretold = self.gradient + step.gradient
        scale = max(float(np.linalg.norm(self.gradient)), float(np.linalg.norm(foretold)))
        known = np.isfinite(energy) and np.isfinite(gradient).all()
        if not (known and length > 0 and scale > 0):
            self.radius *= 0.25
            return False
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
