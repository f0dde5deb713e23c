"""Thermodynamic functions of eigenvalues against ASE, and their limits."""

from __future__ import annotations

import numpy as np
import torch
from ase.thermochemistry import HarmonicThermo
from ase.units import invcm
from helpers import assert_close

from mace_functional.stochastic.spectral_functions import SpectralFunctions
from mace_functional.units import FREQUENCY_UNITS, K_B


def test_functions_are_those_of_ase():
    frequencies = np.array([3.0, 80.0, 700.0, 3200.0])
    values = torch.as_tensor((frequencies / FREQUENCY_UNITS["cm-1"]) ** 2)
    t = torch.tensor([20.0, 300.0, 2000.0], dtype=torch.float64)
    c, s, f, u = SpectralFunctions(t)(values)[:12].view(4, 3, 4).sum(-1)
    for i, temperature in enumerate(t.tolist()):
        ase = HarmonicThermo(frequencies * invcm)
        assert_close(u[i], ase.get_internal_energy(temperature, verbose=False), 1e-6)
        assert_close(s[i], ase.get_entropy(temperature, verbose=False), 1e-6)
        assert_close(f[i], ase.get_helmholtz_energy(temperature, verbose=False), 1e-6)
        h = 1e-3 * temperature
        up, down = (ase.get_internal_energy(temperature + d, verbose=False) for d in (h, -h))
        assert_close(c[i], (up - down) / (2 * h), 1e-5)


def test_limits_at_zero_are_classical():
    t = torch.tensor([0.0, 300.0], dtype=torch.float64)
    functions = SpectralFunctions(t)
    for value, tolerance in ((0.0, 1e-15), (1e-12, 1e-9)):
        c, _, _, u = functions(torch.tensor(value, dtype=torch.float64))[:8].view(4, 2)
        assert_close(c[1], torch.tensor(K_B, dtype=torch.float64), tolerance)
        assert_close(u[1], torch.tensor(300 * K_B, dtype=torch.float64), tolerance)
        assert c[0] == 0


def test_at_absolute_zero_only_the_zero_point_energy_is_left():
    values = torch.tensor([0.04, 0.5], dtype=torch.float64)
    c, s, f, u, zero_point, below = SpectralFunctions(torch.zeros(1))(values)
    assert torch.stack([c, s, below]).eq(0).all()
    assert_close(u, zero_point)
    assert_close(f, zero_point)


def test_imaginary_modes_are_left_out_and_counted():
    found = SpectralFunctions(torch.tensor([300.0]))(torch.tensor([-1e-3], dtype=torch.float64))
    assert found[:-1].eq(0).all()
    assert found[-1] == 1
