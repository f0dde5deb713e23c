"""The lowest eigenpairs of a symmetric operator H, by a block Davidson method with a model K.

Everything is written in the eigenvectors of K, so that K is diagonal and positive. The lowest Ritz
pairs (theta, u) of a growing subspace give residuals and, with them, new directions

    t = max(K - theta, K / 10)^-1 r,        r = H u - theta u,

until the errors are small. The subspace never shrinks: at worst it becomes the whole space.

The error of a Ritz value is of second order in its residual,

    theta - lambda = r^T (H' - theta)^-1 r < r^T max(f K - theta, gap)^-1 r,

with the Hessian H' outside of the subspace, the gap to the next separate Ritz value, and the lowest
eigenvalue f of K^-1 H. With f = 0 this is the bound of Kato and Temple. It is an estimate, mostly
several times too large, and ends the iteration.

Two safeguards keep a mode from being missed. Starting vectors have random parts, because a
symmetric K only generates modes of its own symmetry. And the lowest two eigenvalues of K^-1 H are
converged as well: H and K^-1 H have the same number of negative eigenvalues (Sylvester's law of
inertia), and the narrow spectrum of K^-1 H needs few products. This finds an unstable mode that K
calls stiff.

Source: Davidson, J. Comput. Phys. 1975, 17, 87; Morgan, Scott, SIAM J. Sci. Stat. Comput. 1986, 7,
817; the bound: Parlett, *The Symmetric Eigenvalue Problem* (1998), section 10.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor

from mace_functional.optimize.outcome import Ending, Outcome

GUARDS = 1
"""Number of starting vectors beyond the wanted modes and the random one."""

RANDOM_PART = 0.1
"""Random part of a starting vector along the softest mode of K, relative to the vector."""

FLOOR = 1e-6
"""Eigenvalue over the largest one, below which it counts as that large: where errors are relative,
and where K is inverted."""

CLUSTER = 1e-2
"""Relative difference of Ritz values below which they count as one."""

SOFTNESS_PROBES = 2
"""Number of the lowest eigenvalues of K^-1 H that are converged."""

FIRST_ROUNDS, FIRST_TOLERANCE, LATER_TOLERANCE = 5, 1e-6, 0.1
"""Relative error that these eigenvalues may have, in the first rounds and later. The first rounds
are strict, because a random vector has only a small part of a single direction in which K is
wrong."""

LEAST_SOFTNESS = 0.02
"""Least eigenvalue of K^-1 H that is counted with: K is taken to be at most fifty times too
stiff."""

DEPENDENT = 1e-7
"""Length of the part of a unit vector outside of the subspace, below which the vector is in it."""


class Eigenpairs(NamedTuple):
    """The lowest k eigenpairs that were found.

    Attributes:
        values: Ritz values, ascending, (k,).
        vectors: Ritz vectors as orthonormal columns, (n, k).
        errors: Estimates of how much too high the values are, (k,).
        residuals: Norms of H u - theta u, (k,).
        rounding: Error of the values from the rounding of products.
        ending: Why the iteration ended.
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
    """When the iteration ends.

    Attributes:
        tolerance: Error of the eigenvalues, relative to their size or to `FLOOR` times the largest.
        max_products: Most products.
        epsilon: Relative rounding of the products.
        until_negative: Whether a negative eigenvalue ends it.
    """

    tolerance: float
    max_products: int
    epsilon: float
    until_negative: bool = False


def lowest_eigenpairs(
    product: Callable[[Tensor], Tensor],
    stiffness: Tensor,
    start: Tensor,
    k: int,
    limits: Limits,
) -> Eigenpairs:
    """The lowest k eigenpairs of H.

    Args:
        product: H times the columns of a matrix (n, b), in the eigenvectors of K.
        stiffness: Eigenvalues of K, positive, (n,).
        start: Starting vectors, (n, b).
        k: Number of eigenpairs.
        limits: When the iteration ends.

    Returns:
        The pairs, and how good they are.
    """
    size = len(stiffness)
    space = _Subspace(product, stiffness)
    space.extend(start, limits.max_products)
    for rounds in count(1):
        values, vectors, residuals = space.ritz()
        softness, softness_errors, softer = space.softest()
        errors = space.errors(values, residuals, float(softness[0]))
        if space.size == size:
            errors, softness_errors = 0 * errors, 0 * softness_errors
        scale = values.abs().clamp(min=FLOOR * float(values.abs().max()))
        todo = errors[:k] > limits.tolerance * scale[:k]
        allowed = LATER_TOLERANCE if rounds > FIRST_ROUNDS else FIRST_TOLERANCE
        unsure = softness_errors > allowed * softness.abs().clamp(min=LEAST_SOFTNESS)
        negative = limits.until_negative and bool(values[0] < 0)
        unfinished = bool(todo.any() or unsure.any())
        if negative or not unfinished or space.size == limits.max_products:
            break
        theta, r = values[:k][todo], residuals[:, :k][:, todo]
        denominator = (stiffness[:, None] - theta).maximum(0.1 * stiffness[:, None])
        directions = torch.cat([r / denominator, softer[:, unsure]], dim=1)
        if not space.extend(directions, limits.max_products - space.size):
            break
    rounding = 4 * limits.epsilon * float(values.abs().max())
    found = Eigenpairs(
        values[:k],
        vectors[:, :k],
        errors[:k],
        residuals[:, :k].norm(dim=0),
        rounding,
        Ending(Outcome.CONVERGED),
        space.size,
    )
    if negative:
        return found._replace(ending=Ending(Outcome.NEGATIVE_EIGENVALUE))
    return found._replace(ending=_ending(found, todo, unfinished, limits, scale[:k], size))


