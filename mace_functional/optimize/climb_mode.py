"""Steps towards a saddle point: up along one mode, and down along all others.

A normal mode u of the Hessian H and the masses M, H u = c M u with u M u = 1, is reflected: a
first-order saddle point of the energy with u for its downward direction is a minimum of the image

    m'(s) = m(s) - 2 (g u)(u M s) - c (u M s)^2

of the model m of the energy. A step minimises the image within the trust radius, with the springs
of `bond_springs` in it as in a relaxation. A step is accepted if the predicted gradient and energy
are close to the computed ones; the trust radius is set by the same error. The energy alone cannot
decide: on the way to a saddle point it may rise or fall.

Source: Helgaker, Chem. Phys. Lett. 1991, 182, 503; Smith, Theor. Chim. Acta 1988, 74, 55.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh

from mace_functional.optimize.dense_hessian import DenseHessian, HessianModel, Trial
from mace_functional.optimize.trust_region import Springs, model_step
from mace_functional.optimize.trust_region_state import StepVerdict, TrustRegionState


class InternalMotions(NamedTuple):
    """The free motions at a geometry without its rigid motions, and their masses.

    Attributes:
        basis: Orthonormal, in free coordinates, (d, m).
        displacements: Cartesian displacements of the atoms, each with the rigid motion that makes
            its kinetic energy least, (3N, m).
        masses: Mass matrix M between these, amu, (m, m).
    """

    basis: np.ndarray
    displacements: np.ndarray
    masses: np.ndarray


@dataclass(frozen=True, eq=False)
class ClimbMode:
    """The strategy of `find_saddle`.

    Little depends on the thresholds. Ten searches with the embedded model, from four rattled
    guesses and the minimum of ethane and of ammonia, take 98 gradients and 873 products together.
    With one threshold changed, all ten still find a saddle point, and take

        max_radius 0.075          104 and 914
        max_radius 0.3             99 and 873
        poor 0.3                  114 and 967
        rejected 0.5              107 and 885
        rejected 2                 93 and 847
        uphill_share 0.5           92 and 846

    Attributes:
        internal: The motions without the rigid ones; no step contains any of these.
        followed: Direction whose mode is climbed, (d,); None to climb the lowest mode.
        is_mode: Whether a mode has been found for the direction. Until then the direction itself is
            climbed.
        mode: u, the direction that is climbed next, (d,), u M u = 1.
        curvature: c of this direction, eV/Å²/amu.
        first_radius: First trust radius over the square root of the number of atoms, Å.
        max_radius: Largest trust radius, in the same unit.
        good: Relative error of the predicted gradient, below which the trust radius grows.
        poor: The same error, above which the trust radius shrinks.
        rejected: The same error, above which the step is not taken.
        clear_overlap: Overlap of a normal mode with the followed direction, above which it is the
            one that is followed.
        uphill_share: Curvature of the image along a mode of positive curvature c, over -c. It is
            enough to lead uphill, and leaves room in the trust radius for the way down along the
            other modes.
    """

    internal: InternalMotions
    followed: np.ndarray | None = None
    is_mode: bool = False
    mode: np.ndarray = field(default_factory=lambda: np.zeros(0))
    curvature: float = np.nan
    first_radius: float = 0.05
    max_radius: float = 0.15
    good: float = 0.25
    poor: float = 0.6
    rejected: float = 1.0
    clear_overlap: float = 0.7
    uphill_share: float = 0.1

    def modes(self, hessian: HessianModel) -> tuple[np.ndarray, np.ndarray]:
        """Curvatures (m,) ascending, eV/Å²/amu, and normal modes (d, m) of a dense Hessian."""
        basis = self.internal.basis
        matrix = basis.T @ _matrix(hessian) @ basis
        values, vectors = eigh(matrix, self.internal.masses)
        return values, basis @ vectors

    def track(self, hessian: HessianModel) -> ClimbMode:
        """The strategy with the mode of this Hessian that is to be climbed.

        This is the lowest mode, or the one of largest overlap with the followed direction. A
        followed direction that is no mode is climbed as it is, until a mode has a clear overlap
        with it, or until the curvature along it is negative and that of the second mode positive.
        """
        values, vectors = self.modes(hessian)
        if self.followed is None:
            return replace(self, curvature=float(values[0]), mode=vectors[:, 0])
        basis = self.internal.basis
        weighted = self.internal.masses @ (basis.T @ self.followed)
        size = float(np.sqrt(self.followed @ basis @ weighted))
        overlaps = np.abs(vectors.T @ basis @ weighted) / size
        k = int(overlaps.argmax())
        if not self.is_mode and overlaps[k] <= self.clear_overlap:
            u = basis @ (basis.T @ self.followed) / size
            curvature = float(u @ _matrix(hessian) @ u)
            if not curvature < 0 < values[1:].min(initial=1.0):
                return replace(self, curvature=curvature, mode=u, followed=u)
            k = 0
        u = vectors[:, k]
        return replace(self, curvature=float(values[k]), mode=u, followed=u, is_mode=True)

    def propose(self, state: TrustRegionState, springs: Springs) -> Trial:
        """The step that minimises the image within the trust radius; see `track` first."""
        c, u, basis = self.curvature, self.mode, self.internal.basis
        u_mass = self.internal.masses @ (basis.T @ u)  # u M
        g, g_u = basis.T @ state.gradient, float(state.gradient @ u)
        h = basis.T @ _matrix(state.hessian) @ basis

        def internal_springs(s: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
            energy, gradient, curvature = springs(basis @ s)
            return energy, basis.T @ gradient, basis.T @ curvature @ basis

        # A direction that is no normal mode is taken for one, without its coupling to the rest.
        rest = np.eye(len(g)) - np.outer(basis.T @ u, u_mass)
        reflected = -c if c < 0 else -self.uphill_share * c
        image = rest.T @ h @ rest + reflected * np.outer(u_mass, u_mass)
        found = model_step(g - 2 * g_u * u_mass, image, state.radius, internal_springs)
        along = float(u_mass @ found.step)
        not_in_image = (h - image) @ found.step
        return Trial(
            basis @ found.step,
            found.energy + 2 * g_u * along + 0.5 * float(not_in_image @ found.step),
            basis @ (found.gradient + not_in_image),
            DenseHessian(_matrix(state.hessian) + basis @ (found.hessian - image) @ basis.T),
        )

    def judge(
        self, state: TrustRegionState, trial: Trial, energy: float, gradient: np.ndarray
    ) -> StepVerdict:
        """Accept the step if the predicted gradient and energy are close to the computed ones.

        The error is that of the gradient, or twice that of the energy over the length of the step,
        relative to the larger one of the gradient before and the predicted one.
        """
        predicted = state.gradient + trial.gradient
        scale = max(float(np.linalg.norm(state.gradient)), float(np.linalg.norm(predicted)))
        energy_error = max(abs(energy - state.energy - trial.energy) - state.noise, 0.0)
        energy_error /= float(np.linalg.norm(trial.step))
        error = max(float(np.linalg.norm(gradient - predicted)), 2 * energy_error)
        accepted = error < self.rejected * scale
        return StepVerdict(accepted, error < self.good * scale, error > self.poor * scale)


def _matrix(hessian: HessianModel) -> np.ndarray:
    """The matrix of a Hessian; normal modes are those of a dense one."""
    if not isinstance(hessian, DenseHessian):
        raise TypeError(f"modes are climbed with a DenseHessian, not {type(hessian).__name__}")
    return hessian.matrix
