"""Ideal gases of molecules against ASE, measured entropies, and identities of thermodynamics."""

from __future__ import annotations

import warnings

import ase.units
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.constraints import FixedPlane
from ase.thermochemistry import IdealGasThermo as IdealGasOfAse
from torch import Tensor

import mace_functional as mf
from mace_functional.units import EV_PER_MOLECULE, K_B

T = 298.15
FREQUENCIES = {  # measured fundamentals, cm-1
    "H2O": [1594.7, 3657.1, 3755.9],
    "CO2": [667.4, 667.4, 1333.0, 2349.1],
    "H2": [4161.2],
    "N2": [2329.9],
    "O2": [1556.4],
    "HCl": [2885.9],
    "NH3": [950.0, 1627.0, 1627.0, 3337.0, 3444.0, 3444.0],
    "CH4": [1306.0] * 3 + [1534.0] * 2 + [2917.0] + [3019.0] * 3,
    "SF6": [347.0] * 3 + [525.0] * 3 + [616.0] * 3 + [643.0] * 2 + [775.0] + [948.0] * 3,
    "D2O": [1178.4, 2671.7, 2787.7],
    "HDO": [1403.5, 2723.7, 3707.5],
    "C6H6": [
        *(410, 410, 606, 606, 673, 703, 849, 849, 975, 975, 992, 995, 1010, 1038, 1038, 1150),
        *(1178, 1178, 1310, 1326, 1486, 1486, 1596, 1596, 3047, 3047, 3062, 3063, 3063, 3068),
    ],
    "CH3CH2OH": [
        *(201, 243, 419, 801, 892, 1028, 1089, 1161, 1241, 1270, 1371, 1394, 1412, 1430, 1456),
        *(1490, 2900, 2948, 2985, 2989, 3653),
    ],
}
D = 2.01410178


def water(*masses: float) -> Atoms:
    """Water at its measured bond length and angle."""
    half = np.deg2rad(104.48 / 2)
    x, z = 0.9578 * np.sin(half), 0.9578 * np.cos(half)
    return Atoms("OH2", [[0, 0, 0], [x, 0, z], [-x, 0, z]], masses=masses or None)


def tetrahedron(symbols: str, bond: float) -> Atoms:
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / 3**0.5
    return Atoms(symbols, bond * np.array([[0, 0, 0], *corners]))


def ammonia() -> Atoms:
    """Ammonia at its measured bond length and angle."""
    bond, angle = 1.012, np.deg2rad(106.7)
    radius = 2 / 3**0.5 * np.sin(angle / 2) * bond
    turns = 2 * np.pi / 3 * np.arange(3)
    height = (bond**2 - radius**2) ** 0.5
    hydrogens = np.column_stack([np.cos(turns), np.sin(turns), 0 * turns]) * radius
    return Atoms("NH3", [[0, 0, height], *hydrogens])


def line(symbols: str, *z: float) -> Atoms:
    return Atoms(symbols, [[0, 0, x] for x in z])


MEASURED = {  # geometry, S(298.15 K, 1 bar) and Cp in J/(mol K): JANAF, CODATA
    "H2O": (water(), 188.84, 33.59),
    "D2O": (water(15.9949, D, D), 198.34, 34.25),
    "HDO": (water(15.9949, 1.00783, D), 199.51, 33.79),
    "CO2": (line("OCO", -1.160, 0, 1.160), 213.79, 37.13),
    "N2": (line("N2", 0, 1.0977), 191.61, 29.12),
    "O2": (line("O2", 0, 1.2075), 205.15, 29.38),
    "HCl": (line("HCl", 0, 1.2746), 186.90, 29.14),
    "H2": (line("H2", 0, 0.7510), 130.68, 28.84),
    "NH3": (ammonia(), 192.77, 35.65),
    "CH4": (tetrahedron("CH4", 1.087), 186.25, 35.69),
    "SF6": (Atoms("SF6", 1.561 * np.array([[0, 0, 0], *np.eye(3), *-np.eye(3)])), 291.5, 97.0),
    "C6H6": (molecule("C6H6"), 269.2, 82.4),
}
LINEAR = ("CO2", "H2", "N2", "O2", "HCl")


