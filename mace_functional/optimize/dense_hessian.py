"""The local model of the energy that an optimiser keeps, with its Hessian as a matrix.

Around coordinates z with gradient g, the model is

    m(s) = g s + s H s / 2,

with a part of H replaced by springs (`bond_springs`). `HessianModel` is what an optimiser asks of
H; `DenseHessian` keeps the matrix, which suits a few hundred atoms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import numpy as np
from scipy.linalg import eigh, svd

from mace_functional.optimize.quasi_newton import updated_hessian
from mace_functional.optimize.trust_region import Springs, model_step

DEPENDENT = 1e-10
"""Relative singular value of a set of directions. Below it a direction depends on the others to
rounding, and its product is left out: it would be divided by that number. Directions of a
relaxation have 1e-2 or more."""


STIFFNESS_FLOOR = 1e-4
"""Eigenvalue of |H| over the largest one, below which it counts as that large where |H| is
inverted."""

ZERO_CURVATURE = 1e-4
"""Curvature that counts as zero, eV/Å²: 1.5 cm-1 for an atom of carbon."""


class Trial(NamedTuple):
    """A step to try, and what the model predicts for it.

    Attributes:
        step: s, Å, (d,).
        energy: Predicted change of the energy, m(s), eV.
        gradient: Predicted change of the gradient, (d,).
        hessian: The model's Hessian at the end of the step.
    """

    step: np.ndarray
    energy: float
    gradient: np.ndarray
    hessian: HessianModel


class HessianModel(Protocol):
    """An approximate Hessian H that gives steps and is corrected by what they find. Immutable."""

    def step(self, gradient: np.ndarray, radius: float, springs: Springs) -> Trial:
        """The step s with |s| <= radius that minimises the model."""

    def predict(self, gradient: np.ndarray, step: np.ndarray) -> Trial:
        """What the quadratic model predicts for a given step."""

    def product(self, vectors: np.ndarray) -> np.ndarray:
        """H times a vector (d,), or the columns of a matrix (d, m)."""

    def update(self, step: np.ndarray, gradient_error: np.ndarray) -> Self:
        """H corrected by a quasi-Newton update.

        Args:
            step: s, Å, (d,).
            gradient_error: Computed minus predicted gradient at the end of the step, (d,).
        """

    def refine(self, directions: np.ndarray, products: np.ndarray) -> Self:
        """H made exact along some directions.

        Args:
            directions: Any columns, (d, m).
            products: The exact Hessian times each, (d, m).
        """

    def softest(self, count: int) -> np.ndarray:
        """Orthonormal directions of lowest curvature, (d, count); all if d <= 3 count."""

    def expected_gain(self, gradient: np.ndarray, flat: float) -> float:
        """How far the minimum of the model lies below, g H^-1 g / 2, eV.

        Args:
            gradient: g, (d,).
            flat: Curvatures from minus this to this count as this, eV/Å².

        Returns:
            Infinity where the model has a curvature below `-flat`, and no minimum.
        """

    def inverse_root(self, rigid: np.ndarray) -> np.ndarray:
        """W = |H|^(-1/2) without some directions: columns (d, n), the lowest modes first.

        Args:
            rigid: The directions that are left out, orthonormal, (d, r).
        """


@dataclass(frozen=True, eq=False)
class DenseHessian:
    """A `HessianModel` that keeps the matrix.

    Attributes:
        matrix: H, symmetric, eV/Å², (d, d).
    """

    matrix: np.ndarray

    def step(self, gradient: np.ndarray, radius: float, springs: Springs) -> Trial:
        """The step s with |s| <= radius that minimises the model."""
        found = model_step(gradient, self.matrix, radius, springs)
        return Trial(found.step, found.energy, found.gradient, DenseHessian(found.hessian))

    def predict(self, gradient: np.ndarray, step: np.ndarray) -> Trial:
        """What the quadratic model predicts for a given step."""
        change = self.product(step)
        return Trial(step, float((gradient + 0.5 * change) @ step), change, self)

    def product(self, vectors: np.ndarray) -> np.ndarray:
        """H times a vector (d,), or the columns of a matrix (d, m)."""
        product: np.ndarray = self.matrix @ vectors
        return product

    def update(self, step: np.ndarray, gradient_error: np.ndarray) -> DenseHessian:
        """H corrected by a quasi-Newton update; see `updated_hessian`."""
        change = self.matrix @ step + gradient_error
        return DenseHessian(updated_hessian(self.matrix, step, change))

    def refine(self, directions: np.ndarray, products: np.ndarray) -> DenseHessian:
        """H made exact along some directions.

        With these directions made orthonormal, Q, and the exact Hessian H', it is
        H + E Q^T + Q E^T - Q (Q^T E) Q^T with E = (H' - H) Q.
        """
        q, sizes, rotation = svd(directions, full_matrices=False)
        kept = sizes > DEPENDENT * sizes.max(initial=0.0)
        q = q[:, kept]
        error = products @ (rotation[kept].T / sizes[kept]) - self.matrix @ q
        cross = error @ q.T
        return DenseHessian(self.matrix + cross + cross.T - q @ (q.T @ cross))

    def softest(self, count: int) -> np.ndarray:
        """Eigenvectors of lowest eigenvalues, (d, count); all if d <= 3 count."""
        directions = np.linalg.eigh(self.matrix)[1]
        return directions[:, :count] if len(directions) > 3 * count else directions

    def expected_gain(self, gradient: np.ndarray, flat: float) -> float:
        """How far the minimum of the model lies below, g H^-1 g / 2, eV; see `HessianModel`."""
        values, vectors = eigh(self.matrix)
        if values[0] < -flat:
            return np.inf
        return 0.5 * float(((vectors.T @ gradient) ** 2 / np.maximum(values, flat)).sum())

    def inverse_root(self, rigid: np.ndarray) -> np.ndarray:
        """W = |H|^(-1/2) without some directions; see `HessianModel`."""
        kept = np.eye(len(self.matrix)) - rigid @ rigid.T
        values, vectors = eigh(kept @ self.matrix @ kept)
        inner = np.linalg.norm(rigid.T @ vectors, axis=0) < 0.5
        sizes = np.abs(values[inner])
        floor = STIFFNESS_FLOOR * sizes.max(initial=0.0) + ZERO_CURVATURE
        root: np.ndarray = vectors[:, inner] / np.sqrt(np.maximum(sizes, floor))
        return root
