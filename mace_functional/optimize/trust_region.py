"""Steps that minimise a model of the energy within a trust radius.

The model is quadratic (`quadratic_step`), or quadratic with springs in it (`model_step`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve, eigh, solve_triangular
from scipy.optimize import brentq

BOUNDARY = 1e-2
"""Relative error of the length of a step on the boundary."""

EPSILON = float(np.finfo(float).eps)

NEWTON_STEPS = 10
"""Largest number of Newton steps for the length of a step; after them, eigenvectors give it. Random
matrices with condition numbers from 1e2 to 1e16 need up to 4."""

INNER_STEPS = 8
INNER_TOLERANCE = 1e-3
"""Largest number of Newton steps to the minimum of a model with springs, and the relative change of
the step below which they end."""

Springs = Callable[[np.ndarray], tuple[float, np.ndarray, np.ndarray]]
"""Energy, gradient and Hessian of the part of the model that is not quadratic, at a step."""


class Step(NamedTuple):
    """A step, and what the model predicts for it.

    Attributes:
        step: s, (d,).
        energy: Predicted change of the energy.
        gradient: Predicted change of the gradient, (d,).
        hessian: Hessian of the model at the end of the step, (d, d).
        inside: Whether the step is a minimum of the model, and not limited by the radius.
    """

    step: np.ndarray
    energy: float
    gradient: np.ndarray
    hessian: np.ndarray
    inside: bool


def quadratic_step(
    gradient: np.ndarray, hessian: np.ndarray, radius: float
) -> tuple[np.ndarray, bool]:
    """Minimum of g s + s H s / 2 with |s| <= radius, and whether it lies inside.

    s = -(H + mu)^-1 g with the smallest mu >= 0 that makes the matrix positive semidefinite and
    the step short enough. Where the gradient has no part along the lowest eigenvector and the
    curvature is negative there, the step is filled up with that eigenvector. Everything is done in
    units of the radius and of the larger of |g| / radius and |H|, so that no scale is too large or
    too small. Curvatures within rounding of zero count as zero.

    Args:
        gradient: g, (d,).
        hessian: H, symmetric, (d, d).
        radius: Positive.

    Returns:
        The step, (d,), at most `BOUNDARY` longer than the radius, and whether it is a minimum
        of the model without a radius.

    Raises:
        ValueError: If the gradient, the Hessian or the radius is not finite.

    Source: Moré, Sorensen, SIAM J. Sci. Stat. Comput. 1983, 4, 553.
    """
    finite = np.isfinite(gradient).all() and np.isfinite(hessian).all()
    if not (finite and 0 < radius < np.inf):
        raise ValueError(
            "a step needs a gradient and a Hessian that are finite, and a positive radius: look "
            "for atoms on top of each other, or overflow in low precision"
        )
    slope = gradient / radius
    unit = max(np.abs(slope).max(initial=0.0), np.abs(hessian).max(initial=0.0))
    if unit == 0:
        return np.zeros_like(gradient), True
    slope, curvature = slope / unit, hessian / unit
    found = _step_by_cholesky(slope, curvature)
    step, inside = _step_by_eigenvectors(slope, curvature) if found is None else found
    return radius * step, inside


def _step_by_cholesky(gradient: np.ndarray, hessian: np.ndarray) -> tuple[np.ndarray, bool] | None:
    """The step of length at most one if the matrix is clearly positive definite; else None."""
    try:
        factor = cho_factor(hessian, lower=True, check_finite=False)
        step = -cho_solve(factor, gradient, check_finite=False)
        mu, length = 0.0, float(np.linalg.norm(step))
        if length <= 1:
            return step, True
        for _ in range(NEWTON_STEPS):
            # Newton's method on 1/|s| - 1, which is nearly linear in mu: it never overshoots.
            half = solve_triangular(factor[0], step, lower=True, check_finite=False)
            mu += float((length / np.linalg.norm(half)) ** 2) * (length - 1)
            factor = cho_factor(hessian + mu * np.eye(len(gradient)), lower=True)
            step = -cho_solve(factor, gradient)
            length = float(np.linalg.norm(step))
            if length <= 1 + BOUNDARY:
                return step, False
    except (LinAlgError, ValueError):  # not positive definite, or overflow of what nearly is not
        pass
    return None


def _step_by_eigenvectors(gradient: np.ndarray, hessian: np.ndarray) -> tuple[np.ndarray, bool]:
    """The step of length at most one for any symmetric matrix.

    In the eigenvectors v of H, with mu = sigma - lowest eigenvalue, s = -sum v (v g) / (h - lowest
    + sigma), whose length falls from infinity, mostly, to at most one at sigma = |g|.
    """
    values, vectors = eigh(hessian)
    parts, size = vectors.T @ gradient, float(np.linalg.norm(gradient))
    parts[np.abs(parts) <= EPSILON * size] = 0.0
    above = values - values[0]
    rounding = EPSILON * len(values) * float(np.abs(values).max())
    downwards = values[0] < -rounding
    least = float(values[0]) if values[0] > rounding else 0.0

    def step(sigma: float) -> np.ndarray:
        with np.errstate(divide="ignore", over="ignore"):
            return -np.divide(parts, above + sigma, out=np.zeros_like(parts), where=parts != 0)

    def excess(log_sigma: float) -> float:
        return float(np.log(np.linalg.norm(step(np.exp(log_sigma)))))

    shortest = step(least)
    length = float(np.linalg.norm(shortest))
    if length <= 1 and not downwards:
        return vectors @ shortest, True
    if length <= 1:
        shortest[0] += np.copysign(np.sqrt(1 - length**2), -parts[0])
        return vectors @ shortest, False
    high = low = np.log(size)
    while excess(low) <= 0:
        high, low = low, low - 7.0
    sigma = np.exp(low if low == high else brentq(excess, low, high, xtol=1e-9))
    found = vectors @ step(sigma)
    return found / max(1.0, float(np.linalg.norm(found))), False


def model_step(gradient: np.ndarray, hessian: np.ndarray, radius: float, springs: Springs) -> Step:
    """Minimum, within the radius, of a quadratic model in which a part is replaced by springs.

    m(s) = g s + s (H - V''(0)) s / 2 + V(s), by Newton's method with a step within the radius each
    time, halved where the model rises.

    Args:
        gradient: g, (d,).
        hessian: H, symmetric, (d, d).
        radius: Positive.
        springs: V, V' and V'' at a step; V and V' vanish at zero.
    """
    rest = hessian - springs(np.zeros_like(gradient))[2]
    best = Step(np.zeros_like(gradient), 0.0, np.zeros_like(gradient), hessian, True)
    for _ in range(INNER_STEPS):
        slope = gradient + best.gradient
        target, inside = quadratic_step(slope - best.hessian @ best.step, best.hessian, radius)
        fraction = 1.0
        while True:
            s = best.step + fraction * (target - best.step)
            v, dv, d2v = springs(s)
            h_s = rest @ s
            tried = Step(s, float(gradient @ s + 0.5 * h_s @ s) + v, h_s + dv, rest + d2v, inside)
            if tried.energy <= best.energy or fraction < INNER_TOLERANCE:
                break
            fraction *= 0.5
        change = np.linalg.norm(tried.step - best.step)
        if not tried.energy <= best.energy:  # it rises, or is not finite
            break
        best = tried
        if change < INNER_TOLERANCE * np.linalg.norm(best.step):
            break
    return best
