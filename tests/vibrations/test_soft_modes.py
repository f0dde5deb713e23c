"""Soft modes as rotors: Grimme's formula by hand in SI units, that of ASE, limits, identities."""

from __future__ import annotations

import math

import ase.thermochemistry
import ase.units
import pytest
import scipy.constants as si
import torch

import mace_functional as mf
from mace_functional.units import EV_PER_MOLECULE, K_B
from mace_functional.vibrations.soft_modes import (
    GRIMME_CUTOFF,
    LARGEST_INERTIA,
    interpolated_thermo,
)

T = 298.15
SOFT = [3.0, 18.0, 45.0, 100.0, 180.0, 900.0]


def interpolated(frequencies, temperatures=T, *, cutoff=GRIMME_CUTOFF, energies=False):
    return interpolated_thermo(
        torch.tensor(frequencies, dtype=torch.float64),
        torch.as_tensor(temperatures, dtype=torch.float64),
        cutoff=cutoff,
        unit="cm-1",
        energies=energies,
    )


def rotor_entropy(wavenumber: float, temperature: float) -> float:
    """Equations 4 to 6 of Grimme 2012 in SI units, J/(mol K)."""
    mu = si.h / (8 * math.pi**2 * 100 * si.c * wavenumber)
    mu = mu * 1e-44 / (mu + 1e-44)
    x = 8 * math.pi**3 * mu * si.k * temperature / si.h**2
    return si.R * (0.5 + math.log(math.sqrt(x)))


def vibration_entropy(wavenumber: float, temperature: float) -> float:
    """Equation 3 of Grimme 2012, J/(mol K)."""
    x = si.h * si.c * 100 * wavenumber / (si.k * temperature)
    return si.R * (x / math.expm1(x) - math.log(-math.expm1(-x)))


@pytest.mark.parametrize("cutoff", [50.0, 100.0])
@pytest.mark.parametrize("wavenumber", SOFT)
def test_entropy_is_that_of_the_published_formula(wavenumber, cutoff):
    w = 1 / (1 + (cutoff / wavenumber) ** 4)
    by_hand = w * vibration_entropy(wavenumber, T) + (1 - w) * rotor_entropy(wavenumber, T)
    thermo = interpolated([wavenumber], cutoff=cutoff)
    assert thermo.molar_entropy.item() == pytest.approx(by_hand, rel=1e-8)


def test_modes_add_up_and_temperatures_keep_their_shape():
    together = interpolated(SOFT, [100.0, T, 500.0])
    singly = torch.stack([interpolated([f], [100.0, T, 500.0]).entropy for f in SOFT])
    torch.testing.assert_close(together.entropy, singly.sum(0))
    torch.testing.assert_close(interpolated(SOFT).entropy, together.entropy[1])


@pytest.mark.parametrize("energies", [False, True])
def test_values_of_ase(energies):
    rrho = getattr(ase.thermochemistry, "RRHOMode", None)
    if rrho is None:
        pytest.skip("this version of ASE has no soft modes")
    for wavenumber in SOFT:
        mode = rrho(
            wavenumber * ase.units.invcm, LARGEST_INERTIA, tau=100.0, treat_int_energy=energies
        )
        found = interpolated([wavenumber], energies=energies)
        assert found.entropy.item() == pytest.approx(
            mode.get_entropy(T, contributions=False), rel=1e-5
        )
        assert found.internal_energy.item() == pytest.approx(
            mode.get_internal_energy(T, contributions=False), rel=1e-5
        )


def test_largest_inertia_is_that_of_the_source():
    assert si.atomic_mass * 1e-20 * LARGEST_INERTIA == pytest.approx(1e-44, rel=1e-8)


def test_stiff_modes_and_small_cutoffs_are_harmonic():
    harmonic = mf.harmonic_thermo(SOFT, T, unit="cm-1")
    for quantity in ("entropy", "internal_energy", "heat_capacity", "free_energy"):
        found = getattr(interpolated(SOFT, cutoff=1e-3, energies=True), quantity)
        torch.testing.assert_close(found, getattr(harmonic, quantity), rtol=1e-9, atol=0)
    stiff = interpolated([3000.0], 2000.0)
    expected = mf.harmonic_thermo([3000.0], 2000.0, unit="cm-1").entropy
    torch.testing.assert_close(stiff.entropy, expected, rtol=1e-5, atol=0)


def test_modes_of_no_frequency_have_the_entropy_of_the_largest_rotor():
    softest = interpolated([1e-7]).entropy.item()
    x = 8 * math.pi**3 * 1e-44 * si.k * T / si.h**2
    assert EV_PER_MOLECULE * softest == pytest.approx(
        si.R * (0.5 + math.log(math.sqrt(x))), rel=1e-6
    )
    assert mf.harmonic_thermo([1e-7], T, unit="cm-1").entropy.item() > 4 * softest


def test_energies_of_soft_modes_go_to_those_of_a_rotor():
    thermo = interpolated([1e-3], energies=True)
    assert thermo.internal_energy.item() == pytest.approx(K_B * T / 2)
    assert thermo.heat_capacity.item() == pytest.approx(K_B / 2)
    harmonic = interpolated([1e-3])
    assert harmonic.heat_capacity.item() == pytest.approx(K_B)


def test_interpolated_energies_and_entropies_have_one_heat_capacity():
    temperature = torch.tensor(T, dtype=torch.float64)
    for quantity, factor in (("entropy", T), ("internal_energy", 1.0)):
        slope = torch.func.grad(
            lambda t, name=quantity: getattr(interpolated(SOFT, t, energies=True), name)
        )(temperature)
        torch.testing.assert_close(
            factor * slope, interpolated(SOFT, energies=True).heat_capacity, rtol=1e-9, atol=0
        )


def test_derivatives_in_frequencies_match_finite_differences():
    frequencies = torch.tensor([12.0, 60.0, 130.0], dtype=torch.float64, requires_grad=True)
    temperatures = torch.tensor([200.0, 400.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda f: (
            1e3
            * interpolated_thermo(
                f, temperatures, cutoff=100.0, unit="cm-1", energies=True
            ).free_energy
        ),
        (frequencies,),
    )


def test_modes_that_are_not_positive_are_left_out():
    with pytest.warns(UserWarning, match="1 imaginary modes"):
        found = interpolated([-40.0, 0.0, *SOFT])
    torch.testing.assert_close(found.entropy, interpolated(SOFT).entropy)
