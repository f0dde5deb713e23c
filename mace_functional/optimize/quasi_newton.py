"""Quasi-Newton update of a Hessian, for surfaces with negative curvature."""

from __future__ import annotations

import numpy as np


def updated_hessian(hessian: np.ndarray, step: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Return the Hessian after a step s has changed the gradient by y, with `H+ s = y`.

    The update is the smallest change of H in a metric made of y and |H| s,

        H+ = H + u v^T + v u^T - (u^T s) v v^T,        u = y - H s,
        v = M / (M^T s),        M = (y^T s) y + (s^T |H| s) |H| s.

    For positive curvature it is as good as the update of Broyden, Fletcher, Goldfarb and Shanno.
    Unlike that, it preserves negative curvature.

    Args:
        hessian: Hessian H, symmetric, (d, d).
        step: Step s, (d,).
        change: Change of the gradient y, (d,).

    Returns:
        Hessian H+, symmetric, (d, d); H itself if the step is zero.

    Source: Bofill, Int. J. Quantum Chem. 2003, 94, 324; called TS-BFGS by Hermes, Sargsyan, Najm,
    Zador, J. Chem. Theory Comput. 2019, 15, 6536.
    """
    vectors = update_vectors(step, change, hessian @ step, absolute(hessian, step))
    if vectors is None:
        return hessian
    u, v, u_s = vectors
    u_vt = np.outer(u, v)
    return hessian + u_vt + u_vt.T - u_s * np.outer(v, v)


def update_vectors(
    step: np.ndarray, change: np.ndarray, h_s: np.ndarray, abs_h_s: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Return u, v and u^T s of `updated_hessian`, for the step scaled to length 1.

    Args:
        step: Step s, (d,).
        change: Change of the gradient y, (d,).
        h_s: H s, (d,).
        abs_h_s: |H| s, (d,).

    Returns:
        The three, or None if the step is zero or the update is not defined.
    """
    length = np.linalg.norm(step)
    if not length > 0:
        return None
    step, change, h_s, abs_h_s = step / length, change / length, h_s / length, abs_h_s / length
    u = change - h_s
    m = (change @ step) * change + (step @ abs_h_s) * abs_h_s
    m_s = m @ step
    if not m_s > 0:
        return None
    return u, m / m_s, float(u @ step)


def absolute(hessian: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Compute |H| v, with the absolute values of the eigenvalues of H."""
    try:
        np.linalg.cholesky(hessian)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(hessian)
        return vectors @ (np.abs(values) * (vectors.T @ vector))
    return hessian @ vector
