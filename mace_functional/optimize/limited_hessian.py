"""Local model of the energy for an optimiser of large cells, without a dense matrix.

The Hessian is a sparse matrix and a sum of few-column updates,

    H = S + tau T T^T + sum_k U_k M_k U_k^T.

S is the Hessian of a valence force field with springs. T are translations, which gradients do not
contain; their stiffness keeps H from being singular. Each quasi-Newton update (`quasi_newton`) has
two columns, and each set of m exact products 2m. When there are too many columns, the oldest update
is dropped. Memory and time of an operation are proportional to the number of atoms.

Steps are computed in a subspace (`subspace_step`), and no atom moves far in one step
(`atom_limit`). The preconditioner is the first S with pairs of
short range only, factorised.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.linalg import block_diag, svd
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator, cg, lobpcg

from mace_functional.optimize.atom_limit import AtomLimit
from mace_functional.optimize.dense_hessian import MIN_SINGULAR_VALUE, Trial
from mace_functional.optimize.quasi_newton import update_vectors
from mace_functional.optimize.sparse_factors import SparseFactors
from mace_functional.optimize.subspace_step import subspace_step
from mace_functional.optimize.trust_region import Springs, model_step

MAX_LIMITED = 4
"""Largest number of steps that are computed until no step of an atom is too long."""

MAX_COLUMNS = 400
"""Largest number of columns of all updates together, 8 bytes for each coordinate and column."""

INNER_TOLERANCE = 0.03
"""Relative change of the step below which the search for the minimum with springs ends.

