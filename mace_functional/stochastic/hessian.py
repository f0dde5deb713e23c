"""The mass-weighted Hessian of a structure without its rigid motions, as products with vectors."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mace_functional.autodiff.concrete import refuse_transforms
from mace_functional.derivatives import HessianOperator, forces
from mace_functional.structure.arrays import as_array
from mace_functional.structure.connectivity import parts_of
from mace_functional.structure.selection import refuse_constraints
from mace_functional.support.validation import in_order
from mace_functional.vibrations.rigid import (
    DIFFERENTIABLE_CALL,
    internal_motions,
    rigid_motions_of,
)

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ase import Atoms
    from scipy.sparse.linalg import LinearOperator

    from mace_functional.autodiff.columns import ChunkSize
    from mace_functional.potential.protocol import Potential


class VibrationalHessian:
    """The matrix P D P with the mass-weighted Hessian D and the projection P off rigid motions.

    Vectors are rows in double precision; products are computed in the potential's precision.

    Args:
        potential: A potential.
        atoms: The structure.
        what: Name of the function that needs it, for errors.
        chunk_size: Vectors that are multiplied at once; see `hessian`.
        memory_budget: Bytes that chunks may fill; see `hessian`.
        operator: Mass-weighted Hessian of the structure as a linear operator, (3N, 3N), in
            eV/Å²/amu; None for that of the potential, by Hessian-vector products.
        executor: Executor whose workers share products with several vectors; None to compute in
            this process.

    Attributes:
        positions, cell, masses, numbers, pbc: The structure, as arrays; Å and amu.
        n_rigid: Number r of rigid motions.

    Raises:
        TypeError: If the arguments are of other classes, or swapped.
        ValueError: If the structure does not fit the potential, constraints hold atoms, or
            parameters require grad or are inside of a transform.
    """

    def __init__(
        self,
        potential: Potential,
        atoms: Atoms,
        *,
        what: str,
        chunk_size: ChunkSize = "auto",
        memory_budget: int | None = None,
        operator: LinearOperator | None = None,
        executor: Executor | None = None,
    ) -> None:
        in_order(f"{what}(potential, atoms)", (potential, "Potential"), (atoms, "Atoms"))
        refuse_transforms(what, f"{DIFFERENTIABLE_CALL} of mf.hessian(E)", potential.params)
        refuse_constraints(atoms, what, "use gamma_modes, which computes partial Hessians")
        s = potential.structure(atoms)
        self._op: HessianOperator | StoredOperator
        if operator is None:
            self._op = HessianOperator.from_potential(
                potential,
                atoms,
                executor=executor,
                chunk_size=chunk_size,
                memory_budget=memory_budget,
            )
        else:
            self._op = StoredOperator(operator, s.positions)
        self._structure, self._params = s, potential.params
        self._energy = potential.energy_fn(s.topology)
        self.positions, self.cell = as_array(s.positions), as_array(s.cell)
        self.masses, self.numbers = as_array(s.masses), atoms.numbers.copy()
        self.pbc = np.array(atoms.pbc)
        motions = rigid_motions_of(
            self.positions,
            self.masses,
            self.cell,
            parts_of(s.topology, s.positions, s.cell),
            block=self._block,
            epsilon=torch.finfo(self._op.dtype).eps,
        )
        self._rigid = torch.as_tensor(motions.basis).to(self._op.device, torch.float64)
        self.n_rigid = motions.count

    @property
    def n_atoms(self) -> int:
        """Number N of atoms."""
        return len(self.masses)

    @property
    def n_modes(self) -> int:
        """Number 3N - r of vibrations."""
        return 3 * self.n_atoms - self.n_rigid

    @cached_property
    def largest_force(self) -> float:
        """Largest force on an atom, eV/Å."""
        f = forces(self._energy)(self._structure.positions, self._structure.cell, self._params)
        return float(f.detach().norm(dim=1).max())

    @cached_property
    def energy(self) -> float:
        """Energy of the structure, eV."""
        s = self._structure
        return float(self._energy(s.positions, s.cell, self._params).detach())

    def project(self, vectors: Tensor) -> Tensor:
        """Remove rigid motions from vectors (v, 3N)."""
        vectors = vectors.to(self._rigid)
        return vectors - (vectors @ self._rigid) @ self._rigid.mT

    def multiply(self, vectors: Tensor) -> Tensor:
        """Multiply vectors without rigid motions (v, 3N) by P D P, in eV/Å²/amu."""
        cast = vectors.to(self._op.dtype)
        product = (self._op @ cast[0])[None] if len(cast) == 1 else (self._op @ cast.mT).mT
        return self.project(product.detach())

    def eigenvalues(self, *, progress: bool = False) -> Tensor:
        """Compute all eigenvalues but those of rigid motions, from 3N products, (3N - r,)."""
        d = self._op.dense(progress=progress).detach().to(torch.float64)
        q = internal_motions(self._rigid)
        inner: Tensor = q.mT @ (0.5 * (d + d.mT)) @ q
        return torch.linalg.eigvalsh(inner)

    def _block(self, atoms: np.ndarray) -> np.ndarray:
        """Compute the block of the Hessian of some atoms, (3n, 3n), eV/Å²."""
        rows = (3 * atoms[:, None] + np.arange(3)).reshape(-1)
        unit = self._structure.positions.new_zeros(len(rows), 3 * self.n_atoms)
        unit[torch.arange(len(rows)), torch.as_tensor(rows)] = 1.0
        root = np.sqrt(np.repeat(self.masses[atoms], 3))
        weighted = as_array((self._op @ unit.mT).mT[:, torch.as_tensor(rows)])
        return weighted * np.outer(root, root)


class StoredOperator:
    """A linear operator of scipy with the members of `HessianOperator` that are needed here.

    Args:
        operator: Mass-weighted Hessian, (3N, 3N), in eV/Å²/amu.
        positions: Positions in Å, (N, 3).

    Attributes:
        dtype, device: Floating-point type and device of the positions.

    Raises:
        ValueError: If the operator does not fit the positions.
    """

    def __init__(self, operator: LinearOperator, positions: Tensor) -> None:
        size = positions.numel()
        if tuple(operator.shape) != (size, size):
            raise ValueError(
                f"the operator must be ({size}, {size}) for {len(positions)} atoms, not "
                f"{tuple(operator.shape)}"
            )
        self._operator, self._size = operator, size
        self.dtype, self.device = positions.dtype, positions.device

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """Multiply a vector (3N,) or a matrix (3N, k)."""
        return torch.as_tensor(self._operator @ as_array(vectors)).to(vectors)

    def dense(self, *, progress: bool = False) -> Tensor:
        """Return the matrix (3N, 3N); there is nothing to show of its progress."""
        return self @ torch.eye(self._size, dtype=self.dtype, device=self.device)
