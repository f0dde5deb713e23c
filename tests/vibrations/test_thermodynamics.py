"""Harmonic thermodynamics against ASE, limits of the Einstein function and its own identities."""

from __future__ import annotations

import math
import warnings

import ase.thermochemistry
import numpy as np
import pytest
import torch
from torch import Tensor

import mace_functional as mf
from mace_functional.units import FREQUENCY_UNITS, K_B, vibrational_quantum
from mace_functional.vibrations.thermodynamics import HarmonicThermo

WATER = torch.tensor([1595.0, 3657.0, 3756.0], dtype=torch.float64)
SOLID = torch.linspace(20.0, 900.0, 30, dtype=torch.float64)
TEMPERATURES = torch.tensor([5.0, 77.0, 298.15, 1500.0], dtype=torch.float64)
QUANTITIES = ("heat_capacity", "entropy", "free_energy", "internal_energy")


def harmonic_thermo(*args, unit: str = "cm-1", **kwargs) -> HarmonicThermo:
    """Thermodynamics of bare frequencies, in cm-1 unless said otherwise."""
    return mf.harmonic_thermo(*args, unit=unit, **kwargs)


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize("frequencies", [WATER, SOLID], ids=["water", "solid"])
@pytest.mark.parametrize("temperature", [20.0, 298.15, 2000.0])
def test_energies_and_entropy_match_ase(frequencies, temperature):
    quanta = frequencies.numpy() * vibrational_quantum("cm-1")
    reference = ase.thermochemistry.HarmonicThermo(quanta)
    found = harmonic_thermo(frequencies, temperature)
    assert found.internal_energy.item() == pytest.approx(
        reference.get_internal_energy(temperature, verbose=False), rel=1e-6
    )
    assert found.entropy.item() == pytest.approx(
        reference.get_entropy(temperature, verbose=False), rel=1e-5, abs=1e-15
    )
    assert found.free_energy.item() == pytest.approx(
        reference.get_helmholtz_energy(temperature, verbose=False), rel=1e-6
    )
    assert found.zero_point_energy.item() == pytest.approx(quanta.sum() / 2)


@pytest.mark.parametrize(
    # x^2 exp(x) / (exp(x) - 1)^2, to the digits of the tables of the Einstein function
    ("x", "einstein"),
    [(0.1, 0.99917), (0.5, 0.97942), (1.0, 0.92067), (2.0, 0.72406), (5.0, 0.17074), (10, 0.00454)],
)
def test_heat_capacity_of_one_mode_is_the_tabulated_einstein_function(x, einstein):
    temperature = vibrational_quantum("THz") / (K_B * x)
    thermo = harmonic_thermo(torch.ones(1, dtype=torch.float64), temperature, unit="THz")
    assert thermo.heat_capacity.item() / K_B == pytest.approx(einstein, abs=6e-6)


def test_hot_crystal_obeys_dulong_and_petit():
    thermo = harmonic_thermo(SOLID, 1e6)
    n_atoms = len(SOLID) // 3
    assert thermo.heat_capacity_per_atom(n_atoms).item() == pytest.approx(3.0, abs=1e-5)
    assert thermo.molar_heat_capacity.item() == pytest.approx(n_atoms * 24.943, rel=1e-4)
    # 24.943 J/(mol K) / 63.546 g/mol for copper
    masses = [63.546] * n_atoms
    assert thermo.specific_heat_capacity(masses).item() == pytest.approx(0.39252, rel=1e-4)


@pytest.mark.parametrize("log10_x", [-12, -8, -4, 1, 2, 2.8])
def test_accurate_for_tiny_and_huge_quanta(log10_x):
    x = 10.0**log10_x
    frequency = x * K_B / vibrational_quantum("cm-1")
    thermo = harmonic_thermo(scalar(frequency)[None], 1.0)
    if x < 1:
        expected = (1 - x**2 / 12, 1 - math.log(x) + x**2 / 24)
    else:
        boltzmann = math.exp(-x)
        expected = (x**2 * boltzmann / (1 - boltzmann) ** 2, (x + 1) * boltzmann)
    assert thermo.heat_capacity.item() / K_B == pytest.approx(expected[0], rel=1e-9, abs=0)
    assert thermo.entropy.item() / K_B == pytest.approx(expected[1], rel=1e-4, abs=0)


