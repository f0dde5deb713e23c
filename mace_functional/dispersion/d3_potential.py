"""D3 dispersion by itself, as a potential."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mace_functional.dispersion.d3 import d3_energies
from mace_functional.dispersion.pairs import D3Graph, D3Settings

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True, eq=False)
class D3Structure:
    """A structure as D3 sees it.

    Attributes:
        positions: Å, (N, 3).
        cell: Lattice vectors in Å as rows, (3, 3).
        masses: amu, (N,).
        topology: Pairs and data.
        pbc: Periodic directions, (3,).
    """

    positions: Tensor
    cell: Tensor
    masses: Tensor
    topology: D3Graph
    pbc: Tensor


@dataclass(frozen=True, eq=False)
class D3Potential:
    """The D3 correction of a `Model`, without the model.

    Attributes:
        settings: The correction.
        dtype: Of positions and cell.
        device: Where they are.
        params: Empty.
    """

    settings: D3Settings
    dtype: torch.dtype
    device: torch.device
    params: dict[str, Tensor] = field(default_factory=dict)

    def to(
        self, *, dtype: torch.dtype | None = None, device: str | torch.device | None = None
    ) -> D3Potential:
        """The same in another precision or on another device."""
        return D3Potential(
            self.settings,
            self.dtype if dtype is None else dtype,
            self.device if device is None else torch.device(device),
        )

    def structure(self, atoms: Atoms, *, skin: float = 0.0) -> D3Structure:
        """Positions, and the pairs within the cutoffs and the skin; see `D3Graph.of`."""
        like = torch.empty(0, dtype=self.dtype, device=self.device)
        geometry = atoms.positions, atoms.cell.array, atoms.pbc
        return D3Structure(
            positions=torch.as_tensor(atoms.positions.copy()).to(like),
            cell=torch.as_tensor(atoms.cell.array.copy()).to(like),
            masses=torch.as_tensor(atoms.get_masses()).to(like),
            topology=D3Graph.of(self.settings, atoms.numbers, geometry, (skin, skin), like),
            pbc=torch.as_tensor(atoms.pbc.copy()),
        )

    def energy_fn(self, topology: D3Graph, *, per_atom: bool = False) -> Callable[..., Tensor]:
        """`E(positions, cell, params)` in eV; it depends on no parameter."""
        of_atoms = d3_energies(topology)

        def energy(positions: Tensor, cell: Tensor, params: Any = None) -> Tensor:
            energies = of_atoms(positions, cell)
            return energies if per_atom else energies.sum()

        return energy

    def hold_pairs(self, structure: D3Structure) -> D3Structure:
        """The same structure with the pairs within the cutoffs, wherever they move."""
        geometry = structure.positions, structure.cell, structure.pbc
        return replace(structure, topology=structure.topology.held(*geometry))
