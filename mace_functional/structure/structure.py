"""Structures: positions, cell and masses, and the topology on which the energy is computed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mace_functional.autodiff.concrete import refuse_transforms
from mace_functional.autodiff.torch_internals import pytree

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True, eq=False)
class Structure:
    """Positions, cell, masses and elements of a structure, and its topology; a pytree.

    Attributes:
        positions: Positions in Å, (N, 3).
        cell: Lattice vectors in Å as rows, (3, 3); zero where not periodic.
        masses: Masses in amu, (N,).
        numbers: Atomic numbers, (N,).
        topology: A `Topology`: the neighbours and other constant input of the potential.
    """

    positions: Tensor
    cell: Tensor
    masses: Tensor
    numbers: Tensor
    topology: Any

    def __repr__(self) -> str:
        return f"Structure(positions {tuple(self.positions.shape)}, {self.topology})"

    @classmethod
    def of(cls, atoms: Atoms, topology: Any, like: Tensor) -> Structure:
        """Return the structure of an ASE Atoms object, given its topology.

        Args:
            atoms: The source of positions, cell, masses and atomic numbers.
            topology: Topology of these atoms.
            like: Tensor with the dtype and device to use.
        """
        return cls(
            positions=torch.as_tensor(atoms.positions.copy()).to(like),
            cell=torch.as_tensor(atoms.cell.array.copy()).to(like),
            masses=torch.as_tensor(atoms.get_masses()).to(like),
            numbers=torch.as_tensor(atoms.numbers.copy(), device=like.device),
            topology=topology,
        )

    @property
    def graph(self) -> Any:
        """Topology of the structure; an alias for structures with a neighbour graph."""
        return self.topology

    def moved(self, positions: Tensor, cell: Tensor) -> Structure:
        """Return the structure at new positions with its present topology, which is not checked."""
        return replace(self, positions=positions, cell=cell)

    def at(self, positions: Tensor, cell: Tensor) -> Structure:
        """Return the structure at new positions; search its neighbours again only if necessary.

        Args:
            positions: New positions in Å, (N, 3).
            cell: New lattice vectors in Å, (3, 3).

        Raises:
            ValueError: See `rebuild`.
        """
        if self.topology.is_current(positions, cell):
            return self.moved(positions, cell)
        return self.rebuild(positions, cell)

    def rebuild(self, positions: Tensor | None = None, cell: Tensor | None = None) -> Structure:
        """Return the structure at new positions, with a new neighbour search.

        Args:
            positions: New positions in Å, (N, 3); the present ones if not given.
            cell: New lattice vectors in Å, (3, 3); the present ones if not given.

        Returns:
            A new structure. Data that do not depend on the geometry are shared with the old one.

        Raises:
            ValueError: If shapes differ, positions are not finite, or atoms coincide.
        """
        refuse_transforms("Structure.rebuild", "moved(positions, cell)", positions, cell)
        positions = (self.positions if positions is None else positions).detach()
        cell = (self.cell if cell is None else cell).detach()
        if positions.shape != self.positions.shape or cell.shape != self.cell.shape:
            raise ValueError(
                f"positions and cell must be {tuple(self.positions.shape)} and (3, 3), not "
                f"{tuple(positions.shape)} and {tuple(cell.shape)}"
            )
        return replace(
            self,
            positions=positions,
            cell=cell,
            topology=self.topology.rebuilt(positions, cell),
        )


pytree.register_pytree_node(
    Structure,
    lambda s: ([s.positions, s.cell, s.masses, s.numbers, s.topology], None),
    lambda leaves, _: Structure(*leaves),
    serialized_type_name="mace_functional.Structure",
)