def gas(name: str, atoms: Atoms | None = None, temperatures=T, **options) -> mf.IdealGasThermo:
    atoms = molecule(name) if atoms is None else atoms
    return mf.ideal_gas_thermo(FREQUENCIES[name], atoms, temperatures, unit="cm-1", **options)


@pytest.fixture(scope="module")
def relaxed(model) -> Atoms:
    """Water, relaxed with the embedded model."""
    return mf.relax(model, molecule("H2O"), fmax=1e-3).atoms


@pytest.mark.parametrize("name", ["H2O", "CH3CH2OH", "C6H6", "CO2", "H2"])
@pytest.mark.parametrize("pressure", [1.0, 0.02])
def test_entropy_enthalpy_and_gibbs_energy_are_those_of_ase(name, pressure):
    atoms = molecule(name)
    number = {"H2O": 2, "CH3CH2OH": 1, "C6H6": 12, "CO2": 2, "H2": 2}[name]
    reference = IdealGasOfAse(
        np.array(FREQUENCIES[name]) * ase.units.invcm,
        "linear" if name in LINEAR else "nonlinear",
        potentialenergy=-3.5,
        atoms=atoms,
        symmetrynumber=number,
        spin=1,
    )
    temperatures = [298.15, 500.0, 1000.0]
    found = gas(name, temperatures=temperatures, pressure=pressure, multiplicity=3, energy=-3.5)
    assert found.symmetry_number == number
    for i, t in enumerate(temperatures):
        entropy = reference.get_entropy(t, 1e5 * pressure, verbose=False)
        assert t * found.entropy[i].item() == pytest.approx(t * entropy, abs=1e-6 * t / T)
        assert found.internal_energy[i].item() == pytest.approx(
            reference.get_internal_energy(t, verbose=False), abs=1e-6
        )
        assert found.enthalpy[i].item() == pytest.approx(
            reference.get_enthalpy(t, verbose=False), abs=1e-6
        )
        assert found.gibbs_energy[i].item() == pytest.approx(
            reference.get_gibbs_energy(t, 1e5 * pressure, verbose=False), abs=1e-6 * t / T
        )


@pytest.mark.parametrize("name", MEASURED)
def test_measured_entropies_and_heat_capacities(name):
    atoms, entropy, heat_capacity = MEASURED[name]
    thermo = gas(name, atoms, multiplicity=3 if name == "O2" else 1)
    # Of H2 the levels of rotation are too far apart, of benzene the geometry is computed.
    tolerance = {"H2": 0.6, "C6H6": 0.7, "SF6": 0.7}.get(name, 0.25)
    assert thermo.molar_entropy.item() == pytest.approx(entropy, abs=tolerance)
    assert thermo.molar_heat_capacity_p.item() == pytest.approx(heat_capacity, abs=tolerance)


def test_noble_gas_has_the_entropy_of_sackur_and_tetrode():
    argon = mf.ideal_gas_thermo([], Atoms("Ar"), T, unit="cm-1")
    assert argon.molar_entropy.item() == pytest.approx(154.846, abs=0.005)
    assert argon.molar_heat_capacity_p.item() == pytest.approx(2.5 * 8.314463, abs=1e-5)
    assert argon.top == "atom"
    assert argon.rotational_constants.tolist() == []


def test_rotational_constants_of_water_and_nitrogen():
    """Measured: 27.88, 14.51 and 9.29 cm-1 of vibrating water, 1.998 cm-1 of nitrogen at rest."""
    np.testing.assert_allclose(
        gas("H2O", water()).rotational_constants, [27.88, 14.51, 9.29], rtol=0.03
    )
    np.testing.assert_allclose(
        gas("N2", MEASURED["N2"][0]).rotational_constants, [1.998, 1.998], rtol=1e-3
    )


