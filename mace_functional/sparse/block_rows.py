"""Symmetric matrices of 3 x 3 blocks on the pattern of a hop graph, filled row by row."""

from __future__ import annotations

import numpy as np
from scipy.sparse import bsr_array, csr_array
from scipy.sparse.linalg import LinearOperator, cg

SUM_TOLERANCE = 1e-14
"""Size of the sums of rows after `add_sum_rule`, relative to the largest entry of the matrix."""


class BlockRows:
    """Blocks of a symmetric matrix, stored along the rows of a symmetric pattern.

    The columns of the matrix are computed, and stored as rows.

    Args:
        pattern: Pairs of coupled atoms, symmetric with sorted indices, (N, N).
        dtype: Floating-point type of the blocks.

    Attributes:
        pattern: The pattern.
        blocks: Blocks in the order of the pattern, eV/Å², (pairs, 3, 3).
    """

    def __init__(self, pattern: csr_array, dtype: np.dtype) -> None:
        self.pattern = pattern
        self.blocks = np.zeros((pattern.nnz, 3, 3), dtype=dtype)

    def add_column(self, atom: int, column: np.ndarray) -> None:
        """Add to the row of an atom the part of its column that lies in the pattern.

        Args:
            atom: The displaced atom.
            column: Gradients for its displacement along x, y and z, eV/Å², (3, N, 3).
        """
        row = slice(*self.pattern.indptr[atom : atom + 2])
        self.blocks[row] += column[:, self.pattern.indices[row]].transpose(1, 0, 2)

    def symmetrise(self) -> float:
        """Replace the matrix by its symmetric part, the mean of itself and its transpose.

        Returns:
            Largest difference of the matrix and its transpose, eV/Å².
        """
        numbered = csr_array(
            (np.arange(self.pattern.nnz), self.pattern.indices, self.pattern.indptr),
            shape=self.pattern.shape,
        )
        mirror = csr_array(numbered.T).data
        rows = np.repeat(np.arange(self.pattern.shape[0]), np.diff(self.pattern.indptr))
        upper = np.flatnonzero(rows <= self.pattern.indices)
        other = self.blocks[mirror[upper]].transpose(0, 2, 1)
        asymmetry = float(np.abs(self.blocks[upper] - other).max(initial=0.0))
        mean = (self.blocks[upper] + other) / 2
        self.blocks[upper] = mean
        self.blocks[mirror[upper]] = mean.transpose(0, 2, 1)
        return asymmetry

    def largest_sum(self) -> float:
        """Return the largest entry of the sums of blocks along a row, eV/Å²."""
        return float(np.abs(self._sums()).max(initial=0.0))

    def add_sum_rule(self) -> None:
        """Let the blocks of each row sum to zero, by the smallest change of the symmetric matrix.

        A translation of all atoms then leaves all forces zero. Among all symmetric changes X on the
        pattern, the one with the smallest sum of squares is `X_ij = L_i + L_j^T`. The conditions
        `sum_j X_ij = -sum_j K_ij` are linear equations for the 3 x 3 matrices L_i, and are solved
        by conjugate gradients.
        """
        n_atoms = self.pattern.shape[0]
        neighbours = self.pattern.astype(float)
        counts = np.diff(self.pattern.indptr)[:, None]
        transposed = np.arange(9).reshape(3, 3).T.ravel()

        def of_changes(flat: np.ndarray) -> np.ndarray:
            """Return sum_j (L_i + L_j^T) for matrices L."""
            matrices = flat.reshape(n_atoms, 9)
            result = counts * matrices + (neighbours @ matrices)[:, transposed]
            return np.asarray(result).ravel()

        size = 9 * n_atoms
        scale = float(np.abs(self.blocks).max())
        solution, _ = cg(
            LinearOperator((size, size), matvec=of_changes, dtype=np.float64),
            -self._sums().ravel().astype(np.float64),
            rtol=0.0,
            atol=SUM_TOLERANCE * scale,
            maxiter=10 * n_atoms + 100,
        )
        change = solution.reshape(n_atoms, 3, 3)
        for atom in range(n_atoms):
            row = slice(*self.pattern.indptr[atom : atom + 2])
            self.blocks[row] += change[atom] + change[self.pattern.indices[row]].transpose(0, 2, 1)

    def matrix(self) -> bsr_array:
        """Return the matrix in blocks of 3 x 3 along its rows, (3N, 3N)."""
        size = 3 * self.pattern.shape[0]
        return bsr_array(
            (self.blocks, self.pattern.indices, self.pattern.indptr), shape=(size, size)
        )

    def _sums(self) -> np.ndarray:
        """Return the sum of the blocks of each row, (N, 3, 3)."""
        return np.asarray(np.add.reduceat(self.blocks, self.pattern.indptr[:-1], axis=0))
