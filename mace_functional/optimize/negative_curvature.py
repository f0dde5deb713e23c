"""Search for negative curvature at a stationary point, by a few exact Hessian products.

With the approximate Hessian H of an optimiser and K = |H|, the exact Hessian H' has as many
negative eigenvalues as K^-1 H' (Sylvester's law of inertia). That matrix is close to one except
along directions in which H is wrong. Lanczos' method in the metric of K, with a random starting
vector, therefore finds its lowest eigenvalue in few products.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh

from mace_functional.optimize.dense_hessian import ZERO_CURVATURE, HessianModel

MIN_PRODUCTS = 6
"""Smallest number of products before the search may end with a positive curvature."""

MAX_PRODUCTS = 24
"""Largest number of products of a search."""


class LowestCurvature(NamedTuple):
    """Lowest curvature of a search, with the products that were computed.

    Attributes:
        curvature: Curvature, eV/Å²; infinite if every direction is rigid.
        directions: Directions of the products as columns, (d, m).
        products: Exact Hessian times each of them, (d, m).
    """

    curvature: float
    directions: np.ndarray
    products: np.ndarray


def lowest_curvature(
    hessian: HessianModel,
    product: Callable[[np.ndarray], np.ndarray],
    rigid: np.ndarray,
    flat: float,
) -> LowestCurvature:
    """Search the lowest curvature of the exact Hessian; end with the first negative one.

    Args:
        hessian: Approximate Hessian H.
        product: Function that multiplies the exact Hessian with a vector (d,).
        rigid: Rigid motions, orthonormal, (d, r); they are left out.
        flat: A curvature below -flat counts as negative, eV/Å².

    Returns:
        The curvature, with the products.
    """
    inverse, d = hessian.inverse(rigid, flat), len(rigid)
    basis, k_basis, products = np.empty((d, 0)), np.empty((d, 0)), np.empty((d, 0))
    curvature, count = np.inf, min(MAX_PRODUCTS, d - rigid.shape[1])
    ritz = np.empty(0)
    k_v = np.random.default_rng(0).standard_normal(d)
    while products.shape[1] < count:
        k_v = k_v - rigid @ (rigid.T @ k_v)
        v = inverse(k_v)
        residual = max(float(v @ k_v), 0.0) ** 0.5
        if len(ritz):
            converged = len(ritz) >= MIN_PRODUCTS and residual < 0.5 * ritz[0]
            if curvature < -flat or converged or not residual > ZERO_CURVATURE:
                break
        for _ in range(2):  # the second time removes rounding errors of the first
            overlap = k_basis.T @ v
            v, k_v = v - basis @ overlap, k_v - k_basis @ overlap
            length = max(float(v @ k_v), 0.0) ** 0.5
            if not length > 0:
                return LowestCurvature(curvature, basis, products)
            v, k_v = v / length, k_v / length
        basis, k_basis = np.column_stack([basis, v]), np.column_stack([k_basis, k_v])
        products = np.column_stack([products, product(v)])
        projected = basis.T @ products
        ritz, ritz_vectors = eigh((projected + projected.T) / 2)
        lowest = ritz_vectors[:, 0]
        k_v = products @ lowest - ritz[0] * (k_basis @ lowest)
        curvature = float(ritz[0]) / float(np.sum((basis @ lowest) ** 2))
    return LowestCurvature(curvature, basis, products)
