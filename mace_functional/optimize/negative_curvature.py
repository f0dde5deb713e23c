"""Search for negative curvature at a stationary point, by a few exact Hessian products.

With the approximate Hessian H of an optimiser and K = |H|, the exact Hessian H' has as many
negative eigenvalues as K^(-1/2) H' K^(-1/2) (Sylvester's law of inertia). That matrix is close to
one except along directions in which H is wrong. Lanczos' method with a random starting vector
therefore finds its lowest eigenvalue in few products.
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
    w = hessian.inverse_root(rigid)
    d, n = w.shape
    basis, products = np.empty((n, 0)), np.empty((d, 0))
    curvature = np.inf
    if n == 0:
        return LowestCurvature(curvature, products, products)
    v = np.random.default_rng(0).standard_normal((n,))
    v[0] += np.linalg.norm(v)  # lowest modes come first
    while products.shape[1] < min(MAX_PRODUCTS, n):
        for _ in range(2):  # the second time removes rounding errors of the first
            v = v - basis @ (basis.T @ v)
            v = v / np.linalg.norm(v)
        basis = np.column_stack([basis, v])
        products = np.column_stack([products, product(w @ basis[:, -1])])
        images = w.T @ products
        ritz, ritz_vectors = eigh(basis.T @ images)
        lowest = basis @ ritz_vectors[:, 0]
        v = images @ ritz_vectors[:, 0] - ritz[0] * lowest  # the residual
        curvature = float(ritz[0]) / float(np.sum((w @ lowest) ** 2))
        converged = products.shape[1] >= MIN_PRODUCTS and np.linalg.norm(v) < 0.5 * ritz[0]
        if curvature < -flat or converged or not np.linalg.norm(v) > ZERO_CURVATURE:
            break
    return LowestCurvature(curvature, w @ basis, products)
