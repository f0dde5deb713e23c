"""Block Davidson method for the lowest eigenpairs of a symmetric operator H, with a model K.

All vectors are expressed in the coordinates of a frame (`SearchFrame`), which knows K: those along
the eigenvectors of K (`modal_frame`) or, in large cells, those of the atoms (`sparse_frame`). The
lowest Ritz pairs (theta, u) of a growing subspace give residuals r, and from these new directions

    t = max(K - theta, K / 10)^-1 r,        r = H u - theta u,

until the errors are small. The subspace is never reduced; at worst it becomes the whole space.

The error of a Ritz value is of second order in its residual,

    theta - lambda = r^T (H' - theta)^-1 r < r^T max(f K - theta, gap)^-1 r,

with the Hessian H' outside of the subspace, the gap to the next separate Ritz value, and the lowest
eigenvalue f of K^-1 H. With f = 0 this is the bound of Kato and Temple. The right-hand side is an
estimate, usually several times too large. The iteration ends when it is small.

Two safeguards prevent that a mode is missed. Starting vectors have random parts, because a
symmetric K only generates modes of its own symmetry. And the lowest two eigenvalues of K^-1 H are
converged as well: H and K^-1 H have the same number of negative eigenvalues (Sylvester's law of
inertia), and the narrow spectrum of K^-1 H needs few products. This finds an unstable mode that K
takes to be stiff.

Source: Davidson, J. Comput. Phys. 1975, 17, 87; Morgan, Scott, SIAM J. Sci. Stat. Comput. 1986, 7,
817; the bound: Parlett, *The Symmetric Eigenvalue Problem* (1998), section 10.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mace_functional.optimize.outcome import Ending, Outcome

FLOOR = 1e-6
"""Smallest eigenvalue, relative to the largest, in relative errors and in the inverse of K.

Smaller eigenvalues are replaced by this value.
"""

CLUSTER = 1e-2
"""Relative difference of Ritz values below which they count as degenerate."""

SOFTNESS_PROBES = 2
"""Number of the lowest eigenvalues of K^-1 H that are converged."""

FIRST_ROUNDS = 5
"""Number of rounds with `FIRST_TOLERANCE`."""

FIRST_TOLERANCE = 1e-6
"""Largest relative error of the eigenvalues of K^-1 H in the first rounds.