def test_identities_by_transforms():
    """S = -dG/dT, Cp = dH/dT, Cv = dU/dT, V = dG/dp."""
    t, p = torch.tensor([250.0, 700.0]).double(), torch.tensor([0.3, 2.0]).double()

    def quantity(name: str) -> Tensor:
        return torch.func.grad(
            lambda t: getattr(gas("NH3", temperatures=t, pressure=p), name).sum()
        )(t)

    thermo = gas("NH3", temperatures=t, pressure=p)
    torch.testing.assert_close(-quantity("gibbs_energy"), thermo.entropy, rtol=1e-10, atol=0)
    torch.testing.assert_close(quantity("enthalpy"), thermo.heat_capacity_p, rtol=1e-10, atol=0)
    torch.testing.assert_close(quantity("internal_energy"), thermo.heat_capacity)
    volume = torch.func.grad(lambda p: gas("NH3", temperatures=t, pressure=p).gibbs_energy.sum())(p)
    torch.testing.assert_close(volume, K_B * t / p, rtol=1e-10, atol=0)
    torch.testing.assert_close(
        thermo.heat_capacity_p - thermo.heat_capacity, torch.full_like(t, K_B)
    )
    parts = [f"{name}_entropy" for name in ("translational", "rotational", "vibrational")]
    total = sum(getattr(thermo, name) for name in parts) + thermo.electronic_entropy
    torch.testing.assert_close(thermo.entropy, total)


def test_mapped_and_batched_temperatures_agree():
    t = torch.tensor([250.0, 300.0, 700.0]).double()
    mapped = torch.vmap(lambda t: gas("H2O", temperatures=t))(t)
    for one, other in zip(mapped, gas("H2O", temperatures=t), strict=True):
        torch.testing.assert_close(one, other.expand_as(one))
    for list_or_array in (t.tolist(), t.numpy()):
        torch.testing.assert_close(gas("H2O", temperatures=list_or_array).entropy, mapped.entropy)


def test_derivatives_by_frequencies():
    f = torch.tensor(FREQUENCIES["H2O"], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda f: (
            1e3
            * mf.ideal_gas_thermo(
                f, water(), [300.0, 900.0], unit="cm-1", rotor_cutoff=100.0
            ).gibbs_energy
        ),
        (f,),
    )


def test_mapped_frequencies_agree_with_single_molecules():
    sets = torch.tensor([FREQUENCIES["H2O"], FREQUENCIES["D2O"]], dtype=torch.float64)

    def gibbs_energy(f: Tensor) -> Tensor:
        options = {"unit": "cm-1", "rotor_cutoff": 100.0}
        return mf.ideal_gas_thermo(f, water(), [T, 500.0], **options).gibbs_energy

    singly = torch.stack([gibbs_energy(f) for f in sets])
    torch.testing.assert_close(torch.vmap(gibbs_energy)(sets), singly)


def test_single_precision_of_the_modes(model, relaxed):
    atoms = relaxed.copy()
    double = mf.ideal_gas_thermo(mf.gamma_modes(model, atoms), atoms, T)
    single = mf.ideal_gas_thermo(mf.gamma_modes(model.to(dtype="float32"), atoms), atoms, T)
    assert single.gibbs_energy.dtype == torch.float64
    torch.testing.assert_close(single.gibbs_energy, double.gibbs_energy, rtol=0, atol=1e-5)


def test_symmetry_number_and_multiplicity_are_logarithms():
    found, given = gas("C6H6"), gas("C6H6", symmetry_number=1, multiplicity=3)
    difference = (given.molar_entropy - found.molar_entropy).item()
    assert difference == pytest.approx(8.314463 * np.log(12 * 3))
    assert given.symmetry_number == 1


def test_isotopes_change_masses_moments_and_symmetry_number():
    heavy, mixed = gas("D2O", water(15.999, D, D)), gas("HDO", water(15.999, 1.008, D))
    assert (heavy.symmetry_number, mixed.symmetry_number) == (2, 1)
    assert heavy.mass.item() == pytest.approx(15.999 + 2 * D)


def test_soft_modes_as_rotors():
    soft = dict(FREQUENCIES, CH3CH2OH=[15.0, *FREQUENCIES["CH3CH2OH"][1:]])["CH3CH2OH"]
    ethanol = molecule("CH3CH2OH")
    harmonic = mf.ideal_gas_thermo(soft, ethanol, T, unit="cm-1")
    rotors = mf.ideal_gas_thermo(soft, ethanol, T, unit="cm-1", rotor_cutoff=100.0)
    assert rotors.molar_entropy < harmonic.molar_entropy - 5
    assert rotors.enthalpy == harmonic.enthalpy
    assert "modes below about 100 cm-1 as rotors" in repr(rotors)
    assert "rotors" not in repr(harmonic)
    both = mf.ideal_gas_thermo(
        soft, ethanol, T, unit="cm-1", rotor_cutoff=100.0, rotor_energies=True
    )
    assert both.entropy == rotors.entropy
    assert (harmonic.heat_capacity_p - both.heat_capacity_p).item() == pytest.approx(
        K_B / 2, rel=0.1
    )
    stiff = gas("H2O", rotor_cutoff=100.0).gibbs_energy - gas("H2O").gibbs_energy
    assert abs(stiff.item()) < 1e-5


