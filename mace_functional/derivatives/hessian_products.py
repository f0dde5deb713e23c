"""Hessian-vector products and dense Hessians of a structure, by one process or by many workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.func import grad, vjp, vmap

from mace_functional.derivatives.second import atom_indices, hessian, unit_displacements
from mace_functional.parallel.vectors import mapped_vectors
from mace_functional.potential.protocol import Potential

if TYPE_CHECKING:
    from ase import Atoms

    from mace_functional.structure.structure import Structure


@dataclass(frozen=True, eq=False)
class HessianProducts:
    """Products with the Hessian of a structure, as a linear map of `parallel.mapped_vectors`.

    Vectors are (n, N, 3) in Å, and products (n, N, 3) in eV/Å.

    Attributes:
        potential: The potential.
        atoms: The structure.
    """

    potential: Potential
    atoms: Atoms

    def begun(self, device: str | None) -> Callable[[Tensor], Tensor]:
        """Linearise the gradient, and return the products with vectors on any device."""
        potential = self.potential if device is None else self.potential.to(device=device)
        s = potential.structure(self.atoms)
        energy = potential.energy_fn(s.topology)
        gradient = grad(energy)
        pull_back = vjp(lambda x: gradient(x, s.cell, potential.params), s.positions)[1]
        products = vmap(lambda v: pull_back(v)[0])
        return lambda vectors: products(vectors.to(s.positions.device))


def hessian_of(
    potential: Potential,
    atoms: Atoms,
    structure: Structure,
    *,
    indices: Sequence[int] | Tensor | None = None,
    executor: Executor | None = None,
    **columns: Any,
) -> Tensor:
    """Compute the Hessian of a structure, or the block of some atoms.

    Args:
        potential: The potential.
        atoms: The structure.
        structure: The same structure, of `potential.structure(atoms)`.
        indices: Atoms of a partial Hessian; None for all atoms.
        executor: Executor whose workers share the columns; None to compute in this process.
        **columns: `chunk_size`, `memory_budget` and `progress`; see `hessian`.

    Returns:
        The Hessian in eV/Å², (N, 3, N, 3), or the block (k, 3, k, 3) of the atoms.
    """
    x = structure.positions
    if executor is None:
        energy = potential.energy_fn(structure.topology)
        return hessian(energy, indices=indices, **columns)(x, structure.cell, potential.params)
    free = atom_indices(indices, x)
    products = HessianProducts(potential, atoms.copy())
    rows = mapped_vectors(products, unit_displacements(free, x), executor, **columns)
    return rows.index_select(1, free).reshape(len(free), 3, len(free), 3)
