"""Factorised preconditioner (P + mu)^-1 of a sparse Hessian, for any shift mu.

P is factorised at shifts that are powers of ten, each when it is first needed. A shift in between
takes the nearest of them: the preconditioned matrix then has condition numbers of at most about 3
from the shift.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from scipy.sparse import csc_array, csr_array, eye_array
from scipy.sparse.linalg import splu

LOWEST_SHIFT = -3
"""Decimal logarithm of the lowest shift, eV/Å².

The softest modes of MOF-5 have a curvature of 1e-2 eV/Å².
"""

HIGHEST_SHIFT = 3
"""Decimal logarithm of the highest shift, eV/Å²; the stiffest bonds have about 200 eV/Å²."""


class SparseFactors:
    """Factors of P + mu for some shifts mu.

    Args:
        matrix: P, symmetric, eV/Å², (d, d).

    Attributes:
        matrix: P.
    """

    def __init__(self, matrix: csr_array) -> None:
        self.matrix = matrix
        self._lowest = LOWEST_SHIFT
        self._solvers: dict[int, partial[np.ndarray]] = {}

    def solve(self, vectors: np.ndarray, shift: float = 0.0) -> np.ndarray:
        """Compute (P + mu)^-1 times a vector (d,), or times columns (d, m).

        The matrix is positive definite: mu is raised where P needs it.

        Args:
            vectors: The vectors.
            shift: Wanted mu, eV/Å²; that of the nearest factor is taken.
        """
        wanted = round(math.log10(max(shift, 10.0**LOWEST_SHIFT)))
        solution: np.ndarray = self._solver(min(wanted, HIGHEST_SHIFT))(vectors)
        return solution

    @property
    def lowest_shift(self) -> float:
        """Lowest shift mu with which P is positive definite, eV/Å²."""
        self._solver(self._lowest)
        return 10.0**self._lowest

    def _solver(self, exponent: int) -> partial[np.ndarray]:
        """Return the solver at the lowest shift from 10^exponent on that is positive definite."""
        exponent = max(exponent, self._lowest)
        while exponent not in self._solvers:
            shifted = self.matrix + 10.0**exponent * eye_array(self.matrix.shape[0])
            factor = splu(
                csc_array(shifted),
                permc_spec="MMD_AT_PLUS_A",
                diag_pivot_thresh=0.0,
                options={"SymmetricMode": True},
            )
            is_symmetric = np.array_equal(factor.perm_r, factor.perm_c)
            if is_symmetric and factor.U.diagonal().min() > 0:
                self._solvers[exponent] = partial(factor.solve)
            else:
                exponent = self._lowest = exponent + 1
        return self._solvers[exponent]
