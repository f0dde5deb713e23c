"""`SparseHessian`: the Hessian of a structure as a stored sparse matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse import bsr_array, csc_array
from scipy.sparse.linalg import LinearOperator

from mace_functional.optimize.lowest_modes import LowestModes
from mace_functional.optimize.outcome import Outcome
from mace_functional.sparse.shift_invert import lowest_by_inversion
from mace_functional.sparse.truncation_error import TruncationError
from mace_functional.structure.arrays import as_array
from mace_functional.structure.structure import Structure
from mace_functional.vibrations.result_text import result_text

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True, eq=False)
class SparseHessian:
    """Hessian of a structure as a sparse matrix, at the geometry that it was computed for.

    Attributes:
        matrix: Hessian in eV/Å², symmetric, in blocks of 3 x 3, (3N, 3N).
        atoms: The structure as an ASE Atoms object.
        structure: The structure with its topology.
        rigid: Orthonormal rigid motions in mass-weighted coordinates, (3N, r).
        hops: Largest number of edges between two atoms whose block is stored; None if the matrix is
            exact.
        method: "products" or "local"; see `sparse_hessian`.
        n_products: Number of Hessian-vector products, or of local columns.
        asymmetry: Largest difference of the computed matrix and its transpose, eV/Å². It shows the
            rounding error, and in a truncated matrix what products mixed.
        sum_residual: Largest entry of a sum of blocks along a row, eV/Å², before a sum rule was
            imposed.
        truncation: Measured error of a truncated matrix; None if it is exact.
    """

    matrix: bsr_array
    atoms: Atoms
    structure: Structure
    rigid: np.ndarray
    hops: int | None
    method: str
    n_products: int
    asymmetry: float
    sum_residual: float
    truncation: TruncationError | None

    def __repr__(self) -> str:
        share = self.matrix.nnz / self.matrix.shape[0] ** 2
        return result_text(
            self,
            f"{self.matrix.shape[0]} rows, {100 * share:.1f} % of the entries stored",
            "exact" if self.hops is None else f"truncated after {self.hops} hops",
            f"{self.n_products} products ({self.method})",
            None if self.truncation is None else _text_of(self.truncation),
        )

    def mass_weighted(self) -> bsr_array:
        """Return `M^(-1/2) H M^(-1/2)` in eV/Å²/amu, in blocks of 3 x 3, (3N, 3N)."""
        weights = as_array(self.structure.masses) ** -0.5
        rows = np.repeat(weights, np.diff(self.matrix.indptr))
        factors = rows * weights[self.matrix.indices]
        blocks = self.matrix.data * factors[:, None, None]
        return bsr_array((blocks, self.matrix.indices, self.matrix.indptr), shape=self.matrix.shape)

    def to_scipy(self, *, mass_weighted: bool = True) -> LinearOperator:
        """Return the matrix as a linear operator, as `HessianOperator.to_scipy` does.

        Args:
            mass_weighted: True for `M^(-1/2) H M^(-1/2)`, False for H.
        """
        matrix = self.mass_weighted() if mass_weighted else self.matrix

        def product(vectors: np.ndarray) -> np.ndarray:
            return np.asarray(matrix @ vectors)

        return LinearOperator(
            shape=matrix.shape,
            matvec=product,
            rmatvec=product,
            matmat=product,
            rmatmat=product,
            dtype=matrix.dtype,
        )

    def lowest_modes(self, k: int, *, seed: int = 0) -> LowestModes:
        """Compute the lowest k modes of the stored matrix by shift and invert (`shift_invert`).

        Rigid motions are projected out. Imaginary modes come first, and none is missed. The
        factorisation takes memory and time like a dense matrix where most pairs are coupled.

        Args:
            k: Number of modes, at most 3N - r - 1.
            seed: Seed of the starting vector.

        Returns:
            The modes, as from `mace_functional.lowest_modes`; no product with the Hessian is
            needed.

        Raises:
            ValueError: If there are fewer than k + 1 internal motions.
        """
        size, n_rigid = self.rigid.shape
        if not 1 <= k < size - n_rigid:
            raise ValueError(
                f"k must be a number of modes from 1 to {size - n_rigid - 1}, not {k}: for all "
                "modes diagonalise the dense matrix with gamma_modes"
            )
        d = csc_array(self.mass_weighted())
        pairs = lowest_by_inversion(d, self.rigid, k, seed=seed)
        like = self.structure.positions
        residuals = torch.as_tensor(pairs.residuals, device=like.device)
        rounding = float(np.finfo(d.dtype).eps * abs(d).sum(0).max())
        return LowestModes(
            eigenvalues=torch.as_tensor(pairs.values, device=like.device),
            modes=torch.as_tensor(pairs.vectors.T.copy(), device=like.device).view(k, -1, 3),
            errors=residuals,
            rounding=rounding,
            residuals=residuals,
            outcome=Outcome.CONVERGED,
            detail="by shift and invert",
            n_hvps=0,
            mass_weighted=True,
        )


def _text_of(truncation: TruncationError) -> str:
    temperature = truncation.temperature
    error = truncation.heat_capacity(temperature)
    return f"heat capacity at {temperature:g} K within {100 * error.relative_bound:.2g} %"
