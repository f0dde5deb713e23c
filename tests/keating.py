"""Keating's energy of the diamond lattice, whose elastic constants are closed formulas."""

from __future__ import annotations

from itertools import combinations
from typing import Any, NamedTuple

import torch
from ase import Atoms
from ase.build import bulk
from torch import Tensor

LATTICE_CONSTANT = 5.43
PARAMS = {
    "alpha": torch.tensor(3.0, dtype=torch.float64),
    "beta": torch.tensor(0.9, dtype=torch.float64),
}
"""Stretching and bending constants, eV/Å²."""

BONDS = torch.tensor([[0, 0, 0], [-1, 0, 0], [0, -1, 0], [0, 0, -1]], dtype=torch.float64)
"""Cells of the second atoms that the first atom is bonded to."""


def diamond(lattice_constant: float = LATTICE_CONSTANT) -> Atoms:
    return bulk("Si", "diamond", a=lattice_constant)


def arguments(atoms: Atoms) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    return torch.as_tensor(atoms.positions), torch.as_tensor(atoms.cell.array), PARAMS


def energy(positions: Tensor, cell: Tensor, params: dict[str, Tensor]) -> Tensor:
    """Energy of two atoms, eV.

    `3/(8 d^2) (alpha sum_bonds (r^2 - d^2)^2 + beta sum_angles (r.r' + d^2/3)^2)`
    """
    d2 = 3 * LATTICE_CONSTANT**2 / 16
    bonds = positions[1] - positions[0] + BONDS @ cell
    stretches = ((bonds * bonds).sum(1) - d2).square().sum()
    i, j = torch.tensor(list(combinations(range(4), 2))).unbind(1)
    bends = 2 * ((bonds[i] * bonds[j]).sum(1) + d2 / 3).square().sum()  # about both atoms
    return 3 / (8 * d2) * (params["alpha"] * stretches + params["beta"] * bends)


class Structure(NamedTuple):
    positions: Tensor
    cell: Tensor
    masses: Tensor
    topology: None


class Keating:
    """The energy as a potential, for the primitive cell of diamond."""

    dtype, device, params = torch.float64, torch.device("cpu"), PARAMS

    def to(self, *, dtype: Any = None, device: Any = None) -> Keating:
        return self

    def structure(self, atoms: Atoms, *, skin: float = 0.0) -> Structure:
        x, cell, _ = arguments(atoms)
        return Structure(x, cell, torch.as_tensor(atoms.get_masses()), None)

    def energy_fn(self, topology: None, *, per_atom: bool = False) -> Any:
        return energy


def constants(params: dict[str, Tensor] = PARAMS) -> dict[str, float]:
    """Elastic constants in eV/Å³ and Kleinman's parameter (Keating, Phys. Rev. 145, 637, 1966)."""
    a, b = (params[name].item() for name in ("alpha", "beta"))
    return {
        "C11": (a + 3 * b) / LATTICE_CONSTANT,
        "C12": (a - b) / LATTICE_CONSTANT,
        "C44": 4 * a * b / (a + b) / LATTICE_CONSTANT,
        "clamped C44": (a + b) / LATTICE_CONSTANT,
        "Kleinman": (a - b) / (a + b),
    }
