"""Steps within a trust radius: exactly for a quadratic model, and for one with springs in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve, eigh, solve_triangular
from scipy.optimize import brentq

BOUNDARY = 1e-2
"""How well a step on the boundary has the length of the radius."""

INNER_STEPS = 8
INNER_TOLERANCE = 1e-3
"""Steps towards the minimum of the model with springs, and the change of a step that ends them."""

Springs = Callable[[np.ndarray], tuple[float, np.ndarray, np.ndarray]]
"""Energy, gradient and Hessian of the part of the model that is not quadratic, at a step."""


class Step(NamedTuple):
    """A step, and what the model expects of it.

    Attributes:
        step: (d,).
        energy: Change of the energy.
        gradient: Change of the gradient, (d,).
        hessian: At the end of the step, (d, d).
        inside: Whether the step is that of a model that curves upwards, not cut short.
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

    s = -(H + mu)^-1 g with the smallest mu >= 0 that makes the matrix positive definite and the
    step short enough.

    Args:
        gradient: g, (d,).
        hessian: H, symmetric, (d, d).
        radius: Positive.

    Source: Moré, Sorensen, SIAM J. Sci. Stat. Comput. 1983, 4, 553.
    """
    try:
        factor = cho_factor(hessian, lower=True)
    except LinAlgError:
        return _step_where_indefinite(gradient, hessian, radius), False
    step = -cho_solve(factor, gradient)
    mu, length = 0.0, float(np.linalg.norm(step))
    if length <= radius:
        return step, True
    while length > (1 + BOUNDARY) * radius:
        # Newton's method on 1/|s| - 1/radius, which is nearly linear in mu: it never overshoots.
        half = solve_triangular(factor[0], step, lower=True)
        mu += float((length / np.linalg.norm(half)) ** 2) * (length - radius) / radius
        factor = cho_factor(hessian + mu * np.eye(len(gradient)), lower=True)
        step = -cho_solve(factor, gradient)
        length = float(np.linalg.norm(step))
    return step, False


def _step_where_indefinite(gradient: np.ndarray, hessian: np.ndarray, radius: float) -> np.ndarray:
    """The step to the boundary where the matrix is not positive definite.

    Where the gradient has next to no part along the lowest eigenvector, the step is filled up with
    that eigenvector.
    """
    values, vectors = eigh(hessian)
    parts = vectors.T @ gradient
    above = values - values[0]
    scale = max(float(np.abs(values).max()), 1e-300)

    def length(mu: float) -> float:
        return float(np.linalg.norm(parts / (above + mu)))

    low = 1e-12 * scale
    if length(low) <= radius:
        step = -vectors @ (parts / (above + low))
        rest = radius**2 - float(step @ step)
        along = vectors[:, 0] * (-1.0 if parts[0] > 0 else 1.0)
        return step + along * np.sqrt(rest)
    high = low + float(np.linalg.norm(parts)) / radius
    mu = brentq(lambda m: 1 / radius - 1 / length(m), low, high, rtol=1e-6)
    return -vectors @ (parts / (above + mu))


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
    here = Step(np.zeros_like(gradient), 0.0, np.zeros_like(gradient), hessian, True)
    for _ in range(INNER_STEPS):
        slope = gradient + here.gradient
        target, inside = quadratic_step(slope - here.hessian @ here.step, here.hessian, radius)
        fraction = 1.0
        while True:
            step = here.step + fraction * (target - here.step)
            energy, force, curvature = springs(step)
            bent = rest @ step
            there = Step(
                step,
                float(gradient @ step + 0.5 * bent @ step) + energy,
                bent + force,
                rest + curvature,
                inside,
            )
            if there.energy <= here.energy or fraction < INNER_TOLERANCE:
                break
            fraction *= 0.5
        moved = np.linalg.norm(there.step - here.step)
        if there.energy > here.energy:
            break
        here = there
        if moved < INNER_TOLERANCE * np.linalg.norm(here.step):
            break
    return here
