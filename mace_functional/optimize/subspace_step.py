"""Minimum of a quadratic model within a trust radius, in a growing subspace.

The step of `quadratic_step`, s = -(H + mu)^-1 g, is computed for a matrix H that is only known by
its products. In the subspace of the columns of V the model has the gradient V^T g and the Hessian
V^T H V; its minimum within the radius is exact. The preconditioned residual

    t = (P + mu)^-1 r,        r = (H + mu) s + g,

is the next column. For mu = 0 these are conjugate gradients. r^T t / 2 estimates how much lower the
minimum of the whole space is.

Source: Hager, SIAM J. Optim. 2001, 12, 188, doi:10.1137/S1052623499356071, with the directions of
Davidson's method.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from mace_functional.optimize.trust_region import quadratic_step

MAX_DIMENSION = 80
"""Largest dimension of the subspace; the minimum in it is taken then, which is a step downhill."""

ENERGY_TOLERANCE = 1e-3
"""Estimated error of the energy of the minimum, relative to its depth, at which the search ends."""

INDEPENDENT = 1e-8
"""Smallest component of a unit vector outside the subspace for which the vector is added."""

Solve = Callable[[np.ndarray, float], np.ndarray]
"""Function of vectors (d, m) or (d,) and mu that multiplies them with (P + mu)^-1."""


class HasProducts(Protocol):
    """A symmetric matrix that is known by its products."""

    def __matmul__(self, vectors: np.ndarray, /) -> np.ndarray:
        """Multiply the matrix with a vector (d,), or with columns (d, m)."""


class SubspaceStep(NamedTuple):
    """Minimum of a quadratic model in a subspace.

    Attributes:
        step: Step s, (d,).
        inside: True if the radius is no limit.
        slope: Gradient in the subspace of m directions, (m,).
        curvatures: Hessian in the subspace, (m, m).
    """

    step: np.ndarray
    inside: bool
    slope: np.ndarray
    curvatures: np.ndarray


def subspace_step(
    gradient: np.ndarray,
    hessian: HasProducts,
    radius: float,
    solve: Solve,
    start: Sequence[np.ndarray] = (),
) -> SubspaceStep:
    """Minimise g s + s H s / 2 with |s| <= radius.

    Args:
        gradient: Gradient g, (d,).
        hessian: Hessian H, (d, d).
        radius: Trust radius, positive.
        solve: Preconditioner, positive definite.
        start: First directions besides the preconditioned gradient, (d,) each.
    """
    space = np.empty((len(gradient), min(MAX_DIMENSION, len(gradient))), order="F")
    images = np.empty_like(space)
    size = 0
    best = SubspaceStep(np.zeros_like(gradient), True, np.empty(0), np.empty((0, 0)))
    new = [*start, solve(gradient, 0.0)]
    while new:
        first = size
        for direction in new:
            outside = _outside(direction, space[:, :size])
            if size < space.shape[1] and outside is not None:
                space[:, size] = outside
                size += 1
        if size == first:
            break
        images[:, first:size] = hessian @ space[:, first:size]
        v, h_v = space[:, :size], images[:, :size]
        projected = v.T @ h_v
        projected = (projected + projected.T) / 2
        slope = v.T @ gradient
        c, inside = quadratic_step(slope, projected, radius)
        s, h_s = v @ c, h_v @ c
        residual = h_s + gradient
        mu = 0.0 if inside else max(0.0, -float(s @ residual) / float(s @ s))
        residual += mu * s
        t = solve(residual, mu)
        best = SubspaceStep(s, inside, slope, projected)
        depth = -float(gradient @ s + 0.5 * s @ h_s)
        if 0.5 * float(residual @ t) <= ENERGY_TOLERANCE * depth:
            break
        new = [t]
    return best


def _outside(vector: np.ndarray, space: np.ndarray) -> np.ndarray | None:
    """Return the unit vector outside of a subspace; None if the vector lies inside."""
    length = float(np.linalg.norm(vector))
    if not 0 < length < np.inf:
        return None
    v = vector / length
    v = v - space @ (space.T @ v)
    length = float(np.linalg.norm(v))
    if length < INDEPENDENT:
        return None
    v = v / length
    v = v - space @ (space.T @ v)
    result: np.ndarray = v / np.linalg.norm(v)
    return result
