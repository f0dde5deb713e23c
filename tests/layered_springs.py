"""Springs in layers: a potential of one, two or three layers whose Hessians are sparse."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import bulk, graphene, molecule
from torch import Tensor

import mace_functional as mf

CUTOFF = 1.7
"""Å; the bonds of carbon are shorter, and all other distances longer."""


LENGTH = 1.45
"""Length d of a bond without tension, Å."""


def layered_springs(layers: int = 2, coupling: float = 0.1) -> mf.FunctionPotential:
    """`E_i = sum_j k/4 (r_ij - d)^2 + sum_n c/2 s_in^2`, s_in the sum of stretches n bonds away.

    All terms are squares, so that the Hessian has no negative eigenvalue at r = d.
    """

    def energies(near: mf.Neighbourhood, params: dict[str, Tensor]) -> Tensor:
        stretches = near.distances - LENGTH
        weights = near.neighbour_numbers / 6.0
        bonds = near.sum(params["k"] / 4 * weights * stretches**2)
        strain = near.sum(weights * stretches)
        squares = params["c"] / 2 * strain**2
        for _ in range(layers - 1):
            strain = near.sum(near.of_neighbours(strain))
            squares = squares + params["c"] / 2 * strain**2
        return bonds + squares

    return mf.FunctionPotential(
        energies, cutoff=CUTOFF, params={"k": 30.0, "c": coupling}, layers=layers
    )


def diamond(*repeats: int, rattle: float = 0.0) -> Atoms:
    """Carbon; all atoms of the cell (1, 1, 1) see images of themselves."""
    atoms = bulk("C", "diamond", a=4 * LENGTH / 3**0.5).repeat(repeats)
    atoms.rattle(rattle, seed=1)
    return atoms


def sheet(*repeats: int, rattle: float = 0.05) -> Atoms:
    """A layer of carbon, with one boron, periodic in its plane."""
    atoms = graphene(a=LENGTH * 3**0.5, size=(*repeats, 1))
    atoms.numbers[1] = 5
    atoms.rattle(rattle, seed=2)
    return atoms


def ribbon(length: int = 12) -> Atoms:
    """A zigzag chain of carbon, not periodic, with a nitrogen at its end."""
    x = np.arange(length)
    atoms = Atoms(f"C{length}", np.stack([1.25 * x, 0.735 * (x % 2), 0.05 * np.sin(x)], axis=1))
    atoms.numbers[-1] = 7
    return atoms


def dense(potential: mf.Potential, atoms: Atoms) -> np.ndarray:
    """The Hessian (3N, 3N) by `hessian`."""
    s = mf.from_ase(atoms, potential)
    matrix = mf.hessian(mf.energy_fn(potential, s.topology))(s.positions, s.cell, potential.params)
    return matrix.reshape(3 * len(atoms), -1).numpy()


STRUCTURES = {
    "crystal that sees its images": lambda: diamond(1, 1, 1, rattle=0.05),
    "crystal": lambda: diamond(4, 3, 2, rattle=0.05),
    "layer": lambda: sheet(4, 3),
    "chain": ribbon,
    "molecule": lambda: molecule("C6H6"),
}