def test_potential_and_its_modes_give_the_same_with_the_energy(model, relaxed):
    atoms = relaxed.copy()
    by_potential = mf.ideal_gas_thermo(model, atoms, [T, 500.0])
    modes = mf.gamma_modes(model, atoms)
    atoms.calc = mf.PotentialCalculator(model)
    energy = atoms.get_potential_energy()
    by_modes = mf.ideal_gas_thermo(modes, atoms, [T, 500.0], energy=energy)
    for one, other in zip(by_potential, by_modes, strict=True):
        torch.testing.assert_close(one, other)
    bare = mf.ideal_gas_thermo(modes, atoms, [T, 500.0])
    torch.testing.assert_close(
        by_modes.gibbs_energy - bare.gibbs_energy, bare.gibbs_energy * 0 + energy
    )
    reference = IdealGasOfAse(
        modes.frequencies.numpy() * ase.units.invcm,
        "nonlinear",
        potentialenergy=energy,
        atoms=atoms,
        symmetrynumber=2,
        spin=0,
    )
    assert by_potential.gibbs_energy[0].item() == pytest.approx(
        reference.get_gibbs_energy(T, 1e5, verbose=False), abs=1e-6
    )


def test_bent_molecule_that_is_linear_at_its_minimum_is_a_linear_rotor(model):
    atoms = molecule("CO2")
    atoms.positions[0, 0] += 0.002
    atoms.positions[1:, 2] *= 0.9986  # its bond length with this model
    thermo = mf.ideal_gas_thermo(model, atoms, T)
    assert thermo.top == "linear"
    assert thermo.symmetry_number == 2
    assert thermo.moments_of_inertia[0] == 0


