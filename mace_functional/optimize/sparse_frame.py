r"""Coordinates of atoms of a large cell, with a sparse, factorised model of the Hessian.

The eigenvectors of the model K in `modal_frame` are a dense matrix. Here K is sparse. Functions of
K are computed from its few lowest eigenvectors V and its factors,

    g(K) r = V g(kappa) V^T r + c K^-1 (r - V V^T r),

exact for the lowest ones and of the right size for the others, which lie above the searched
eigenvalues. Memory is proportional to the number of atoms.

With rigid motions R, K is (S + mu) / m outside of R: S is the mass-weighted Hessian of a valence
force field times the mean mass m, and mu the shift with which it is factorised. The inverse outside
of R follows from that of A = S + mu,

    A^-1 - A^-1 R (R^T A^-1 R)^-1 R^T A^-1.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from mace_functional.derivatives.hessian_operator import HessianOperator
from mace_functional.optimize.first_hessian import NEAR
from mace_functional.optimize.free_structure import FreeStructure, hessian_block
from mace_functional.optimize.modal_frame import N_EXTRA_VECTORS, RANDOM_PART
from mace_functional.optimize.sparse_factors import SparseFactors
from mace_functional.optimize.valence_hessian import valence_stiffness
from mace_functional.structure.arrays import as_array
from mace_functional.vibrations.rigid import rigid_motions_of

N_LOWEST = 32
"""Number of the lowest eigenvectors of K that are computed besides the wanted ones."""

LOWEST_TOLERANCE = 1e-6
"""Relative error of the lowest eigenvalues of K."""


class SparseFrame:
    """Mass-weighted free coordinates, without rigid motions; a `SearchFrame`.

    Args:
        basis: Basis of the free displacements, each of one atom, (3N, d); None if all are free.
        rigid: Rigid motions R in these coordinates, orthonormal, (d, r).
        stiffness: Mass-weighted Hessian S of the valence force field times `mass`, eV/Å², (d, d).
        mass: Mean mass m, amu.
        n_lowest: Number of the lowest eigenvectors of K.
        device: Device of the vectors.
    """

    def __init__(
        self,
        basis: csr_array | None,
        rigid: np.ndarray,
        stiffness: csr_array,
        mass: float,
        *,
        n_lowest: int,
        device: torch.device,
    ) -> None:
        self._basis, self._rigid, self._mass, self._device = basis, rigid, mass, device
        self._factors = SparseFactors(stiffness)
        self._softened_rigid = self._factors.solve(rigid) if rigid.size else rigid
        self._values, self._vectors = self._lowest(min(n_lowest, self.n_modes // 2))

    @property
    def n_modes(self) -> int:
        """Number n of motions."""
        d, r = self._rigid.shape
        return d - r

    def start(self, k: int, seed: int) -> Tensor:
        """Return the softest modes of K with random parts, and random vectors, (d, k + 3).

        Of two random vectors one is multiplied by K^-1: a direction in which K is too stiff has a
        large part in the other.
        """
        n_soft = min(k + N_EXTRA_VECTORS, len(self._values))
        random = np.random.default_rng(seed).standard_normal
        noise = self._outside(random((len(self._rigid), k + N_EXTRA_VECTORS + 2)))
        start = noise.copy()
        start[:, 1:] = self._softened(noise[:, 1:])
        soft = slice(2, 2 + n_soft)
        start[:, soft] *= RANDOM_PART * self._values[:n_soft]
        start[:, soft] += self._vectors[:, :n_soft]
        return self._tensor(start)

    def displacements(self, vectors: Tensor) -> Tensor:
        """Return the mass-weighted Cartesian displacements (3N, b) of columns (d, b)."""
        if self._basis is None:
            return vectors
        return self._tensor(self._basis @ as_array(vectors))

    def components(self, displacements: Tensor) -> Tensor:
        """Return the columns (d, b) of displacements (3N, b), without rigid motions."""
        columns = as_array(displacements)
        return self._tensor(
            self._outside(columns if self._basis is None else self._basis.T @ columns)
        )

    def stiffen(self, vectors: Tensor) -> Tensor:
        """Multiply columns (d, b) by K."""
        v = as_array(vectors)
        product = self._factors.matrix @ v + self._factors.lowest_shift * v
        return self._tensor(self._outside(product) / self._mass)

    def soften(self, vectors: Tensor) -> Tensor:
        """Multiply columns (d, b) by K^-1."""
        return self._tensor(self._softened(as_array(vectors)))

    def corrections(self, residuals: Tensor, theta: Tensor) -> Tensor:
        """Return about max(K - theta, K / 10)^-1 r for residuals (d, b) of Ritz values (b,)."""
        low, others = self._split(as_array(residuals))
        kappa = self._values[:, None]
        low = low / np.maximum(kappa - as_array(theta), 0.1 * kappa)
        return self._tensor(self._vectors @ low + self._softened(others))

    def errors(self, residuals: Tensor, theta: Tensor, gaps: Tensor, f: float) -> Tensor:
        """Return about r^T max(f K - theta, gap)^-1 r, at least this, (b,); see `SearchFrame`.

        Above the lowest eigenvalues, the inverse is at most 1 / gap, and at most a K^-1, with a the
        largest value of kappa / max(f kappa - theta, gap).
        """
        low, others = self._split(as_array(residuals))
        value, gap = as_array(theta), as_array(gaps)
        of_low = (low**2 / np.maximum(f * self._values[:, None] - value, gap)).sum(0)
        last = self._values[-1] if len(self._values) else 0.0
        above = f * last - value
        a = np.where(above >= gap, last / np.maximum(above, gap), (value + gap) / (f * gap))
        a = np.where(value > 0, a, 1 / f)
        of_others = np.minimum(
            a * (others * self._softened(others)).sum(0), (others**2).sum(0) / gap
        )
        return self._tensor(of_low + of_others)

    def _lowest(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest eigenvalues of K, ascending, (q,), and eigenvectors, (d, q)."""
        d = len(self._rigid)
        if not count:
            return np.zeros(0), np.zeros((d, 0))
        inverse, vectors = eigsh(
            LinearOperator((d, d), matvec=self._softened, dtype=float),
            k=count,
            v0=self._outside(np.random.default_rng(0).standard_normal(d)),
            tol=LOWEST_TOLERANCE,
        )
        order = np.argsort(-inverse)
        return 1 / inverse[order], self._outside(vectors[:, order])

    def _split(self, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the parts of columns along the lowest eigenvectors, (q, b), and the rest."""
        low = self._vectors.T @ columns
        return low, columns - self._vectors @ low

    def _softened(self, columns: np.ndarray) -> np.ndarray:
        """Multiply columns by K^-1."""
        solution = self._factors.solve(self._outside(columns))
        if self._rigid.size:
            between = self._rigid.T @ self._softened_rigid
            solution = solution - self._softened_rigid @ np.linalg.solve(
                between, self._rigid.T @ solution
            )
        return self._mass * solution

    def _outside(self, columns: np.ndarray) -> np.ndarray:
        """Remove rigid motions."""
        projected: np.ndarray = columns - self._rigid @ (self._rigid.T @ columns)
        return projected

    def _tensor(self, columns: np.ndarray) -> Tensor:
        return torch.as_tensor(columns, device=self._device)


def sparse_frame(op: HessianOperator, structure: FreeStructure, k: int) -> SparseFrame:
    """Return the frame of a large cell.

    Args:
        op: The exact Hessian, plain or mass-weighted.
        structure: The structure, with atomic numbers; a basis of free displacements is sparse.
        k: Number of wanted modes.
    """
    positions, cell = op.positions.detach().double(), op.cell.detach().double()
    if structure.numbers is None or isinstance(structure.free, np.ndarray):
        raise ValueError("give the atomic numbers, and a sparse basis of free displacements")
    by_positions = valence_stiffness(positions, cell, structure.numbers, structure.pbc, NEAR)
    masses = torch.ones_like(positions[:, 0]) if op.masses is None else op.masses.detach().double()
    m, basis = as_array(masses), structure.free
    root = diags_array((m.mean() / m.repeat(3)) ** 0.5)
    stiffness = csr_array(root @ by_positions @ root)
    motions = rigid_motions_of(
        as_array(positions),
        m,
        as_array(cell),
        structure.parts,
        block=hessian_block(op, masses) if basis is None else None,
        epsilon=torch.finfo(op.dtype).eps,
        free=basis,
    )
    rigid = motions.basis
    if basis is not None:
        stiffness = csr_array(basis.T @ stiffness @ basis)
        rigid = np.linalg.qr(basis.T @ rigid)[0]
    return SparseFrame(
        basis, rigid, stiffness, float(m.mean()), n_lowest=k + N_LOWEST, device=op.device
    )