def test_internal_energy_is_free_energy_plus_heat():
    thermo = harmonic_thermo(SOLID, TEMPERATURES)
    torch.testing.assert_close(
        thermo.internal_energy, thermo.free_energy + TEMPERATURES * thermo.entropy
    )


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_temperature_derivatives_by_transforms_are_heat_capacity_and_entropy(temperature):
    thermo = harmonic_thermo(SOLID, temperature)
    energy = torch.func.grad(lambda t: harmonic_thermo(SOLID, t).internal_energy)
    free_energy = torch.func.grad(lambda t: harmonic_thermo(SOLID, t).free_energy)
    torch.testing.assert_close(energy(temperature), thermo.heat_capacity, rtol=1e-9, atol=1e-16)
    torch.testing.assert_close(-free_energy(temperature), thermo.entropy, rtol=1e-9, atol=1e-16)
    _, curvature = torch.func.jvp(free_energy, (temperature,), (torch.ones_like(temperature),))
    torch.testing.assert_close(
        -temperature * curvature, thermo.heat_capacity, rtol=1e-9, atol=1e-16
    )


def test_heat_capacity_is_curvature_of_free_energy_by_finite_differences():
    step = 0.5
    below, here, above = harmonic_thermo(SOLID, [300 - step, 300, 300 + step]).free_energy
    curvature = (above - 2 * here + below) / step**2
    expected = harmonic_thermo(SOLID, 300.0).heat_capacity
    torch.testing.assert_close(-300 * curvature, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_derivatives_in_frequencies_and_temperatures_match_finite_differences(quantity):
    frequencies = torch.tensor([12.0, 30.0, 47.0, 110.0], dtype=torch.float64)
    temperatures = torch.tensor([90.0, 700.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda f, t: 1e3 * getattr(harmonic_thermo(f, t, unit="meV"), quantity),
        (frequencies.requires_grad_(), temperatures.requires_grad_()),
        check_forward_ad=True,
        check_batched_grad=True,
    )
    assert torch.autograd.gradgradcheck(
        lambda f: 1e3 * getattr(harmonic_thermo(f, 700.0, unit="meV"), quantity), (frequencies,)
    )


@pytest.mark.parametrize("temperature", [0.0, 1e-310, 1e-3])
def test_absolute_zero_leaves_the_zero_point_energy_and_finite_derivatives(temperature):
    thermo = harmonic_thermo(WATER, temperature)
    assert thermo.heat_capacity == 0
    assert thermo.entropy == 0
    assert thermo.internal_energy == thermo.free_energy == thermo.zero_point_energy
    assert thermo.zero_point_energy.item() == pytest.approx(WATER.sum().item() * 1.239842e-4 / 2)
    half_quantum = torch.full_like(WATER, vibrational_quantum("cm-1") / 2)
    for quantity, slope in zip(QUANTITIES, (0.0, 0.0, 1.0, 1.0), strict=True):

        def value(f: Tensor, t: Tensor, quantity: str = quantity) -> Tensor:
            return getattr(harmonic_thermo(f, t), quantity)

        in_frequency, in_temperature = torch.func.grad(value, argnums=(0, 1))(
            WATER, scalar(temperature)
        )
        torch.testing.assert_close(in_frequency, slope * half_quantum, rtol=1e-12, atol=0)
        assert in_temperature == 0


def test_list_of_temperatures_with_absolute_zero_equals_one_at_a_time():
    together = harmonic_thermo(SOLID, [0, 298.15, 40.0])
    for quantity in QUANTITIES:
        singly = [getattr(harmonic_thermo(SOLID, t), quantity) for t in (0.0, 298.15, 40.0)]
        torch.testing.assert_close(getattr(together, quantity), torch.stack(singly))
    assert together.zero_point_energy.shape == ()


def test_temperatures_as_list_array_and_tensor_agree_to_the_last_digit():
    as_list = harmonic_thermo(SOLID, [298.15, 77.7])
    for temperatures in (np.array([298.15, 77.7]), torch.tensor([298.15, 77.7]).double()):
        found = harmonic_thermo(SOLID, temperatures).heat_capacity
        torch.testing.assert_close(found, as_list.heat_capacity, rtol=1e-6, atol=0)
    assert as_list.temperatures.tolist() == [298.15, 77.7]


def test_units_of_frequency_agree():
    for unit, factor in FREQUENCY_UNITS.items():
        converted = SOLID * factor / FREQUENCY_UNITS["cm-1"]
        torch.testing.assert_close(
            harmonic_thermo(converted, TEMPERATURES, unit=unit),
            harmonic_thermo(SOLID, TEMPERATURES),
        )


def test_mesh_is_the_weighted_mean_of_its_q_points():
    mesh = torch.stack([SOLID, SOLID + 50, 2 * SOLID])
    thermo = harmonic_thermo(mesh, TEMPERATURES, weights=[1, 4, 3])
    equal = harmonic_thermo(mesh, TEMPERATURES)
    for quantity in (*QUANTITIES, "zero_point_energy"):
        each = [getattr(harmonic_thermo(at_q, TEMPERATURES), quantity) for at_q in mesh]
        weighted = (each[0] + 4 * each[1] + 3 * each[2]) / 8
        torch.testing.assert_close(getattr(thermo, quantity), weighted)
        torch.testing.assert_close(getattr(equal, quantity), sum(each) / 3)
    assert thermo.n_modes == 90


def test_imaginary_modes_are_left_out_counted_and_warned_of():
    disturbed = torch.cat([torch.tensor([-120.0, -3.0]).double(), SOLID])
    with pytest.warns(UserWarning, match="2 imaginary modes, down to -120 cm-1, are left out"):
        thermo = harmonic_thermo(disturbed, TEMPERATURES)
    assert (thermo.n_modes, thermo.n_imaginary, thermo.n_zero) == (30, 2, 0)
    expected = harmonic_thermo(SOLID, TEMPERATURES)
    for quantity in (*QUANTITIES, "zero_point_energy"):
        torch.testing.assert_close(getattr(thermo, quantity), getattr(expected, quantity))


def test_frequency_of_exactly_zero_is_left_out_with_zero_slope():
    with_zeros = torch.cat([torch.zeros(3, dtype=torch.float64), WATER])
    thermo = harmonic_thermo(with_zeros, 300.0)
    assert (thermo.n_modes, thermo.n_imaginary, thermo.n_zero) == (3, 0, 3)
    torch.testing.assert_close(thermo.entropy, harmonic_thermo(WATER, 300.0).entropy)
    slope = torch.func.grad(lambda f: harmonic_thermo(f, 300.0).entropy)(with_zeros)
    assert torch.equal(slope[:3], torch.zeros(3, dtype=torch.float64))
    assert (slope[3:] < 0).all()


def test_small_positive_frequency_holds_a_full_quantum_of_heat():
    noisy = torch.cat([torch.full((3,), 1e-6, dtype=torch.float64), WATER])
    excess = (
        harmonic_thermo(noisy, 300.0).heat_capacity - harmonic_thermo(WATER, 300.0).heat_capacity
    )
    assert excess.item() / K_B == pytest.approx(3.0)


def test_drop_takes_out_rigid_motions_of_either_sign_without_a_warning():
    rigid = torch.tensor([-0.8, 0.0, 0.3], dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unsorted = torch.cat([SOLID[20:], rigid, SOLID[:20]])
        thermo = harmonic_thermo(unsorted, TEMPERATURES, drop=3)
    torch.testing.assert_close(thermo, harmonic_thermo(SOLID, TEMPERATURES))


def test_drop_on_a_mesh_is_counted_for_each_q_point():
    gamma = torch.cat([torch.tensor([-0.8, -0.1, 0.3], dtype=torch.float64), SOLID[3:]])
    thermo = harmonic_thermo(torch.stack([SOLID, gamma]), TEMPERATURES, drop=[0, 3])
    assert (thermo.n_modes, thermo.n_imaginary) == (57, 0)
    expected = harmonic_thermo(SOLID, TEMPERATURES).entropy
    expected = (expected + harmonic_thermo(SOLID[3:], TEMPERATURES).entropy) / 2
    torch.testing.assert_close(thermo.entropy, expected)


def test_equal_frequencies_are_dropped_one_by_one():
    thermo = harmonic_thermo(torch.full((6,), 200.0, dtype=torch.float64), 300.0, drop=2)
    assert thermo.n_modes == 4


def test_nan_frequency_is_not_hidden():
    thermo = harmonic_thermo(torch.tensor([math.nan, 100.0]), [0.0, 300.0])
    assert thermo.free_energy.isnan().all()
    assert thermo.heat_capacity[1].isnan()


def test_vmap_returns_the_whole_result_and_equals_the_loop():
    batch = torch.stack([SOLID, SOLID - 200.0, 2 * SOLID])
    batched = torch.func.vmap(lambda f: harmonic_thermo(f, TEMPERATURES, drop=1))(batch)
    assert isinstance(batched, HarmonicThermo)
    with pytest.warns(UserWarning, match="imaginary"):
        looped = [harmonic_thermo(f, TEMPERATURES, drop=1) for f in batch]
    for name in HarmonicThermo._fields:
        expected = torch.stack([getattr(one, name) for one in looped])
        torch.testing.assert_close(getattr(batched, name), expected)
    assert batched.n_imaginary.tolist() == [0, 6, 0]


def test_vmap_over_temperatures_of_gradients_equals_the_loop():
    slope = torch.func.grad(lambda f, t: harmonic_thermo(f, t).heat_capacity)
    batched = torch.func.vmap(slope, in_dims=(None, 0))(SOLID, TEMPERATURES)
    looped = torch.stack([slope(SOLID, t) for t in TEMPERATURES])
    torch.testing.assert_close(batched, looped)
    forward = torch.func.jacfwd(lambda f: harmonic_thermo(f, TEMPERATURES).heat_capacity)(SOLID)
    torch.testing.assert_close(forward, looped)


def test_single_precision_stays_single_and_close():
    thermo = harmonic_thermo(SOLID.float(), TEMPERATURES)
    assert all(getattr(thermo, quantity).dtype == torch.float32 for quantity in QUANTITIES)
    expected = harmonic_thermo(SOLID, TEMPERATURES).heat_capacity
    torch.testing.assert_close(thermo.heat_capacity.double(), expected, rtol=1e-5, atol=0)


def test_atom_without_vibrations_has_no_heat():
    thermo = harmonic_thermo(SOLID[:0], TEMPERATURES)
    assert thermo.heat_capacity.tolist() == [0.0] * 4
    assert thermo.n_modes == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: harmonic_thermo(WATER, -1.0), "temperatures must be finite and not negative"),
        (lambda: harmonic_thermo(WATER, [300.0, math.nan]), "temperatures must be finite"),
        (lambda: harmonic_thermo(WATER, 300.0, unit="Hz"), "unknown unit of frequency 'Hz'"),
        (lambda: harmonic_thermo(WATER[0], 300.0), r"must be \(M,\) or \(Q, M\)"),
        (lambda: harmonic_thermo(WATER, 300.0, weights=[1.0]), "weights belong to q points"),
        (lambda: harmonic_thermo(WATER[None], 300.0, weights=[1.0, 2.0]), r"need weights \(1,\)"),
        (lambda: harmonic_thermo(WATER[None], 300.0, weights=[-1.0]), "weights must be finite"),
        (lambda: harmonic_thermo(WATER, 300.0, drop=-1), "drop must count 0 to 3 modes, got -1"),
        (lambda: harmonic_thermo(WATER, 300.0, drop=4), "drop must count 0 to 3 modes, got 4"),
        (lambda: harmonic_thermo(WATER, 300.0, drop=1.5), "drop must count 0 to 3 modes"),
        (lambda: harmonic_thermo(WATER[None], 300.0, drop=3), "one per q point"),
        (lambda: harmonic_thermo(WATER, 300.0, drop=[1]), "one integer for frequencies"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_modes_bring_their_unit_and_take_no_other():
    hessian = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], dtype=torch.float64))
    masses = torch.tensor([2.0, 3.0], dtype=torch.float64)
    found = [
        mf.harmonic_thermo(
            mf.normal_modes(hessian, masses, torch.eye(2, 3).double(), pbc=[True] * 3, unit=unit),
            TEMPERATURES,
        )
        for unit in FREQUENCY_UNITS
    ]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])
    modes = mf.normal_modes(hessian, masses, torch.eye(2, 3).double(), pbc=[True] * 3)
    for known in {"unit": "cm-1"}, {"weights": [1.0]}, {"drop": 3}:
        with pytest.raises(ValueError, match="NormalModes has its own weights"):
            mf.harmonic_thermo(modes, 300.0, **known)


def test_bare_frequencies_without_a_unit_are_told_to_have_one():
    with pytest.warns(DeprecationWarning, match="give harmonic_thermo their unit"):
        found = mf.harmonic_thermo(WATER, 300.0)
    torch.testing.assert_close(found, harmonic_thermo(WATER, 300.0))
