"""Relaxed structures, and the operators and spectra of their Hessians."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from ase import Atoms
from ase.optimize import BFGS
from torch import Tensor

import mace_functional as mf
from mace_functional.vibrations.harmonic_modes import internal_motions, rigid_motions

MOLECULE, CRYSTAL = (False, False, False), (True, True, True)


def relaxed(model: mf.MaceModel, atoms: Atoms, force: float = 0.002) -> Atoms:
    atoms = atoms.copy()
    atoms.calc = mf.MaceCalculator(model)
    assert BFGS(atoms, logfile=None).run(force, 300)
    atoms.calc = None
    return atoms


def operator(
    model: mf.MaceModel, atoms: Atoms, weighted: bool = True
) -> tuple[mf.HessianOperator, mf.Structure]:
    s = mf.from_ase(atoms, model)
    energy = mf.energy_fn(model, s.graph)
    masses = s.masses if weighted else None
    return mf.HessianOperator(energy, s.positions, s.cell, model.params, masses), s


def quadratic(
    hessian: Tensor, positions: Tensor, masses: Tensor | None = None, cell: Tensor | None = None
) -> mf.HessianOperator:
    """The operator of a given Hessian (3N, 3N)."""

    def energy(x: Tensor, *_: Any) -> Tensor:
        moved = (x - positions).reshape(-1)
        return 0.5 * moved @ hessian @ moved

    cell = torch.eye(3).to(positions) if cell is None else cell
    return mf.HessianOperator(energy, positions, cell, None, masses)


def rigid_of(op: mf.HessianOperator, pbc: Sequence[bool]) -> Tensor:
    masses = torch.ones(len(op.positions)) if op.masses is None else op.masses
    return rigid_motions(op.positions, masses, pbc=pbc, cell=op.cell)


def dense_spectrum(op: mf.HessianOperator, pbc: Sequence[bool]) -> Tensor:
    """All eigenvalues of the matrix, rigid motions projected out."""
    rest = internal_motions(rigid_of(op, pbc))
    matrix = rest.mT @ op.dense() @ rest
    return torch.linalg.eigvalsh((matrix + matrix.mT) / 2)
