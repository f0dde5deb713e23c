"""Speeds of sound against the acoustic branches of D(q), and Debye temperatures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.units import GPa
from elastic_tensors import C11, C12, C44, cubic, quartz
from helpers import assert_close, random
from pair_potential import lennard_jones
from scipy.integrate import quad
from torch import Tensor

import mace_functional as mf
from mace_functional.elasticity import from_voigt
from mace_functional.elasticity.sound import debye_temperature, sound_velocities

DIRECTIONS = random(10, 3, seed=5)


def acoustic_slopes(phonons: mf.Phonons, direction: Tensor) -> Tensor:
    """Slopes along a direction at the zone centre, km/s, by perturbation of D(q)."""
    gradients = mf.group_velocities(phonons, [0.0, 0.0, 0.0], direction=direction)
    slopes = gradients @ (direction / direction.norm())
    return slopes[:3].sort().values


def check_slopes(potential: mf.Potential, atoms: Atoms, **options: float) -> None:
    constants = mf.elastic_constants(potential, atoms, **options)
    phonons = mf.phonons_of(potential, atoms)
    speeds = constants.sound_velocities(DIRECTIONS)
    for found, n in zip(speeds, DIRECTIONS, strict=True):
        assert_close(found, acoustic_slopes(phonons, n), 1e-4)


@pytest.mark.parametrize("pressure", [0.0, 20.0])
def test_speeds_are_slopes_of_the_acoustic_branches(pressure):
    """A close-packed crystal of two atoms, whose ions follow a strain; also under pressure."""
    potential = lennard_jones()
    atoms = mf.relax(potential, bulk("Ar", "hcp", a=2.8), fmax=1e-7, pressure=pressure).atoms
    check_slopes(potential, atoms, pressure=pressure)


@pytest.mark.slow
def test_speeds_of_quartz_are_slopes_of_its_acoustic_branches(model):
    atoms = mf.relax(model, mf.example_structure("quartz"), fmax=1e-5).atoms
    check_slopes(model, atoms)
    constants, phonons = mf.elastic_constants(model, atoms), mf.phonons_of(model, atoms)
    n = DIRECTIONS[0] / DIRECTIONS[0].norm()
    q = 1e-3 / (2 * math.pi) * torch.as_tensor(atoms.cell.array) @ n  # of length 1e-3 / Å
    frequencies = mf.frequencies(phonons.dynamical_matrix(q), unit="THz")[:3]
    speeds = 2 * math.pi * frequencies / 1e-3 * 0.1  # 1 THz Å is 0.1 km/s
    assert_close(speeds, constants.sound_velocities(n), 1e-4)


def test_silicon_along_its_axes():
    """Sound in silicon from C11, C12 and C44 by the formulas of cubic crystals, km/s."""
    density = 2.329
    c, stress = GPa * cubic(), torch.zeros(3, 3).double()
    amu = density / 1.66053906892
    found = sound_velocities(
        c, stress, amu, torch.tensor([[1, 0, 0], [1, 1, 0]], dtype=torch.float64)
    )
    slow, fast = math.sqrt(C44 / density), math.sqrt((C11 + C12 + 2 * C44) / 2 / density)
    expected = [
        [slow, slow, math.sqrt(C11 / density)],
        [math.sqrt((C11 - C12) / 2 / density), slow, fast],
    ]
    assert_close(found, torch.tensor(expected, dtype=torch.float64), 1e-6)


def test_isotropic_debye_temperature_is_that_of_the_formula():
    k, g, density, per_volume = 70 * GPa, 26 * GPa, 2.7 / 1.66053906892, 0.06
    identity = torch.eye(3).double()
    same = torch.einsum("ij,kl->ijkl", identity, identity)
    crossed = torch.einsum("ik,jl->ijkl", identity, identity)
    c = k * same + g * (crossed + crossed.transpose(2, 3) - 2 / 3 * same)
    found = debye_temperature(c, torch.zeros(3, 3).double(), density, per_volume)
    long, across = math.sqrt((k + 4 * g / 3) / density), math.sqrt(g / density)
    mean = (3 / (long**-3 + 2 * across**-3)) ** (1 / 3) * 9822.694  # m/s of sqrt(eV/amu)
    expected = (
        1.054571817e-34 / 1.380649e-23 * mean * (6 * math.pi**2 * per_volume * 1e30) ** (1 / 3)
    )
    assert_close(found, torch.tensor(expected, dtype=torch.float64), 1e-6)


def test_debye_temperature_of_quartz_is_the_mean_over_all_directions():
    c, stress, density = GPa * quartz(), torch.zeros(3, 3).double(), 2.65 / 1.66053906892

    def inverse_cube(z: float, azimuth: float) -> float:
        r = math.sqrt(1 - z * z)
        n = torch.tensor([r * math.cos(azimuth), r * math.sin(azimuth), z], dtype=torch.float64)
        return float((sound_velocities(c, stress, density, n) ** -3).mean())

    azimuths = np.pi * np.arange(12) / 12
    mean = np.mean(
        [
            quad(inverse_cube, 0, 1, args=(a + np.pi * s,), epsabs=1e-6)[0]
            for a in azimuths
            for s in (0, 1)
        ]
    )
    expected = (
        1.054571817e-34
        / 1.380649e-23
        * 1e3
        * mean ** (-1 / 3)
        * (6 * math.pi**2 * 0.0797e30) ** (1 / 3)
    )
    assert_close(
        debye_temperature(c, stress, density, 0.0797),
        torch.tensor(expected, dtype=torch.float64),
        1e-6,
    )


def test_a_growing_wave_has_a_negative_speed_and_no_debye_temperature():
    matrix = torch.diag(torch.tensor([100.0, 100, 100, -5, 30, 30], dtype=torch.float64))
    c, stress = from_voigt(matrix), torch.zeros(3, 3).double()
    speeds = sound_velocities(c, stress, 1.0, torch.tensor([0.0, 1, 0], dtype=torch.float64))
    assert speeds[0] < 0 < speeds[1]
    assert debye_temperature(c, stress, 1.0, 0.1).isnan()
