"""Small crystals and their dynamical matrices, and folded Hessians of supercells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, make_supercell
from torch import Tensor

import mace_functional as mf
from mace_functional.phonons import dynamical_matrix_fn

GENERAL = torch.tensor([0.13, -0.29, 0.41], dtype=torch.float64)


def carbide() -> Atoms:
    """Two atoms without symmetry, in a cell much smaller than the range of the models."""
    atoms = bulk("SiC", "zincblende", a=4.1)
    atoms.rattle(0.1, seed=3)
    return atoms


def chain() -> Atoms:
    return Atoms("OH", [[0, 0, 0], [0.9, 0.6, 0.1]], cell=[2.4, 9, 9], pbc=[True, False, False])


def slab() -> Atoms:
    return Atoms("CSi", [[0, 0, 0], [1.2, 1.1, 1.0]], cell=[2.6, 2.9, 0], pbc=[True, True, False])


def lone() -> Atoms:
    atoms = bulk("C", "sc", a=2.1)
    atoms.set_cell(atoms.cell.array + 0.1 * np.arange(9).reshape(3, 3), scale_atoms=True)
    return atoms


class Case:
    """A structure with its dynamical matrix."""

    def __init__(self, model: mf.MaceModel, atoms: Atoms, **options: Any) -> None:
        self.model, self.atoms = model, atoms
        self.s = mf.from_ase(atoms, model)
        self.function = dynamical_matrix_fn(model, self.s.graph, **options)

    def __call__(self, q: Tensor | Sequence[float]) -> Tensor:
        q = torch.as_tensor(q, dtype=self.model.dtype)
        s = self.s
        return self.function(q, s.positions, s.cell, self.model.params, s.masses)

    def supercell(self, repeats: Sequence[int]) -> Callable[[Sequence[float]], np.ndarray]:
        """Sums over cells of the Hessian of a supercell, at commensurate wave vectors."""
        atoms, size = self.atoms, len(self.atoms)
        large = make_supercell(atoms, np.diag(repeats), order="cell-major")
        large.info = atoms.info
        t = mf.from_ase(large, self.model)
        hessian = mf.hessian(mf.energy_fn(self.model, t.graph))
        blocks = hessian(t.positions, t.cell, self.model.params).numpy()
        blocks = blocks.reshape(-1, size, 3, len(large) // size, size, 3)[0]
        shifts = large.positions.reshape(-1, size, 3)[:, 0] - atoms.positions[0]
        cells = np.rint(np.linalg.lstsq(atoms.cell.array.T, shifts.T, rcond=None)[0].T)
        root = np.sqrt(atoms.get_masses()).repeat(3)

        def folded(q: Sequence[float]) -> np.ndarray:
            phases = np.exp(2j * np.pi * cells @ q)
            matrix = np.einsum("jaRkb,R->jakb", blocks, phases).reshape(3 * size, 3 * size)
            return matrix / np.outer(root, root)

        return folded


def parts(matrix: Tensor) -> Tensor:
    return torch.view_as_real(matrix.resolve_conj())


def central(f: Any, h: float) -> Tensor:
    """Central difference of fourth order."""
    return (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h)
