"""Rigid rotors against sums over their levels, and moments of inertia against ASE."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import molecule
from torch import Tensor

from mace_functional.units import K_B
from mace_functional.vibrations.rigid_rotor import (
    HBAR_SQUARED,
    moments_of_inertia,
    quantum_correction,
    rotational_entropy,
    top_of,
)


def moments_of(temperatures: list[float]) -> Tensor:
    """Moments of inertia of rotational temperatures."""
    return HBAR_SQUARED / (2 * K_B * torch.tensor(temperatures, dtype=torch.float64))


def levels(a: float, b: float, c: float, highest: int) -> tuple[np.ndarray, np.ndarray]:
    """Levels of A Ja² + B Jb² + C Jc², in K, and their degeneracies, by diagonalisation."""
    energies, degeneracies = [], []
    for j in range(highest + 1):
        k = np.arange(-j, j + 1)
        up = np.diag(np.sqrt(j * (j + 1) - k[:-1] * (k[:-1] + 1.0)), -1)
        jx, jy, jz = (up + up.T) / 2, (up - up.T) / 2j, np.diag(k)
        energies.append(np.linalg.eigvalsh(b * jx @ jx + c * (jy @ jy).real + a * jz @ jz))
        degeneracies.append(np.full(2 * j + 1, 2 * j + 1))
    return np.concatenate(energies), np.concatenate(degeneracies)


@pytest.mark.parametrize("rotor", [(40.1, 20.9, 13.4), (7.5, 7.5, 7.5), (14.3, 14.3, 9.1)])
def test_entropy_and_correction_are_those_of_a_sum_over_levels(rotor):
    energies, degeneracies = levels(*rotor, highest=40)
    temperature = 300.0
    moments = moments_of(list(rotor))
    boltzmann = degeneracies * np.exp(-energies / temperature)
    q = boltzmann.sum()
    entropy = K_B * (np.log(q) + (boltzmann @ energies) / q / temperature)
    found = rotational_entropy(torch.tensor(temperature), moments, torch.tensor(1.0)).item()
    assert found == pytest.approx(entropy, rel=1e-4)
    ln_classical = found / K_B - 1.5
    correction = float(quantum_correction(moments)) / temperature
    assert np.log(q) - ln_classical == pytest.approx(correction, rel=0.03)


def test_linear_rotor_is_that_of_a_sum_over_levels():
    theta, temperature = 3.0, 100.0
    j = np.arange(60)
    boltzmann = (2 * j + 1) * np.exp(-j * (j + 1) * theta / temperature)
    q = boltzmann.sum()
    entropy = K_B * (np.log(q) + boltzmann @ (j * (j + 1)) * theta / temperature / q)
    moments = moments_of([theta, theta])
    found = rotational_entropy(torch.tensor(temperature), moments, torch.tensor(1.0)).item()
    assert found == pytest.approx(entropy, rel=1e-4)
    assert np.log(q) - found / K_B + 1 == pytest.approx(
        float(quantum_correction(moments)) / temperature, rel=0.03
    )


@pytest.mark.parametrize(
    ("name", "top"),
    [
        ("H2O", "asymmetric top"),
        ("CH4", "spherical top"),
        ("NH3", "oblate symmetric top"),
        ("C6H6", "oblate symmetric top"),
        ("CH3Cl", "prolate symmetric top"),
        ("CH3CH2OH", "asymmetric top"),
    ],
)
def test_moments_are_those_of_ase_and_tops_those_of_textbooks(name, top):
    atoms = molecule(name)
    moments = moments_of_inertia(
        torch.as_tensor(atoms.get_masses()), torch.as_tensor(atoms.positions)
    )
    np.testing.assert_allclose(moments, atoms.get_moments_of_inertia(), rtol=1e-10)
    assert top_of(moments.tolist()) == top


def test_linear_molecule_and_atom_have_moments_of_exactly_zero():
    atoms = molecule("C2H2")
    atoms.rotate(37, (1, 2, 3))
    masses = torch.as_tensor(atoms.get_masses())
    moments = moments_of_inertia(masses, torch.as_tensor(atoms.positions), linear=True)
    assert moments[0] == 0
    np.testing.assert_allclose(moments[1:], atoms.get_moments_of_inertia()[1:], rtol=1e-10)
    assert top_of(moments.tolist()) == "linear"
    atom = moments_of_inertia(torch.ones(1), torch.ones(1, 3))
    assert top_of(atom.tolist()) == "atom"
    assert rotational_entropy(torch.tensor(300.0), atom[3:], torch.tensor(1.0)) == 0
