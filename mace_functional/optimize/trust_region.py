"""Steps that minimise a model of the energy within a trust radius.

The model is quadratic (`quadratic_step`), or quadratic with springs (`model_step`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve, eigh, solve_triangular
from scipy.optimize import brentq

BOUNDARY = 1e-2
"""Relative error of the length of a step that the trust radius limits."""

EPSILON = float(np.finfo(float).eps)
"""Machine precision of double precision."""

NEWTON_STEPS = 10
"""Largest number of Newton steps for the length of a step; then eigenvectors are used.

Random matrices with condition numbers from 1e2 to 1e16 need up to 4.
"""

INNER_STEPS = 8
"""Largest number of Newton steps to the minimum of a model with springs."""

INNER_TOLERANCE = 1e-3
"""Relative change of the step below which these Newton steps end."""

Springs = Callable[[np.ndarray], tuple[float, np.ndarray, Any]]
"""Function of a step that returns energy, gradient and Hessian of the part with springs."""


class Step(NamedTuple):
    """A step, with the predictions of the model.

    Attributes:
        step: Step s, (d,).
        energy: Predicted change of the energy.
        gradient: Predicted change of the gradient, (d,).
        hessian: Hessian of the model at the end of the step, (d, d).
        inside: True if the step leads to a minimum of the model, and is not limited by the radius.
    """

    step: np.ndarray
    energy: float
    gradient: np.ndarray
    hessian: Any
    inside: bool


def quadratic_step(
    gradient: np.ndarray, hessian: np.ndarray, radius: float
) -> tuple[np.ndarray, bool]:
    """Minimise g s + s H s / 2 with |s| <= radius; return s, and True if the radius is no limit.

    s = -(H + mu)^-1 g with the smallest mu >= 0 for which the matrix is positive semidefinite and
    the step is short enough. If the lowest curvature is negative and the gradient has no component
    along its eigenvector, this eigenvector is added to the step up to the radius. The calculation
    is in units of the radius, and of the larger of |g| / radius and |H|, to avoid overflow and
    underflow. Curvatures within rounding of zero count as zero.

    Args:
        gradient: Gradient g, (d,).
        hessian: Hessian H, symmetric, (d, d).
        radius: Trust radius, positive.

    Returns:
        The step, (d,), at most a relative `BOUNDARY` longer than the radius, and True if it leads
        to a minimum of the model without a radius.

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
    step_and_inside = _step_by_cholesky(slope, curvature)
    step, inside = (
        _step_by_eigenvectors(slope, curvature) if step_and_inside is None else step_and_inside
    )
    return radius * step, inside


def _step_by_cholesky(gradient: np.ndarray, hessian: np.ndarray) -> tuple[np.ndarray, bool] | None:
    """Return the step of length at most one; None if H is not clearly positive definite."""
    try:
        factor = cho_factor(hessian, lower=True, check_finite=False)
        step = -cho_solve(factor, gradient, check_finite=False)
        mu, length = 0.0, float(np.linalg.norm(step))
        if length <= 1:
            return step, True
        for _ in range(NEWTON_STEPS):
            # Newton's method for 1/|s| = 1, which is nearly linear in mu, never overshoots.
            solved = solve_triangular(factor[0], step, lower=True, check_finite=False)
            mu += float((length / np.linalg.norm(solved)) ** 2) * (length - 1)
            factor = cho_factor(hessian + mu * np.eye(len(gradient)), lower=True)
            step = -cho_solve(factor, gradient)
            length = float(np.linalg.norm(step))
            if length <= 1 + BOUNDARY:
                return step, False
    except (LinAlgError, ValueError):  # not positive definite, or nearly so with overflow
        pass
    return None


def _step_by_eigenvectors(gradient: np.ndarray, hessian: np.ndarray) -> tuple[np.ndarray, bool]:
    """Compute the step of length at most one for any symmetric matrix.

    In the eigenvectors v of H with eigenvalues h, and with mu = sigma - h_0, the step is
    s = -sum v (v g) / (h - h_0 + sigma). Its length decreases with sigma, to at most one at
    sigma = |g|.
    """
    h, v = eigh(hessian)
    v_g, norm_g = v.T @ gradient, float(np.linalg.norm(gradient))
    v_g[np.abs(v_g) <= EPSILON * norm_g] = 0.0
    h_minus_h0 = h - h[0]
    rounding = EPSILON * len(h) * float(np.abs(h).max())
    is_negative = h[0] < -rounding
    min_sigma = float(h[0]) if h[0] > rounding else 0.0

    def step(sigma: float) -> np.ndarray:
        with np.errstate(divide="ignore", over="ignore"):
            return -np.divide(v_g, h_minus_h0 + sigma, out=np.zeros_like(v_g), where=v_g != 0)

    def log_length(log_sigma: float) -> float:
        return float(np.log(np.linalg.norm(step(np.exp(log_sigma)))))

    s = step(min_sigma)
    length = float(np.linalg.norm(s))
    if length <= 1 and not is_negative:
        return v @ s, True
    if length <= 1:
        s[0] += np.copysign(np.sqrt(1 - length**2), -v_g[0])
        return v @ s, False
    high = low = np.log(norm_g)
    while log_length(low) <= 0:
        high, low = low, low - 7.0
    sigma = np.exp(low if low == high else brentq(log_length, low, high, xtol=1e-9))
    s = v @ step(sigma)
    return s / max(1.0, float(np.linalg.norm(s))), False


def model_step(
    gradient: np.ndarray,
    hessian: Any,
    radius: float,
    springs: Springs,
    minimised: Callable[[np.ndarray, Any, float], tuple[np.ndarray, bool]] = quadratic_step,
    tolerance: float = INNER_TOLERANCE,
) -> Step:
    """Minimise a quadratic model with springs within the radius.

    The model is m(s) = g s + s (H - V''(0)) s / 2 + V(s). Newton's method makes steps within the
    radius, which are halved if the model rises.

    Args:
        gradient: Gradient g, (d,).
        hessian: Hessian H, symmetric, (d, d): an array, or a class with +, - and products.
        radius: Trust radius, positive.
        springs: Function that returns V, V' and V'' at a step; V and V' are zero at zero.
        minimised: Function of a gradient, a Hessian and a radius that minimises the quadratic
            model, as `quadratic_step`.
        tolerance: Relative change of the step below which the search ends.
    """
    h_without_springs = hessian - springs(np.zeros_like(gradient))[2]
    best = Step(np.zeros_like(gradient), 0.0, np.zeros_like(gradient), hessian, True)
    for _ in range(INNER_STEPS):
        slope = gradient + best.gradient
        target, inside = minimised(slope - best.hessian @ best.step, best.hessian, radius)
        fraction = 1.0
        while True:
            s = best.step + fraction * (target - best.step)
            v, dv, d2v = springs(s)
            h_s = h_without_springs @ s
            trial = Step(
                s,
                float(gradient @ s + 0.5 * h_s @ s) + v,
                h_s + dv,
                h_without_springs + d2v,
                inside,
            )
            if trial.energy <= best.energy or fraction < tolerance:
                break
            fraction *= 0.5
        change = np.linalg.norm(trial.step - best.step)
        if not trial.energy <= best.energy:  # the model rises, or is not finite
            break
        best = trial
        if change < tolerance * np.linalg.norm(best.step):
            break
    return best
