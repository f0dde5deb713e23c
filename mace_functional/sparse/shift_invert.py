r"""Lowest modes of a sparse Hessian by shift and invert, without rigid motions.

With the mass-weighted matrix D, the rigid motions B as orthonormal columns and a shift sigma, the
vector x = (P D P - sigma)^-1 v in the space P of the internal motions solves

    [ D - sigma   B ] [ x ]   [ v ]
    [ B^T         0 ] [ l ] = [ 0 ],        A = D - sigma,  S = B^T A^-1 B,

    x = A^-1 v - A^-1 B S^-1 B^T A^-1 v.

A is factorised once, sparsely. The Lanczos process on this map finds the eigenvalues next to sigma
first. By Sylvester's law of inertia, P D P has

    n(sigma) = (negative pivots of A) - (negative eigenvalues of S)

eigenvalues below sigma. The shift is lowered until there are none: then the eigenvalues next to it
are the lowest, and none is missed.

Source: Ericsson, Ruhe, Math. Comput. 1980, 35, 1251; Parlett, *The Symmetric Eigenvalue Problem*
(1998), 3.3 and 4.2.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.sparse import csc_array, eye_array
from scipy.sparse.linalg import LinearOperator, eigsh, splu

FIRST_SHIFT = 1e-5
"""Distance of the first shift below zero, relative to the largest eigenvalue: 10 cm-1 of 3000."""

LOWER = 10.0
"""Factor by which the shift is lowered while there are eigenvalues below it."""


class Lowest(NamedTuple):
    """Lowest eigenpairs of a matrix in the space of the internal motions.

    Attributes:
        values: Eigenvalues, ascending, (k,).
        vectors: Orthonormal eigenvectors as columns, (3N, k).
        residuals: Norms of P D P u - theta u, (k,).
    """

    values: np.ndarray
    vectors: np.ndarray
    residuals: np.ndarray


def lowest_by_inversion(matrix: csc_array, rigid: np.ndarray, k: int, *, seed: int = 0) -> Lowest:
    """Compute the lowest k eigenpairs of a sparse symmetric matrix without rigid motions.

    Args:
        matrix: Mass-weighted Hessian, symmetric, (3N, 3N).
        rigid: Orthonormal rigid motions in mass-weighted coordinates, (3N, r).
        k: Number of eigenpairs, less than 3N - r.
        seed: Seed of the starting vector.
    """
    largest = float(abs(matrix).sum(0).max())  # bound of Gershgorin
    shift = FIRST_SHIFT * largest
    inverse = _ShiftedInverse(matrix, rigid, -shift)
    while inverse.n_below:
        shift *= LOWER
        inverse = _ShiftedInverse(matrix, rigid, -shift)
    start = inverse.internal(np.random.default_rng(seed).standard_normal(matrix.shape[0]))
    values, vectors = eigsh(
        matrix,
        k,
        sigma=-shift,
        OPinv=LinearOperator(matrix.shape, matvec=inverse, dtype=matrix.dtype),
        v0=start,
    )
    order = np.argsort(values)
    values, vectors = values[order], vectors[:, order]
    images = inverse.internal(matrix @ vectors)
    return Lowest(values, vectors, np.linalg.norm(images - values * vectors, axis=0))


class _ShiftedInverse:
    """The inverse of `P D P - sigma` on the internal motions.

    Args:
        matrix: Mass-weighted Hessian D, (3N, 3N).
        rigid: Orthonormal rigid motions B, (3N, r).
        sigma: Shift, which is no eigenvalue.

    Attributes:
        n_below: Number of eigenvalues below the shift.
    """

    def __init__(self, matrix: csc_array, rigid: np.ndarray, sigma: float) -> None:
        shifted = csc_array(matrix - sigma * eye_array(matrix.shape[0], format="csc"))
        # A pivot on the diagonal keeps the factors symmetric, so that the pivots have the inertia.
        self._factors = splu(
            shifted,
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )
        self._rigid = rigid
        self._solved = self._factors.solve(rigid) if rigid.size else rigid
        self._schur = rigid.T @ self._solved
        negative = int((self._factors.U.diagonal() < 0).sum())
        self.n_below = negative - int((np.linalg.eigvalsh(self._schur) < 0).sum())

    def __call__(self, v: np.ndarray) -> np.ndarray:
        x = self._factors.solve(self.internal(v.reshape(-1)))
        if self._rigid.size:
            x = x - self._solved @ np.linalg.solve(self._schur, self._rigid.T @ x)
        return x

    def internal(self, v: np.ndarray) -> np.ndarray:
        """Project vectors to the internal motions."""
        return v - self._rigid @ (self._rigid.T @ v)
