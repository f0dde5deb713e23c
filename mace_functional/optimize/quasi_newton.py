"""A quasi-Newton update of a Hessian, for surfaces that may curve downwards."""

from __future__ import annotations

import numpy as np


def updated_hessian(hessian: np.ndarray, step: np.ndarray, change: np.ndarray) -> np.ndarray:
    """The Hessian after a step s has changed the gradient by y, `H+ s = y`.

    It is the update of least change in a metric made of y and |H| s,

        H+ = H + u v^T + v u^T - (u^T s) v v^T,        u = y - H s,
        v = M / (M^T s),        M = (y^T s) y + (s^T |H| s) |H| s,

    It is as good as the update of Broyden, Fletcher, Goldfarb and Shanno where the surface curves
    upwards and, unlike that, it keeps negative curvature.

    Args:
        hessian: H, symmetric, (d, d).
        step: s, (d,).
        change: y, (d,).

    Returns:
        H+, symmetric, (d, d); H itself if the step is zero.

    Source: Bofill, Int. J. Quantum Chem. 2003, 94, 324; called TS-BFGS by Hermes, Sargsyan, Najm,
    Zador, J. Chem. Theory Comput. 2019, 15, 6536.
    """
    length = np.linalg.norm(step)
    if not length > 0:
        return hessian
    step, change = step / length, change / length
    u = change - hessian @ step
    positive = absolute(hessian, step)
    metric = (change @ step) * change + (step @ positive) * positive
    scale = metric @ step
    if not scale > 0:
        return hessian
    v = metric / scale
    cross = np.outer(u, v)
    return hessian + cross + cross.T - (u @ step) * np.outer(v, v)


def absolute(hessian: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """|H| v, with the absolute values of the eigenvalues."""
    try:
        np.linalg.cholesky(hessian)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(hessian)
        return vectors @ (np.abs(values) * (vectors.T @ vector))
    return hessian @ vector