def _ending(
    found: Eigenpairs, todo: Tensor, unfinished: bool, limits: Limits, scale: Tensor, size: int
) -> Ending:
    """Why the iteration ended, but for a negative eigenvalue."""
    after = f"after {found.n_products} products"
    if todo.any():
        detail = f"{int(todo.sum())} of {len(todo)} modes are not done {after}"
        return Ending(Outcome.MAX_STEPS, detail)
    if unfinished:
        return Ending(Outcome.MODES_MAY_BE_MISSING, after)
    if not (limits.tolerance * scale >= found.rounding).all():
        detail = f"rounding of products leaves errors of {found.rounding:.1e}, above the tolerance"
        return Ending(Outcome.NOISE_LIMIT, detail)
    whole = found.n_products == size
    return Ending(
        Outcome.CONVERGED,
        "all products were taken" if whole else "errors are within the tolerance",
    )


def starting_vectors(stiffness: Tensor, k: int, seed: int) -> Tensor:
    """The softest modes of K with random parts, after a random vector, (n, b).

    Args:
        stiffness: Eigenvalues of K, positive, ascending, (n,).
        k: Number of wanted modes.
        seed: Of the random parts.
    """
    size = len(stiffness)
    soft = min(k + GUARDS, size)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(size, soft + 1, dtype=torch.float64, generator=generator).to(stiffness)
    start = RANDOM_PART * noise[:, 1:] * (stiffness[:soft] / stiffness[:, None]).clamp(max=1)
    start.diagonal().add_(1)
    return torch.cat([start, noise[:, :1] / stiffness.sqrt()[:, None]], dim=1)


class _Subspace:
    """Rayleigh-Ritz in a growing orthonormal basis, where K is diagonal.

    Args:
        product: H times the columns of a matrix (n, b).
        stiffness: Eigenvalues of K, positive, (n,).
    """

    def __init__(self, product: Callable[[Tensor], Tensor], stiffness: Tensor) -> None:
        self._product, self._stiffness = product, stiffness
        self._basis = self._images = stiffness.new_empty(len(stiffness), 0)

    @property
    def size(self) -> int:
        """Dimension of the subspace, which is the number of products so far."""
        return self._basis.shape[1]

    def extend(self, vectors: Tensor, room: int) -> int:
        """Add to the subspace what vectors (n, b) have outside of it.

        Args:
            vectors: Columns, (n, b).
            room: Most new dimensions.

        Returns:
            The number of new dimensions.
        """
        fresh = self._outside(torch.nn.functional.normalize(vectors, dim=0))
        sizes = fresh.norm(dim=0)
        fresh = self._outside((fresh / sizes)[:, sizes > DEPENDENT])
        left, sizes, _ = torch.linalg.svd(fresh, full_matrices=False)
        fresh = self._outside(left[:, sizes > DEPENDENT][:, :room])
        if fresh.shape[1]:
            self._basis = torch.cat([self._basis, fresh], dim=1)
            self._images = torch.cat([self._images, self._product(fresh)], dim=1)
        return fresh.shape[1]

    def _outside(self, vectors: Tensor) -> Tensor:
        return vectors - self._basis @ (self._basis.mT @ vectors)

    def ritz(self) -> tuple[Tensor, Tensor, Tensor]:
        """Ritz values (m,) ascending, vectors (n, m) and residuals (n, m)."""
        values, rotation = torch.linalg.eigh(symmetric(self._basis.mT @ self._images))
        vectors = self._basis @ rotation
        return values, vectors, self._images @ rotation - vectors * values

    def softest(self) -> tuple[Tensor, Tensor, Tensor]:
        """The lowest eigenvalues mu of K^-1 H, their errors, and directions (n, 2) to add.

        The residual is `H y - mu K y` with y^T K y = 1. An eigenvalue lies within its norm, in
        K^-1, of mu.
        """
        model = symmetric(self._basis.mT @ (self._stiffness[:, None] * self._basis))
        factor = torch.linalg.inv(torch.linalg.cholesky(model))
        exact = symmetric(factor @ (self._basis.mT @ self._images) @ factor.mT)
        values, rotation = torch.linalg.eigh(exact)
        values, inner = values[:SOFTNESS_PROBES], factor.mT @ rotation[:, :SOFTNESS_PROBES]
        stiff = self._stiffness[:, None] * (self._basis @ inner)
        residuals = self._images @ inner - values * stiff
        directions = residuals / self._stiffness[:, None]
        return values, (residuals * directions).sum(0).sqrt(), directions

    def errors(self, values: Tensor, residuals: Tensor, softness: float) -> Tensor:
        """Estimates of how much too high the Ritz values are, (m,)."""
        softness = min(max(softness, LEAST_SOFTNESS), 1.0)
        scale = values.abs().clamp(min=FLOOR * float(values.abs().max()))
        above = values - values[:, None]
        gaps = torch.where(above > CLUSTER * scale[:, None], above, torch.inf).amin(1)
        gaps = torch.where(gaps.isfinite(), gaps, CLUSTER * scale)
        denominator = (softness * self._stiffness[:, None] - values).maximum(gaps)
        return (residuals**2 / denominator).sum(0)


def symmetric(matrix: Tensor) -> Tensor:
    """The symmetric part of a matrix."""
    return (matrix + matrix.mT) / 2
