"""Steps towards a saddle point: uphill along one mode, and downhill along all others.

A normal mode u of the Hessian H and the masses M, H u = c M u with u M u = 1, is reflected: a
first-order saddle point of the energy with the unstable mode u is a minimum of the image

    m'(s) = m(s) - 2 (g u)(u M s) - c (u M s)^2

of the model m of the energy. A step minimises the image within the trust radius. The image contains
the springs of `bond_springs`, as in a relaxation. A step is accepted if the predicted gradient and
energy are close to the computed ones; the trust radius is set by the same error. The energy alone
cannot decide, because it may rise or fall on the way to a saddle point.

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
    """Free motions at a geometry without its rigid motions, with their masses.

    Attributes:
        basis: Orthonormal basis of the internal motions in free coordinates, (d, m).
        displacements: Cartesian displacements of these motions, (3N, m). Each contains the rigid
            motion that minimises its kinetic energy.
        masses: Mass matrix M of these motions, amu, (m, m).
    """

    basis: np.ndarray
    displacements: np.ndarray
    masses: np.ndarray


@dataclass(frozen=True, eq=False)
class ClimbMode:
    """Strategy of `find_saddle`: steps uphill along one mode, and downhill along all others.

    The thresholds are not critical. Ten searches with the embedded model, from four rattled guesses
    and the minimum of ethane and of ammonia, take 98 gradients and 873 products in total. With one
    threshold changed, all ten still find a saddle point, and take

        max_radius 0.075          104 and 914
        max_radius 0.3             99 and 873
        poor 0.3                  114 and 967
        rejected 0.5              107 and 885
        rejected 2                 93 and 847
        uphill_share 0.5           92 and 846

    Attributes:
        internal: Free motions without rigid motions; steps contain only these.
        followed: Direction whose mode is climbed, (d,); None to climb the lowest mode.
        is_mode: True if a mode has been found for the direction. Until then the direction itself is
            climbed.
        mode: Direction u that is climbed next, (d,), with u M u = 1.
        curvature: Curvature c of this direction, eV/Å²/amu.
        first_radius: First trust radius over the square root of the number of atoms, Å.
        max_radius: Largest trust radius, in the same unit.
        good: Relative error of the predicted gradient, below which the trust radius grows.
        poor: The same error, above which the trust radius shrinks.
        rejected: The same error, above which the step is rejected.
        clear_overlap: Overlap of a normal mode with the followed direction, above which the mode is
            followed.
        uphill_share: Curvature of the image along a mode of positive curvature c, over -c. The
            value is large enough to lead uphill, and small enough for steps along the other modes.
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
        """Return curvatures (m,), ascending, eV/Å²/amu, and normal modes (d, m) of a Hessian."""
        basis = self.internal.basis
        matrix = basis.T @ _matrix(hessian) @ basis
        values, vectors = eigh(matrix, self.internal.masses)
        return values, basis @ vectors

    def track(self, hessian: HessianModel) -> ClimbMode:
        """Return the strategy with the mode of this Hessian that is climbed next.

        It is the lowest mode, or the mode of largest overlap with the followed direction. A
        followed direction that is no mode is climbed itself, until a mode has a clear overlap with
        it, or until the curvature along it is negative and that of the second mode positive.
        """
        values, vectors = self.modes(hessian)
        if self.followed is None:
            return replace(self, curvature=float(values[0]), mode=vectors[:, 0])
        basis = self.internal.basis
        m_followed = self.internal.masses @ (basis.T @ self.followed)
        norm = float(np.sqrt(self.followed @ basis @ m_followed))
        overlaps = np.abs(vectors.T @ basis @ m_followed) / norm
        k = int(overlaps.argmax())
        if not self.is_mode and overlaps[k] <= self.clear_overlap:
            u = basis @ (basis.T @ self.followed) / norm
            curvature = float(u @ _matrix(hessian) @ u)
            if not curvature < 0 < values[1:].min(initial=1.0):
                return replace(self, curvature=curvature, mode=u, followed=u)
            k = 0
        u = vectors[:, k]
        return replace(self, curvature=float(values[k]), mode=u, followed=u, is_mode=True)

    def propose(self, state: TrustRegionState, springs: Springs) -> Trial:
        """Compute the step that minimises the image within the trust radius; call `track` first."""
        c, u, basis = self.curvature, self.mode, self.internal.basis
        u_m = self.internal.masses @ (basis.T @ u)  # u M
        g, g_u = basis.T @ state.gradient, float(state.gradient @ u)
        h = basis.T @ _matrix(state.hessian) @ basis

        def internal_springs(s: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
            energy, gradient, curvature = springs(basis @ s)
            return energy, basis.T @ gradient, basis.T @ curvature @ basis

        # A direction that is no normal mode is treated as one: its coupling to others is ignored.
        projector = np.eye(len(g)) - np.outer(basis.T @ u, u_m)
        image_curvature = -c if c < 0 else -self.uphill_share * c
        image = projector.T @ h @ projector + image_curvature * np.outer(u_m, u_m)
        minimum = model_step(g - 2 * g_u * u_m, image, state.radius, internal_springs)
        u_m_s = float(u_m @ minimum.step)
        not_in_image = (h - image) @ minimum.step
        return Trial(
            basis @ minimum.step,
            minimum.energy + 2 * g_u * u_m_s + 0.5 * float(not_in_image @ minimum.step),
            basis @ (minimum.gradient + not_in_image),
            DenseHessian(_matrix(state.hessian) + basis @ (minimum.hessian - image) @ basis.T),
        )

    def judge(
        self, state: TrustRegionState, trial: Trial, energy: float, gradient: np.ndarray
    ) -> StepVerdict:
        """Accept the step if the predicted gradient and energy are close to the computed ones.

        The error is the larger of the error of the gradient, and twice the error of the energy over
        the length of the step. It is relative to the larger one of the previous and the predicted
        gradient.
        """
        predicted = state.gradient + trial.gradient
        scale = max(float(np.linalg.norm(state.gradient)), float(np.linalg.norm(predicted)))
        energy_error = max(abs(energy - state.energy - trial.energy) - state.noise, 0.0)
        energy_error /= float(np.linalg.norm(trial.step))
        error = max(float(np.linalg.norm(gradient - predicted)), 2 * energy_error)
        accepted = error < self.rejected * scale
        return StepVerdict(accepted, error < self.good * scale, error > self.poor * scale)


def _matrix(hessian: HessianModel) -> np.ndarray:
    """Return the matrix of a Hessian; raise an error if it is not dense."""
    if not isinstance(hessian, DenseHessian):
        raise TypeError(f"modes are climbed with a DenseHessian, not {type(hessian).__name__}")
    return hessian.matrix
