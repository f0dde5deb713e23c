"""A search for negative curvature where forces vanish, by a few exact Hessian products.

With the approximate Hessian H of an optimiser and K = |H|, the exact Hessian H' has as many
negative eigenvalues as K^(-1/2) H' K^(-1/2) (Sylvester's law of inertia). That matrix is near to
one in all directions but those in which H is wrong, so Lanczos' method, begun with a random vector,
finds the lowest eigenvalue in few products.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh

from mace_functional.optimize.dense_hessian import ZERO_CURVATURE, HessianModel

LEAST_PRODUCTS, MOST_PRODUCTS = 6, 24
"""Numbers of products: no search ends with a positive answer before the first, none goes on after
the second."""


class LowestCurvature(NamedTuple):
    """The lowest curvature that was found, and the products on the way to it.

    Attributes:
        curvature: eV/Å²; infinite where every direction is rigid.
        directions: Columns, (d, m).
        products: The exact Hessian times each, (d, m).
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
    """A low curvature of the exact Hessian; the search ends with the first negative one.

    Args:
        hessian: Approximate Hessian H.
        product: The exact Hessian times a vector (d,).
        rigid: Rigid motions, orthonormal, (d, r); they do not count.
        flat: A curvature counts as negative below minus this, eV/Å².

    Returns:
        The curvature, with the products.
    """
    root = hessian.inverse_root(rigid)
    size, count = root.shape
    basis, products = np.empty((count, 0)), np.empty((size, 0))
    curvature = np.inf
    if count == 0:
        return LowestCurvature(curvature, products, products)
    fresh = np.random.default_rng(0).standard_normal((count,))
    fresh[0] += np.linalg.norm(fresh)  # lowest modes come first
    while products.shape[1] < min(MOST_PRODUCTS, count):
        for _ in range(2):  # once leaves rounding
            fresh = fresh - basis @ (basis.T @ fresh)
            fresh = fresh / np.linalg.norm(fresh)
        basis = np.column_stack([basis, fresh])
        products = np.column_stack([products, product(root @ basis[:, -1])])
        images = root.T @ products
        ritz, parts = eigh(basis.T @ images)
        lowest = basis @ parts[:, 0]
        fresh = images @ parts[:, 0] - ritz[0] * lowest  # the residual
        curvature = float(ritz[0]) / float(np.sum((root @ lowest) ** 2))
        done = products.shape[1] >= LEAST_PRODUCTS and np.linalg.norm(fresh) < 0.5 * ritz[0]
        if curvature < -flat or done or not np.linalg.norm(fresh) > ZERO_CURVATURE:
            break
    return LowestCurvature(curvature, root @ basis, products)
