"""Crystals of pair potentials: quick, anharmonic, and with minima that are known to be stable."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from ase import Atoms
from ase.build import bulk

import mace_functional as mf


def _smooth(near: Any, values: torch.Tensor, cutoff: float) -> torch.Tensor:
    return near.sum(0.5 * values * (1 - (near.distances / cutoff) ** 2).clamp(min=0) ** 4)


def xenon() -> mf.FunctionPotential:
    """Lennard-Jones potential, smooth at its cutoff of 7 Å."""

    def energies(near: Any, params: Any) -> torch.Tensor:
        s6 = (3.4 / near.distances) ** 6
        return _smooth(near, 4 * params["epsilon"] * (s6**2 - s6), 7.0)

    params = {"epsilon": 0.0200}
    return mf.FunctionPotential(energies, cutoff=7.0, params=params, mirror_symmetric=True)


def ions() -> mf.FunctionPotential:
    """Screened charges of sodium and chlorine with a Born-Mayer repulsion, smooth at 8 Å."""

    def energies(near: Any, params: Any) -> torch.Tensor:
        charge = torch.where(near.numbers == 11, 1.0, -1.0).to(near.distances)
        other = torch.where(near.neighbour_numbers == 11, 1.0, -1.0).to(near.distances)
        r = near.distances
        attraction = 14.4 * charge[:, None] * other * torch.exp(-r / params["screening"]) / r
        return _smooth(near, attraction + params["repulsion"] * torch.exp(-r / 0.33), 8.0)

    params = {"screening": 6.0, "repulsion": 1200.0}
    return mf.FunctionPotential(energies, cutoff=8.0, params=params, mirror_symmetric=True)


@cache
def _relaxed(name: str) -> Atoms:
    potential, atoms = {
        "fcc": (xenon(), bulk("Xe", "fcc", a=5.2)),
        "hcp": (xenon(), bulk("Xe", "hcp", a=3.7, c=6.04)),
        "salt": (ions(), bulk("NaCl", "rocksalt", a=5.5)),
    }[name]
    found = mf.relax(potential, atoms, symmetry=True, fmax=1e-9)
    assert found.converged
    return Atoms(atoms.symbols, found.atoms.positions, cell=found.atoms.cell, pbc=True)


def relaxed(name: str) -> Atoms:
    """Return a crystal at its minimum: "fcc" and "hcp" of xenon, "salt"."""
    return _relaxed(name).copy()