It is small because a random vector has only a small component along a direction in which K is
wrong.
"""

LATER_TOLERANCE = 0.1
"""Largest relative error of the eigenvalues of K^-1 H after the first rounds."""

MIN_SOFTNESS = 0.02
"""Smallest eigenvalue f of K^-1 H in error estimates: K is assumed at most 50 times too stiff."""

MIN_NEW_COMPONENT = 1e-7
"""Smallest component of a unit vector outside of the subspace for which the vector is added."""


class SearchFrame(Protocol):
    """Coordinates of motions without rigid ones, (d,), and the model K of the Hessian in them."""

    @property
    def n_modes(self) -> int:
        """Number n of motions, at most d."""

    def start(self, k: int, seed: int) -> Tensor:
        """Return the softest modes of K with random parts, and random vectors, (d, b).

        Args:
            k: Number of wanted modes.
            seed: Seed of the random parts.
        """

    def displacements(self, vectors: Tensor) -> Tensor:
        """Return the mass-weighted Cartesian displacements (3N, b) of columns (d, b)."""

    def components(self, displacements: Tensor) -> Tensor:
        """Return the columns (d, b) of displacements (3N, b), without rigid motions."""

    def stiffen(self, vectors: Tensor) -> Tensor:
        """Multiply columns (d, b) by K."""

    def soften(self, vectors: Tensor) -> Tensor:
        """Multiply columns (d, b) by K^-1."""

    def corrections(self, residuals: Tensor, theta: Tensor) -> Tensor:
        """Return about max(K - theta, K / 10)^-1 r for residuals (d, b) of Ritz values (b,)."""

    def errors(self, residuals: Tensor, theta: Tensor, gaps: Tensor, f: float) -> Tensor:
        """Return about r^T max(f K - theta, gap)^-1 r, at least this, (b,).

        Args:
            residuals: Residuals r, (d, b).
            theta: Ritz values, (b,).
            gaps: Distances to the next separate Ritz values, (b,).
            f: Lowest eigenvalue of K^-1 H.
        """


class Eigenpairs(NamedTuple):
    """Lowest k eigenpairs of an operator, with estimates of their errors.

    Attributes:
        values: Ritz values, ascending, (k,).
        vectors: Ritz vectors as orthonormal columns, (d, k).
        errors: Estimates of how much the values exceed the exact eigenvalues, (k,).
        residuals: Norms of H u - theta u, (k,).
        rounding: Error of the values from the rounding of products.
        ending: Reason why the iteration ended.
        n_products: Number of products.
    """

    values: Tensor
    vectors: Tensor
    errors: Tensor
    residuals: Tensor
    rounding: float
    ending: Ending
    n_products: int


class Limits(NamedTuple):
    """Criteria that end the iteration.

    Attributes:
        tolerance: Error of the eigenvalues, relative to their size or to `FLOOR` times the largest.
        max_products: Largest number of products.
        epsilon: Relative rounding of the products.
        until_negative: True to end with the first negative eigenvalue.
    """

    tolerance: float
    max_products: int
    epsilon: float
    until_negative: bool = False


def lowest_eigenpairs(
    product: Callable[[Tensor], Tensor],
    frame: SearchFrame,
    start: Tensor,
    k: int,
    limits: Limits,
) -> Eigenpairs:
    """Compute the lowest k eigenpairs of H.

    Args:
        product: Function that multiplies H with the columns of a matrix (d, b).
        frame: Coordinates, and the model K.
        start: Starting vectors, (d, b).
        k: Number of eigenpairs.
        limits: Criteria that end the iteration.

    Returns:
        The eigenpairs, with estimates of their errors.
    """
    n = frame.n_modes
    space = _Subspace(product, frame, len(start))
    space.extend(start, limits.max_products)
    for rounds in count(1):
        values, vectors, residuals = space.ritz(k)
        softness, softness_errors, soft_directions = space.softest()
        errors = space.errors(values, residuals, float(softness[0]))
        if space.size == n:
            errors, softness_errors = 0 * errors, 0 * softness_errors
        scale = values.abs().clamp(min=FLOOR * float(values.abs().max()))
        not_converged = errors > limits.tolerance * scale[:k]
        softness_tolerance = LATER_TOLERANCE if rounds > FIRST_ROUNDS else FIRST_TOLERANCE
        soft_not_converged = softness_errors > softness_tolerance * softness.abs().clamp(
            min=MIN_SOFTNESS
        )
        negative = limits.until_negative and bool(values[0] < 0)
        unfinished = bool(not_converged.any() or soft_not_converged.any())
        if negative or not unfinished or space.size == limits.max_products:
            break
        corrections = frame.corrections(residuals[:, not_converged], values[:k][not_converged])
        directions = torch.cat([corrections, soft_directions[:, soft_not_converged]], dim=1)
        if not space.extend(directions, limits.max_products - space.size):
            break
    rounding = 4 * limits.epsilon * float(values.abs().max())
    pairs = Eigenpairs(
        values[:k],
        vectors,
        errors,
        residuals.norm(dim=0),
        rounding,
        Ending(Outcome.CONVERGED),
        space.size,
    )
    if negative:
        return pairs._replace(ending=Ending(Outcome.NEGATIVE_EIGENVALUE))
    return pairs._replace(ending=_ending(pairs, not_converged, unfinished, limits, scale[:k], n))


def _ending(
    pairs: Eigenpairs,
    not_converged: Tensor,
    unfinished: bool,
    limits: Limits,
    scale: Tensor,
    n: int,
) -> Ending:
    """Return the reason why the iteration ended, except for a negative eigenvalue."""
    after = f"after {pairs.n_products} products"
    if not_converged.any():
        detail = (
            f"{int(not_converged.sum())} of {len(not_converged)} modes are not converged {after}"
        )
        return Ending(Outcome.MAX_STEPS, detail)
    if unfinished:
        return Ending(Outcome.MODES_MAY_BE_MISSING, after)
    if not (limits.tolerance * scale >= pairs.rounding).all():
        detail = f"rounding of products leaves errors of {pairs.rounding:.1e}, above the tolerance"
        return Ending(Outcome.NOISE_LIMIT, detail)
    is_complete = pairs.n_products == n
    return Ending(
        Outcome.CONVERGED,
        "the subspace is complete" if is_complete else "errors are within the tolerance",
    )


class _Subspace:
    """Rayleigh-Ritz method in a growing orthonormal basis.

    Args:
        product: Function that multiplies H with the columns of a matrix (d, b).
        frame: Coordinates, and the model K.
        length: Number d of coordinates.
    """

    def __init__(
        self, product: Callable[[Tensor], Tensor], frame: SearchFrame, length: int
    ) -> None:
        self._product, self._frame, self._length = product, frame, length
        self._basis = self._images = self._model_images = torch.empty(length, 0)

    @property
    def size(self) -> int:
        """Dimension of the subspace, which equals the number of products so far."""
        return self._basis.shape[1]

    def extend(self, vectors: Tensor, max_new: int) -> int:
        """Add the components of vectors outside of the subspace to its basis.

        Args:
            vectors: Columns, (d, b).
            max_new: Largest number of new dimensions.

        Returns:
            The number of new dimensions.
        """
        new = self._outside(torch.nn.functional.normalize(vectors, dim=0))
        sizes = new.norm(dim=0)
        new = self._outside((new / sizes)[:, sizes > MIN_NEW_COMPONENT])
        left, sizes, _ = torch.linalg.svd(new, full_matrices=False)
        new = self._outside(left[:, sizes > MIN_NEW_COMPONENT][:, :max_new])
        if new.shape[1]:
            images, model_images = self._product(new), self._frame.stiffen(new)
            self._basis = torch.cat([self._basis.to(new), new], dim=1)
            self._images = torch.cat([self._images.to(new), images], dim=1)
            self._model_images = torch.cat([self._model_images.to(new), model_images], dim=1)
        return new.shape[1]

    def _outside(self, vectors: Tensor) -> Tensor:
        """Return the components of vectors outside of the subspace."""
        basis = self._basis.to(vectors)
        return vectors - basis @ (basis.mT @ vectors)

    def ritz(self, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return all Ritz values (m,), ascending, and vectors and residuals of the first (d, k)."""
        values, rotation = torch.linalg.eigh(symmetric(self._basis.mT @ self._images))
        lowest = rotation[:, :k]
        vectors = self._basis @ lowest
        return values, vectors, self._images @ lowest - vectors * values[:k]

    def softest(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the lowest eigenvalues mu of K^-1 H, their errors, and new directions (d, 2).

        The residual is `H y - mu K y` with y^T K y = 1. There is an eigenvalue within its K^-1 norm
        of mu.
        """
        k = symmetric(self._basis.mT @ self._model_images)
        inverse_root = torch.linalg.inv(torch.linalg.cholesky(k))
        k_inverse_h = symmetric(inverse_root @ (self._basis.mT @ self._images) @ inverse_root.mT)
        values, rotation = torch.linalg.eigh(k_inverse_h)
        values, y = values[:SOFTNESS_PROBES], inverse_root.mT @ rotation[:, :SOFTNESS_PROBES]
        residuals = self._images @ y - values * (self._model_images @ y)
        directions = self._frame.soften(residuals)
        return values, (residuals * directions).sum(0).clamp(min=0).sqrt(), directions

    def errors(self, values: Tensor, residuals: Tensor, f: float) -> Tensor:
        """Estimate how much the first Ritz values (k,) exceed the exact eigenvalues, (k,).

        Args:
            values: All Ritz values, (m,).
            residuals: Residuals of the first, (d, k).
            f: Lowest eigenvalue of K^-1 H.
        """
        f, k = min(max(f, MIN_SOFTNESS), 1.0), residuals.shape[1]
        scale = values.abs().clamp(min=FLOOR * float(values.abs().max()))[:k]
        differences = values - values[:k, None]
        gaps = torch.where(differences > CLUSTER * scale[:, None], differences, torch.inf).amin(1)
        gaps = torch.where(gaps.isfinite(), gaps, CLUSTER * scale)
        return self._frame.errors(residuals, values[:k], gaps, f)


def symmetric(matrix: Tensor) -> Tensor:
    """Return the symmetric part of a matrix."""
    return (matrix + matrix.mT) / 2