It is about the error of a step whose energy has the error of `subspace_step`.
"""

TRANSLATION_STIFFNESS = 10.0
"""Stiffness tau of translations, eV/Å², that of a stiff mode."""

SOFTEST_ITERATIONS = 20
"""Number of iterations of the search for the softest directions of the model."""

WIDE_RADIUS = 1e3
"""Trust radius that is no limit, Å."""

INVERSE_TOLERANCE = 1e-6
"""Relative residual of products with the inverse of the model."""

INVERSE_ITERATIONS = 300
"""Largest number of iterations for a product with the inverse."""


class Update(NamedTuple):
    """Low-rank update U M U^T of a Hessian.

    Attributes:
        columns: U, (d, r).
        core: M, symmetric, (r, r).
    """

    columns: np.ndarray
    core: np.ndarray


@dataclass(frozen=True, eq=False)
class LimitedHessian:
    """Approximate Hessian of many coordinates; a `HessianModel`.

    Attributes:
        sparse: Sparse part S, symmetric, eV/Å², (d, d).
        groups: Number of the atom that each coordinate moves, (d,); -1 for strains.
        translations: Translations T that are not excluded from the coordinates, orthonormal,
            (d, t).
        factors: Preconditioner.
        updates: Updates, the oldest first.
        soft: Direction of low curvature with which the search for a step begins, (d,).
    """

    sparse: csr_array
    groups: np.ndarray
    translations: np.ndarray
    factors: SparseFactors
    updates: tuple[Update, ...] = ()
    soft: np.ndarray | None = None

    def step(self, gradient: np.ndarray, radius: float, springs: Springs) -> Trial:
        """Compute the step s with |s| <= radius that minimises the model, with a limit per atom."""
        directions = self._first_directions
        limit = AtomLimit(self.groups, self.sparse.diagonal())
        for _ in range(MAX_LIMITED):
            limited = self + limit.matrix()
            found = subspace_step(gradient, limited, radius, self.factors.solve, directions)
            directions = [*self._first_directions, found.step]
            if not limit.adjusted(found.step):
                break
        stiffness = limit.matrix()

        def with_limit(step: np.ndarray) -> tuple[float, np.ndarray, csr_array]:
            energy, slope, curvature = springs(step)
            pull = stiffness @ step
            return energy + 0.5 * float(step @ pull), slope + pull, curvature + stiffness

        def minimised(
            slope: np.ndarray, hessian: LimitedHessian, limit: float
        ) -> tuple[np.ndarray, bool]:
            near = subspace_step(slope, hessian, limit, self.factors.solve, directions)
            directions[-1] = near.step
            return near.step, near.inside

        minimum = model_step(
            gradient, self + stiffness, radius, with_limit, minimised, INNER_TOLERANCE
        )
        pull = stiffness @ minimum.step
        return Trial(
            minimum.step,
            minimum.energy - 0.5 * float(minimum.step @ pull),
            minimum.gradient - pull,
            minimum.hessian - stiffness,
        )

    def predict(self, gradient: np.ndarray, step: np.ndarray) -> Trial:
        """Compute the predictions of the quadratic model for a given step."""
        h_s = self @ step
        return Trial(step, float((gradient + 0.5 * h_s) @ step), h_s, self)

    def product(self, vectors: np.ndarray) -> np.ndarray:
        """Compute H times a vector (d,), or times the columns of a matrix (d, m)."""
        low_rank = self.columns @ (self.core @ (self.columns.T @ vectors))
        product: np.ndarray = self.sparse @ vectors + low_rank
        return product

    def __matmul__(self, vectors: np.ndarray) -> np.ndarray:
        """Compute H times a vector (d,), or times the columns of a matrix (d, m)."""
        return self.product(vectors)

    def __add__(self, matrix: csr_array) -> LimitedHessian:
        """Add a matrix to the sparse part."""
        return replace(self, sparse=self.sparse + matrix)

    def __sub__(self, matrix: csr_array) -> LimitedHessian:
        """Subtract a matrix from the sparse part."""
        return replace(self, sparse=self.sparse - matrix)

    def update(self, step: np.ndarray, gradient_error: np.ndarray) -> LimitedHessian:
        """Return H after a quasi-Newton update; see `quasi_newton`, with H s in place of |H| s."""
        change = self @ step + gradient_error
        model = self._with_room_for(2)
        h_s = model @ step
        vectors = update_vectors(step, change, h_s, h_s)
        if vectors is None:
            return self
        u, v, u_s = vectors
        update = Update(np.column_stack([u, v]), np.array([[0.0, 1.0], [1.0, -u_s]]))
        return replace(model, updates=(*model.updates, update))

    def refine(self, directions: np.ndarray, products: np.ndarray) -> LimitedHessian:
        """Return H with exact products along some directions; see `DenseHessian.refine`."""
        q, singular_values, rotation = svd(directions, full_matrices=False)
        kept = singular_values > MIN_SINGULAR_VALUE * singular_values.max(initial=0.0)
        q = q[:, kept]
        images = products @ (rotation[kept].T / singular_values[kept])
        model = self._with_room_for(2 * q.shape[1])
        e = images - model @ q
        eye = np.eye(q.shape[1])
        core = np.block([[np.zeros_like(eye), eye], [eye, -(q.T @ e + e.T @ q) / 2]])
        lowest = np.linalg.eigh(q.T @ images)[1][:, 0]
        update = Update(np.column_stack([e, q]), core)
        return replace(model, updates=(*model.updates, update), soft=q @ lowest)

    def softest(self, count: int) -> np.ndarray:
        """Return orthonormal directions of low curvature, (d, count); all if d <= 3 count."""
        d = len(self.translations)
        if d <= 3 * count:
            return np.eye(d)
        start = self.factors.solve(np.random.default_rng(0).standard_normal((d, count)))
        with warnings.catch_warnings():  # approximate directions do
            warnings.simplefilter("ignore", UserWarning)
            directions: np.ndarray = lobpcg(
                self.product,
                np.linalg.qr(start)[0],
                M=self.factors.solve,
                tol=1e-3,
                maxiter=SOFTEST_ITERATIONS,
                largest=False,
            )[1]
        return np.linalg.qr(directions)[0]

    def expected_gain(self, gradient: np.ndarray, flat: float) -> float:
        """Return the energy gain to the minimum, g H^-1 g / 2, eV; see `HessianModel`."""
        found = subspace_step(
            gradient, self, WIDE_RADIUS, self.factors.solve, self._first_directions
        )
        values, vectors = np.linalg.eigh(found.curvatures)
        if values.min(initial=0.0) < -flat:
            return np.inf
        slopes = vectors.T @ found.slope
        return 0.5 * float((slopes**2 / np.maximum(values, flat)).sum())

    def inverse(self, rigid: np.ndarray, flat: float) -> Callable[[np.ndarray], np.ndarray]:
        """Return the function r -> |H|^-1 r without some directions; see `HessianModel`."""

        def outside(vector: np.ndarray) -> np.ndarray:
            projected: np.ndarray = vector - rigid @ (rigid.T @ vector)
            return projected

        d = len(self.translations)
        positive = LinearOperator(
            (d, d), matvec=lambda v: outside(self @ outside(v)) + 2 * flat * v, dtype=float
        )
        preconditioner = LinearOperator((d, d), matvec=self.factors.solve, dtype=float)

        def solve(vector: np.ndarray) -> np.ndarray:
            solution = cg(
                positive,
                outside(vector),
                rtol=INVERSE_TOLERANCE,
                maxiter=INVERSE_ITERATIONS,
                M=preconditioner,
            )[0]
            return outside(solution)

        return solve

    def _with_room_for(self, count: int) -> LimitedHessian:
        """Return H without the oldest updates, where more columns would be too many."""
        updates = self.updates
        while updates and count + sum(u.columns.shape[1] for u in updates) > MAX_COLUMNS:
            updates = updates[1:]
        return replace(self, updates=updates)

    @property
    def _first_directions(self) -> list[np.ndarray]:
        """Directions with which the search for a step begins."""
        return [] if self.soft is None else [self.soft]

    @cached_property
    def columns(self) -> np.ndarray:
        """Translations, and columns of all updates, (d, r)."""
        return np.column_stack([self.translations, *[u.columns for u in self.updates]])

    @cached_property
    def core(self) -> np.ndarray:
        """Matrix (r, r) between `columns`: stiffness of translations, and cores of all updates."""
        stiffness = TRANSLATION_STIFFNESS * np.eye(self.translations.shape[1])
        core: np.ndarray = block_diag(stiffness, *[u.core for u in self.updates])
        return core
