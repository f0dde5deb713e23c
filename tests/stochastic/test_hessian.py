"""Products with the mass-weighted Hessian without rigid motions, against its matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from helpers import assert_close, random
from pair_crystals import ions, relaxed, xenon

import mace_functional as mf
from mace_functional.stochastic.hessian import VibrationalHessian
from mace_functional.units import FREQUENCY_UNITS


def tetrahedron() -> Atoms:
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    return mf.relax(xenon(), Atoms("Xe4", 1.4 * corners), fmax=1e-8).atoms


def straight() -> Atoms:
    return mf.relax(xenon(), Atoms("Xe2", [[0, 0, 0], [0, 0, 3.9]]), fmax=1e-8).atoms


STRUCTURES = {
    "crystal": (ions(), relaxed("salt") * (2, 1, 1), 3),
    "molecule": (xenon(), tetrahedron(), 6),
    "linear": (xenon(), straight(), 5),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_products_and_eigenvalues_are_those_of_the_projected_matrix(name):
    potential, atoms, n_rigid = STRUCTURES[name]
    hessian = VibrationalHessian(potential, atoms, what="test")
    assert (hessian.n_rigid, hessian.n_modes) == (n_rigid, 3 * len(atoms) - n_rigid)
    s = potential.structure(atoms)
    h = mf.hessian(potential.energy_fn(s.topology))(s.positions, s.cell, potential.params)
    root = s.masses.sqrt().repeat_interleave(3)
    d = h.reshape(len(root), -1) / (root[:, None] * root)
    p = hessian.project(torch.eye(len(root), dtype=torch.float64))
    assert_close(p @ p, p)
    assert float(p.trace()) == pytest.approx(hessian.n_modes)
    vectors = hessian.project(random(3, len(root)))
    assert_close(hessian.multiply(vectors), vectors @ p @ d @ p)
    assert_close(hessian.multiply(vectors[:1]), (vectors @ p @ d @ p)[:1])
    frequencies = hessian.eigenvalues().sqrt() * FREQUENCY_UNITS["cm-1"]
    assert_close(frequencies, mf.gamma_modes(potential, atoms).frequencies, 1e-9)
