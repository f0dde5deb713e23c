"""Eigenvectors of a model of the Hessian, without rigid motions.

They are the coordinates in which lowest modes are searched (`davidson`). The mass-weighted model K
is diagonal in them, and its spectrum is similar to that of the exact Hessian.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mace_functional.derivatives.hessian_operator import HessianOperator
from mace_functional.optimize.davidson import FLOOR, symmetric
from mace_functional.optimize.free_structure import FreeStructure, dense_basis, hessian_block
from mace_functional.optimize.valence_hessian import valence_hessian
from mace_functional.structure.arrays import as_array
from mace_functional.vibrations.rigid import internal_motions, rigid_motions_of

N_EXTRA_VECTORS = 1
"""Number of starting vectors besides those of the wanted modes and random ones."""

RANDOM_PART = 0.1
"""Random part of a starting vector along the softest mode of K, relative to the vector."""


@dataclass(frozen=True, eq=False)
class ModalFrame:
    """Coordinates along the eigenvectors of K; a `SearchFrame`.

    Attributes:
        vectors: Orthonormal eigenvectors in mass-weighted Cartesian coordinates, (3N, n).
        stiffness: Eigenvalues, ascending and positive, eV/Å²/amu, (n,).
    """

    vectors: Tensor
    stiffness: Tensor

    @property
    def n_modes(self) -> int:
        """Number n of motions."""
        return len(self.stiffness)

    def start(self, k: int, seed: int) -> Tensor:
        """Return a random vector, and the softest modes of K with random parts, (n, b)."""
        n, n_soft = self.n_modes, min(k + N_EXTRA_VECTORS, self.n_modes)
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(n, n_soft + 1, dtype=torch.float64, generator=generator)
        noise = noise.to(self.stiffness)
        soft = (self.stiffness[:n_soft] / self.stiffness[:, None]).clamp(max=1)
        start = RANDOM_PART * noise[:, 1:] * soft
        start.diagonal().add_(1)
        return torch.cat([start, noise[:, :1] / self.stiffness.sqrt()[:, None]], dim=1)

    def displacements(self, vectors: Tensor) -> Tensor:
        """Return the mass-weighted Cartesian displacements (3N, b) of columns (n, b)."""
        return self.vectors @ vectors

    def components(self, displacements: Tensor) -> Tensor:
        """Return the columns (n, b) of displacements (3N, b), without rigid motions."""
        return self.vectors.mT @ displacements.to(self.vectors)

    def stiffen(self, vectors: Tensor) -> Tensor:
        """Multiply columns (n, b) by K."""
        return self.stiffness[:, None] * vectors

    def soften(self, vectors: Tensor) -> Tensor:
        """Multiply columns (n, b) by K^-1."""
        return vectors / self.stiffness[:, None]

    def corrections(self, residuals: Tensor, theta: Tensor) -> Tensor:
        """Return max(K - theta, K / 10)^-1 r for residuals (n, b) of Ritz values (b,)."""
        k = self.stiffness[:, None]
        return residuals / (k - theta).maximum(0.1 * k)

    def errors(self, residuals: Tensor, theta: Tensor, gaps: Tensor, f: float) -> Tensor:
        """Return r^T max(f K - theta, gap)^-1 r, (b,); see `SearchFrame`."""
        return (residuals**2 / (f * self.stiffness[:, None] - theta).maximum(gaps)).sum(0)


def modal_frame(
    op: HessianOperator, structure: FreeStructure, preconditioner: Tensor | None
) -> ModalFrame:
    """Compute the eigenvectors of K among the free motions, without rigid motions.

    Args:
        op: The exact Hessian, plain or mass-weighted.
        structure: The structure.
        preconditioner: Model K by positions, eV/Å², (3N, 3N); None for a valence force field.

    Raises:
        ValueError: If neither K nor the atomic numbers are given, or K does not fit.
    """
    positions, cell = op.positions.detach().double(), op.cell.detach().double()
    if preconditioner is None:
        if structure.numbers is None:
            raise ValueError("give the atomic numbers, or a preconditioner")
        preconditioner = valence_hessian(positions, cell, structure.numbers, structure.pbc)
    if preconditioner.shape != op.shape:
        raise ValueError(
            f"the preconditioner must be {tuple(op.shape)}, not {tuple(preconditioner.shape)}"
        )
    if not preconditioner.isfinite().all():
        raise ValueError("the preconditioner has entries that are not finite")
    masses = torch.ones_like(positions[:, 0]) if op.masses is None else op.masses.detach().double()
    internal = _internal(op, positions, masses, cell, structure)
    displacements = internal / masses.sqrt().repeat_interleave(3)[:, None]
    k = symmetric(displacements.mT @ preconditioner.to(internal) @ displacements)
    stiffness, modes = torch.linalg.eigh(k)
    largest = float(stiffness[-1]) if len(stiffness) else 0.0
    stiffness = stiffness.clamp(min=FLOOR * largest if largest > 0 else 1.0)
    return ModalFrame(internal @ modes, stiffness)


def _internal(
    op: HessianOperator, positions: Tensor, masses: Tensor, cell: Tensor, structure: FreeStructure
) -> Tensor:
    """Return an orthonormal basis of the free internal motions, mass-weighted, (3N, n)."""
    sqrt_m = masses.sqrt().repeat_interleave(3)

    free_basis = None
    if structure.free is not None:
        free = torch.as_tensor(dense_basis(structure.free)).to(sqrt_m)
        free_basis = torch.linalg.qr(sqrt_m[:, None] * free).Q
    motions = rigid_motions_of(
        as_array(positions),
        as_array(masses),
        as_array(cell),
        structure.parts,
        block=hessian_block(op, masses) if free_basis is None else None,
        epsilon=torch.finfo(op.dtype).eps,
        free=None if free_basis is None else as_array(free_basis),
    )
    rigid = torch.as_tensor(motions.basis).to(sqrt_m)
    if free_basis is None:
        return internal_motions(rigid)
    return free_basis @ internal_motions(torch.linalg.qr(free_basis.mT @ rigid).Q)
