"""Local model of the energy for an optimiser, with the Hessian as a matrix.

Around coordinates z with gradient g, the model is

    m(s) = g s + s H s / 2,

with a part of H replaced by springs (`bond_springs`). `HessianModel` defines the operations that an
optimiser needs. `DenseHessian` stores the matrix, which is suitable for a few hundred atoms;
`LimitedHessian` is for more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import numpy as np
from scipy.linalg import eigh, svd

from mace_functional.optimize.quasi_newton import updated_hessian
from mace_functional.optimize.trust_region import Springs, model_step

MIN_SINGULAR_VALUE = 1e-10
"""Smallest relative singular value of a set of directions that is used.

Below, a direction is linearly dependent within rounding, and its product, which would be divided by
the singular value, is left out. Directions of a relaxation have 1e-2 or more.
"""


STIFFNESS_FLOOR = 1e-4
"""Smallest eigenvalue of |H|, relative to the largest, in |H|^-1; smaller ones are raised."""

ZERO_CURVATURE = 1e-4
"""Curvature below which a direction counts as flat, eV/Å²: 1.5 cm-1 for a carbon atom."""


class Trial(NamedTuple):
    """A step to try, with the predictions of the model.

    Attributes:
        step: Step s, Å, (d,).
        energy: Predicted change of the energy, m(s), eV.
        gradient: Predicted change of the gradient, eV/Å, (d,).
        hessian: Hessian of the model at the end of the step.
    """

    step: np.ndarray
    energy: float
    gradient: np.ndarray
    hessian: HessianModel


class HessianModel(Protocol):
    """Approximate Hessian H that proposes steps and is updated with their results; immutable."""

    def step(self, gradient: np.ndarray, radius: float, springs: Springs) -> Trial:
        """Compute the step s with |s| <= radius that minimises the model."""

    def predict(self, gradient: np.ndarray, step: np.ndarray) -> Trial:
        """Compute the predictions of the quadratic model for a given step."""

    def product(self, vectors: np.ndarray) -> np.ndarray:
        """Compute H times a vector (d,), or times the columns of a matrix (d, m)."""

    def update(self, step: np.ndarray, gradient_error: np.ndarray) -> Self:
        """Return H after a quasi-Newton update.

        Args:
            step: Step s, Å, (d,).
            gradient_error: Computed minus predicted gradient at the end of the step, (d,).
        """

    def refine(self, directions: np.ndarray, products: np.ndarray) -> Self:
        """Return H with exact products along some directions.

        Args:
            directions: Any columns, (d, m).
            products: Exact Hessian times each of them, (d, m).
        """

    def softest(self, count: int) -> np.ndarray:
        """Return orthonormal directions of lowest curvature, (d, count); all if d <= 3 count."""

    def expected_gain(self, gradient: np.ndarray, flat: float) -> float:
        """Return the energy gain down to the minimum of the model, g H^-1 g / 2, eV.

        Args:
            gradient: Gradient g, (d,).
            flat: Curvature below which a direction counts as flat, eV/Å². Curvatures from -flat to
                flat are set to flat.

        Returns:
            The energy gain; infinity if the model has a curvature below -flat, and therefore no
            minimum.
        """

    def inverse(self, rigid: np.ndarray, flat: float) -> Callable[[np.ndarray], np.ndarray]:
        """Return K^-1 as a function of a vector (d,), with K close to |H| and positive definite.

        Args:
            rigid: Directions that are left out, orthonormal, (d, r).
            flat: Curvature below which a direction counts as flat, eV/Å².
        """


@dataclass(frozen=True, eq=False)
class DenseHessian:
    """Approximate Hessian that is stored as a matrix; a `HessianModel`.

    Attributes:
        matrix: Hessian H, symmetric, eV/Å², (d, d).
    """

    matrix: np.ndarray

    def step(self, gradient: np.ndarray, radius: float, springs: Springs) -> Trial:
        """Compute the step s with |s| <= radius that minimises the model."""
        minimum = model_step(gradient, self.matrix, radius, springs)
        return Trial(minimum.step, minimum.energy, minimum.gradient, DenseHessian(minimum.hessian))

    def predict(self, gradient: np.ndarray, step: np.ndarray) -> Trial:
        """Compute the predictions of the quadratic model for a given step."""
        h_s = self.product(step)
        return Trial(step, float((gradient + 0.5 * h_s) @ step), h_s, self)

    def product(self, vectors: np.ndarray) -> np.ndarray:
        """Compute H times a vector (d,), or times the columns of a matrix (d, m)."""
        product: np.ndarray = self.matrix @ vectors
        return product

    def update(self, step: np.ndarray, gradient_error: np.ndarray) -> DenseHessian:
        """Return H after a quasi-Newton update; see `updated_hessian`."""
        y = self.matrix @ step + gradient_error
        return DenseHessian(updated_hessian(self.matrix, step, y))

    def refine(self, directions: np.ndarray, products: np.ndarray) -> DenseHessian:
        """Return H with exact products along some directions.

        With these directions made orthonormal, Q, and the exact Hessian H', the result is
        H + E Q^T + Q E^T - Q (Q^T E) Q^T with E = (H' - H) Q.
        """
        q, singular_values, rotation = svd(directions, full_matrices=False)
        kept = singular_values > MIN_SINGULAR_VALUE * singular_values.max(initial=0.0)
        q = q[:, kept]
        e = products @ (rotation[kept].T / singular_values[kept]) - self.matrix @ q
        e_qt = e @ q.T
        return DenseHessian(self.matrix + e_qt + e_qt.T - q @ (q.T @ e_qt))

    def softest(self, count: int) -> np.ndarray:
        """Return the eigenvectors of lowest eigenvalues, (d, count); all if d <= 3 count."""
        directions = np.linalg.eigh(self.matrix)[1]
        return directions[:, :count] if len(directions) > 3 * count else directions

    def expected_gain(self, gradient: np.ndarray, flat: float) -> float:
        """Return the energy gain to the minimum, g H^-1 g / 2, eV; see `HessianModel`."""
        values, vectors = eigh(self.matrix)
        if values[0] < -flat:
            return np.inf
        return 0.5 * float(((vectors.T @ gradient) ** 2 / np.maximum(values, flat)).sum())

    def inverse(self, rigid: np.ndarray, flat: float) -> Callable[[np.ndarray], np.ndarray]:
        """Return |H|^-1 as a function, without some directions; see `HessianModel`."""
        projector = np.eye(len(self.matrix)) - rigid @ rigid.T
        values, vectors = eigh(projector @ self.matrix @ projector)
        internal = np.linalg.norm(rigid.T @ vectors, axis=0) < 0.5
        sizes = np.abs(values[internal])
        floor = STIFFNESS_FLOOR * sizes.max(initial=0.0) + ZERO_CURVATURE
        modes, stiffness = vectors[:, internal], np.maximum(sizes, floor)
        return lambda vector: modes @ ((modes.T @ vector) / stiffness)
