"""Elastic constants against finite strains in mace-torch, with ions relaxed by ASE."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
import spglib
import torch
from ase import Atoms
from ase.build import bulk
from ase.optimize import BFGS
from ase.units import GPa
from helpers import assert_close
from in_mace_torch import in_mace_torch
from mace.calculators import MACECalculator

import mace_functional as mf
from mace_functional.elasticity import to_voigt

pytestmark = pytest.mark.slow

ALBITE = {
    "Al": [[0.0089, 0.1685, 0.2082]],
    "Si": [[0.0039, 0.8205, 0.2374], [0.6920, 0.1102, 0.3149], [0.6813, 0.8817, 0.3606]],
    "O": [
        [0.0049, 0.1311, 0.9669],
        [0.5919, 0.9970, 0.2804],
        [0.8124, 0.1098, 0.1907],
        [0.8202, 0.8510, 0.2588],
        [0.0134, 0.3022, 0.2705],
        [0.0238, 0.6939, 0.2291],
        [0.2076, 0.1090, 0.3890],
        [0.1838, 0.8681, 0.4360],
    ],
    "Na": [[0.2683, 0.9888, 0.1459]],
}
"""Low albite, space group C-1 (Harlow, Brown, Am. Mineral. 65, 986, 1980)."""


def albite() -> Atoms:
    """The primitive cell of 26 atoms, triclinic."""
    symbols = [element for element, sites in ALBITE.items() for _ in sites]
    sites = np.array([site for sites in ALBITE.values() for site in sites])
    cell = np.array([8.142, 12.785, 7.159, 94.19, 116.61, 87.68])
    images = np.concatenate([sites, -sites])
    conventional = Atoms(symbols * 2, scaled_positions=images, cell=cell, pbc=True)
    a, b, c = conventional.cell.array
    return Atoms(
        conventional.numbers, conventional.positions, cell=[(a + b) / 2, (b - a) / 2, c], pbc=True
    )


def quartz() -> Atoms:
    return mf.example_structure("quartz")


CRYSTALS: dict[str, Callable[[], Atoms]] = {
    "cubic silicon": lambda: bulk("Si", "diamond", a=5.46),
    "hexagonal zinc oxide": lambda: bulk("ZnO", "wurtzite", a=3.28, c=5.3),
    "trigonal quartz": quartz,
    "triclinic albite": albite,
}


@functools.cache
def calculator() -> MACECalculator:
    module = in_mace_torch(mf.load_model("embedded"))
    return MACECalculator(models=module, device="cpu", default_dtype="float64")


@functools.cache
def relaxed(name: str) -> Atoms:
    return mf.relax(mf.load_model("embedded"), CRYSTALS[name](), fmax=1e-6).atoms


def stress(atoms: Atoms, strain: np.ndarray, relax: bool) -> np.ndarray:
    """Stress of the strained crystal in GPa, in Voigt order."""
    strained = atoms.copy()
    strained.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    strained.calc = calculator()
    if relax:
        optimiser = BFGS(strained, logfile=None)
        assert optimiser.run(fmax=1e-6, steps=2000)
    return strained.get_stress(voigt=True) / GPa


def slopes(atoms: Atoms, relax: bool, step: float) -> torch.Tensor:
    """Matrix of d stress / d strain by central differences of fourth order."""
    columns = []
    for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)):
        strain = np.zeros((3, 3))
        strain[i, j] += 0.5 * step
        strain[j, i] += 0.5 * step
        near = stress(atoms, strain, relax) - stress(atoms, -strain, relax)
        far = 0.0
        if not relax:
            far = stress(atoms, 2 * strain, relax) - stress(atoms, -2 * strain, relax)
        columns.append((near / 2 if relax else (8 * near - far) / 12) / step)
    return torch.as_tensor(np.stack(columns, 1))


@pytest.mark.parametrize("name", ["cubic silicon", "hexagonal zinc oxide", "trigonal quartz"])
def test_constants_have_the_symmetry_of_the_crystal(name, model):
    """Every rotation of the space group leaves them as they are: zeros, and equal entries."""
    atoms = mf.relax(model, CRYSTALS[name](), fmax=1e-6, symmetry=True).atoms
    c, cell = mf.elastic_constants(model, atoms).tensor(), atoms.cell.array.T
    lattice = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
    rotations = spglib.get_symmetry(lattice, symprec=1e-5)["rotations"]
    assert len(rotations) == {"cubic silicon": 48, "hexagonal zinc oxide": 12}.get(name, 6)
    for rotation in rotations:
        q = torch.as_tensor(cell @ rotation @ np.linalg.inv(cell))
        assert_close(torch.einsum("ai,bj,ck,dl,ijkl", q, q, q, q, c), c, 1e-8)


@pytest.mark.parametrize("name", CRYSTALS)
def test_clamped_constants_are_differences_of_the_stress(name, model):
    found = mf.elastic_constants(model, relaxed(name)).clamped_stiffness
    assert_close(found, slopes(relaxed(name), relax=False, step=2e-3), 1e-6)


@pytest.mark.parametrize("name", CRYSTALS)
def test_relaxed_constants_are_differences_of_the_stress_with_relaxed_ions(name, model):
    found = mf.elastic_constants(model, relaxed(name))
    assert found.warnings == ()
    assert_close(found.stiffness, slopes(relaxed(name), relax=True, step=1e-3), 1e-3)


def test_birch_coefficients_are_differences_of_the_stress_under_pressure(model):
    """Quartz at 5 GPa, where it is stiffer and the tensors differ by several GPa."""
    atoms = mf.relax(model, quartz(), fmax=1e-6, pressure=5.0).atoms
    found = mf.elastic_constants(model, atoms, pressure=5.0)
    assert found.warnings == ()
    assert_close(found.stiffness, slopes(atoms, relax=True, step=1e-3), 1e-3)
    second = to_voigt(found.tensor(coefficients="second-derivative"))
    assert (found.stiffness - second).abs().max() > 2.0