def test_saddle_point_without_its_reaction_coordinate():
    f = [-500.0, *FREQUENCIES["NH3"][1:]]
    planar = ammonia()
    planar.positions[0] = 0
    with pytest.raises(ValueError, match=r"1 imaginary modes, down to -500 cm-1.*transition_state"):
        mf.ideal_gas_thermo(f, planar, T, unit="cm-1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        thermo = mf.ideal_gas_thermo(f, planar, T, unit="cm-1", transition_state=True)
    vibrations = mf.harmonic_thermo(f[1:], T, unit="cm-1")
    torch.testing.assert_close(thermo.vibrational_entropy, vibrations.entropy)
    torch.testing.assert_close(thermo.zero_point_energy, vibrations.zero_point_energy)
    assert thermo.n_imaginary == 1
    assert thermo.symmetry_number == 6
    assert "imaginary mode left out" in repr(thermo)


def test_cold_hydrogen_is_no_classical_rotor():
    with pytest.warns(UserWarning, match="at 100 K the rotation of this molecule is not classical"):
        gas("H2", temperatures=[100.0, 500.0])


def test_electrons_that_cannot_have_the_multiplicity():
    with pytest.warns(UserWarning, match="9 electrons cannot have the multiplicity 1"):
        mf.ideal_gas_thermo([3700.0], Atoms("OH", [[0, 0, 0], [0, 0, 0.97]]), T, unit="cm-1")
    ion = Atoms("OH", [[0, 0, 0], [0, 0, 0.97]], info={"charge": -1})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mf.ideal_gas_thermo([3700.0], ion, T, unit="cm-1")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"symmetry_number": 0}, "symmetry_number must be a whole number of at least 1, not 0"),
        ({"symmetry_number": 1.5}, "symmetry_number must be a whole number"),
        ({"multiplicity": 0}, "multiplicity must be a whole number of at least 1, not 0"),
        ({"pressure": 101325.0}, "up to 1000 in bar .1e5 Pa., not 101325"),
        ({"pressure": 0.0}, "above zero"),
        ({"pressure": [1.0, 2.0]}, "scalar or have the shape of temperatures"),
        ({"temperatures": 0.0}, "must lie above 0 K"),
        ({"temperatures": []}, "must lie above 0 K"),
        ({"rotor_cutoff": -1.0}, "rotor_cutoff must be a finite number above zero in cm-1"),
        ({"rotor_energies": True}, "rotor_energies needs rotor_cutoff"),
        ({"transition_state": True}, "has one imaginary mode, and this structure has 0"),
        ({"tolerance": 1.0}, "tolerance must be"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        gas("H2O", **options)


@pytest.mark.parametrize(
    ("frequencies", "atoms", "message"),
    [
        (FREQUENCIES["H2O"], bulk("Si"), "periodic along 3 directions: for a crystal call"),
        ([], Atoms(), "there are no atoms"),
        ([0.0, *FREQUENCIES["H2O"][1:]], molecule("H2O"), "a frequency is zero"),
        ([float("nan"), 1.0, 1.0], molecule("H2O"), "zero or not finite"),
        ([0.0] * 6 + FREQUENCIES["H2O"], molecule("H2O"), r"has frequencies \(3,\) or \(4,\)"),
        (FREQUENCIES["CO2"][1:], molecule("CO2"), r"on a line, and a linear .* \(4,\), not \(3,\)"),
        ([100.0], Atoms("Ar"), r"has frequencies \(0,\)"),
    ],
)
def test_what_is_no_gas_is_refused(frequencies, atoms, message):
    with pytest.raises(ValueError, match=message):
        mf.ideal_gas_thermo(frequencies, atoms, T, unit="cm-1")


def test_modes_that_do_not_fit_are_refused(model):
    atoms = molecule("H2O")
    modes = mf.gamma_modes(model, atoms)
    heavy = atoms.copy()
    heavy.set_masses([15.999, D, D])
    with pytest.raises(ValueError, match="the masses of the modes are not those of the atoms"):
        mf.ideal_gas_thermo(modes, heavy, T)
    with pytest.raises(ValueError, match="not those of a free molecule of 3 atoms"):
        mf.ideal_gas_thermo(mf.gamma_modes(model, atoms, indices=[1, 2]), atoms, T)
    pair = atoms.copy()
    pair.positions += 50
    pair += atoms
    held = atoms.copy()
    held.set_constraint(FixedPlane(0, (0, 0, 1)))
    with pytest.raises(ValueError, match="not those of a free molecule of 3 atoms"):
        mf.ideal_gas_thermo(model, held, T)
    with pytest.raises(ValueError, match="2 molecules that do not interact"):
        mf.ideal_gas_thermo(mf.gamma_modes(model, pair), pair, T)
    with pytest.raises(ValueError, match="modes have their own unit"):
        mf.ideal_gas_thermo(modes, atoms, T, unit="cm-1")
    with pytest.raises(ValueError, match="bare frequencies need their unit"):
        mf.ideal_gas_thermo(FREQUENCIES["H2O"], atoms, T)
    with pytest.raises(TypeError, match="they are swapped"):
        mf.ideal_gas_thermo(atoms, model, T)
    with pytest.raises(ValueError, match="the modes of gamma_modes, computed before"):
        torch.func.grad(lambda t: mf.ideal_gas_thermo(model, atoms, t).entropy)(torch.tensor(T))
    far = atoms.copy()
    far.positions[1] *= 1.05
    with pytest.warns(UserWarning, match="the molecule is not relaxed"):
        mf.ideal_gas_thermo(mf.gamma_modes(model, far), far, T, symmetry_number=1)


def test_texts():
    thermo = gas("C6H6", temperatures=[T, 500.0])
    assert "298.15, 500 K, 1 bar; G" in repr(thermo)
    assert "oblate symmetric top, symmetry number 12" in repr(thermo)
    assert "<th>Cp (J/(mol K))</th>" in thermo._repr_html_()
    assert "Ideal gas at 1 bar" in thermo._repr_html_()
    molar = thermo.molar_heat_capacity / EV_PER_MOLECULE
    torch.testing.assert_close(molar, thermo.heat_capacity)
    seen = []
    torch.func.grad(lambda t: seen.append(repr(gas("H2O", temperatures=t))) or t)(
        torch.tensor(T, dtype=torch.float64)
    )
    assert "under a transform" in seen[0]
    assert "results of vmap" in repr(
        torch.vmap(lambda t: gas("H2O", temperatures=t))(torch.tensor([T, 400.0]))
    )
