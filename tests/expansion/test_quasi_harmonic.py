"""Quasi-harmonic cells against scans of cells, thermodynamic identities and phonopy."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from conftest import shared_file
from pair_crystals import ions, relaxed, xenon
from scipy.interpolate import CubicSpline
from scipy.optimize import brentq

import mace_functional as mf
from mace_functional.expansion import QuasiHarmonic
from mace_functional.expansion import quasi_harmonic as module_of_function
from mace_functional.units import EV_PER_MOLECULE

quasi_harmonic = partial(mf.quasi_harmonic, chunk_size=None)
MESH = (2, 2, 2)
AROUND_300 = [299.0, 300.0, 301.0]


@pytest.fixture(scope="module")
def salt() -> QuasiHarmonic:
    return quasi_harmonic(ions(), relaxed("salt"), [300.0, 0.0, 299.0, 301.0, 100.0], mesh=MESH)


def free_energies(
    potential: Any, atoms: Atoms, cells: Any, temperatures: Any, mesh: Any
) -> tuple[np.ndarray, Any]:
    """Return energies (C,) and thermodynamics on a mesh of a crystal in several cells."""
    energies, thermo = [], []
    for cell in cells:
        moved = atoms.copy()
        moved.set_cell(cell, scale_atoms=True)
        s = mf.from_ase(moved, potential)
        energy = potential.energy_fn(s.topology)(s.positions, s.cell, potential.params)
        phonons = mf.phonons_of(potential, moved, method="replicas", chunk_size=None)
        modes = mf.mesh_modes(phonons, mf.Mesh.of(moved, mesh), eigenvectors=False)
        energies.append(float(energy))
        thermo.append(mf.mesh_thermo(modes, temperatures).thermo)
    return np.array(energies), thermo


@pytest.mark.slow
@pytest.mark.parametrize("highest", [300.0, 400.0])
def test_shells_that_cross_the_cutoff_leave_no_error_in_the_expansion(highest):
    """The third neighbours of sodium chloride cross that of the embedded model, 5 Å."""
    model = mf.load_model("embedded")
    atoms = mf.relax(model, bulk("NaCl", "rocksalt", a=5.64), symmetry=True, fmax=1e-6).atoms
    atoms.calc = None
    temperatures = np.arange(0.0, highest + 1, 50.0)
    found = quasi_harmonic(model, atoms, temperatures, mesh=MESH)
    strains = np.linspace(0.0, 0.02, 21)
    cells = [(1 + e) * atoms.cell.array for e in strains]
    around = temperatures[1:, None] + np.array([-2.0, 2.0])
    energies, thermo = free_energies(model, atoms, cells, around.ravel(), MESH)
    slopes = CubicSpline(strains, energies[:, None] + np.array([t.free_energy for t in thermo]), 0)
    minima = [brentq(lambda e, k=k: slopes(e, 1)[k], 0.0, 0.02) for k in range(around.size)]
    scanned = np.reshape(minima, around.shape)
    strain = found.strain[1:, 0, 0].numpy()
    np.testing.assert_allclose(strain, scanned.mean(1), atol=2e-4)
    expansion = np.diff(scanned, axis=1)[:, 0] / 4 / (1 + strain)
    np.testing.assert_allclose(found.expansion[1:, 0, 0].numpy(), expansion, rtol=0.08)


def test_volume_is_the_minimum_of_a_scan(salt):
    atoms = relaxed("salt")
    scales = np.linspace(1.008, 1.016, 5)
    cells = [scale * atoms.cell.array for scale in scales]
    energies, thermo = free_energies(ions(), atoms, cells, 300.0, MESH)
    total = energies + np.array([float(t.free_energy) for t in thermo])
    fit = np.polynomial.Polynomial.fit(scales, total, 4)
    roots = fit.deriv().roots()
    (scale,) = [r.real for r in roots if abs(r.imag) < 1e-9 and 1.008 < r.real < 1.016]
    assert salt.converged
    assert float(salt.volume[0]) == pytest.approx(scale**3 * atoms.get_volume(), rel=2e-5)
    assert float(salt.gibbs_energy[0]) == pytest.approx(fit(scale), abs=1e-6)


def test_temperatures_keep_their_order_and_lattice_parameters_belong_to_cells(salt):
    assert salt.temperatures.tolist() == [300.0, 0.0, 299.0, 301.0, 100.0]
    assert salt.volume.argsort().tolist() == [1, 4, 2, 0, 3]
    a = salt.lattice_parameters[:, 0]
    torch.testing.assert_close(a**3 / 2**0.5, salt.volume)
    assert salt.n_cells == 3  # the minimum at 301 K lies 14 % outside of the second
    assert salt.n_matrices == 3 * len(salt.mesh.q)


def test_entropy_heat_capacity_and_expansion_are_derivatives(salt):
    """S = -dG/dT, Cp = T dS/dT, alpha_V = d ln V / dT, by central differences around 300 K."""
    at, below, above = 0, 2, 3

    def slope(values: torch.Tensor) -> torch.Tensor:
        return (values[above] - values[below]) / 2

    torch.testing.assert_close(salt.entropy[at], -slope(salt.gibbs_energy), rtol=1e-5, atol=0)
    torch.testing.assert_close(salt.cp[at], 300 * slope(salt.entropy), rtol=1e-5, atol=0)
    expected = slope(salt.volume.log())
    torch.testing.assert_close(salt.volumetric_expansion[at], expected, rtol=1e-5, atol=0)
    gap = 300 * salt.volume * salt.volumetric_expansion**2 * salt.isothermal_bulk_modulus
    torch.testing.assert_close((salt.cp - salt.cv)[at], gap[at] / 160.21766, rtol=1e-5, atol=0)
    ratio = salt.adiabatic_bulk_modulus / salt.isothermal_bulk_modulus
    torch.testing.assert_close(ratio[at], (salt.cp / salt.cv)[at])
    assert salt.cp[1] == salt.cv[1] == 0
    assert ratio[1] == 1


def test_bulk_modulus_is_the_derivative_of_the_volume_by_pressure(salt):
    low, high = (
        quasi_harmonic(ions(), relaxed("salt"), 300.0, mesh=MESH, pressure=p).volume[0]
        for p in (-0.1, 0.1)
    )
    expected = -0.2 / (high / low).log()
    torch.testing.assert_close(salt.isothermal_bulk_modulus[0], expected, rtol=5e-3, atol=0)


def test_first_order_expansion_is_the_slope_at_low_temperature():
    """Heavy atoms have no zero-point motion, so the cell at 1 K is that of minimal energy."""
    atoms = relaxed("hcp")
    atoms.set_masses([1e9, 1e9])
    found = quasi_harmonic(xenon(), atoms, [0.02, 0.04], mesh=(2, 2, 1))
    first = mf.thermal_expansion(xenon(), atoms, [0.02, 0.04], mesh=(2, 2, 1), chunk_size=None)
    torch.testing.assert_close(found.expansion, first.expansion, rtol=1e-3, atol=1e-9)
    torch.testing.assert_close(found.strain, first.strain, rtol=1e-3, atol=1e-9)
    torch.testing.assert_close(found.cp, first.cp, rtol=1e-4, atol=0)


def test_an_interrupted_calculation_continues(tmp_path, monkeypatch):
    path = tmp_path / "salt.npz"
    expected = quasi_harmonic(ions(), relaxed("salt"), [0.0, 301.0], mesh=MESH)
    run = partial(quasi_harmonic, ions(), relaxed("salt"), mesh=MESH, checkpoint=path)
    module = __import__("sys").modules[module_of_function.__module__]
    compute, calls = module.confined, []

    def interrupted(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 5:  # the second wave vector of the second cell
            raise KeyboardInterrupt
        return compute(*args)

    monkeypatch.setattr(module, "confined", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run([0.0, 301.0])
    found = run([0.0, 301.0])
    assert len(calls) == 5 + 2 + 3  # and the third cell
    torch.testing.assert_close(found.volume, expected.volume, rtol=1e-10, atol=0)
    run([100.0, 301.0])  # other temperatures need no further cell
    assert len(calls) == 5 + 2 + 3
    with pytest.raises(ValueError, match=r"belongs to another calculation: .*pressure"):
        run([0.0], pressure=1.0)
    path.write_text("text")
    with pytest.raises(ValueError, match="is no checkpoint"):
        run([0.0])


def test_temperatures_without_minimum_have_no_numbers():
    with pytest.warns(UserWarning, match="no minimum at 2000 K"):
        found = quasi_harmonic(ions(), relaxed("salt"), [10.0, 2000.0], mesh=(1, 1, 2), max_cells=2)
    assert found.volume.isnan().tolist() == [False, True]
    assert found.cp.isnan().tolist() == [False, True]
    assert "1 temperatures without result" in repr(found)


def test_imaginary_modes_give_no_numbers():
    """Simple cubic xenon is a saddle point that symmetry keeps."""
    atoms = bulk("Xe", "sc", a=3.6)
    with pytest.warns(UserWarning, match="modes are imaginary in the cell at 5 K"):
        found = quasi_harmonic(xenon(), atoms, 5.0, mesh=(2, 2, 2), max_cells=2)
    assert found.n_imaginary[0] > 0
    assert found.volume.isnan().all()
    assert found.gibbs_energy.isnan().all()


def test_bad_input_is_refused():
    atoms = relaxed("salt")
    layer = atoms.copy()
    layer.pbc = (True, True, False)
    with pytest.raises(ValueError, match="periodic in three directions"):
        quasi_harmonic(ions(), layer, 300.0)
    with pytest.raises(ValueError, match="max_cells"):
        quasi_harmonic(ions(), atoms, 300.0, max_cells=1)
    with pytest.raises(ValueError, match="temperatures must lie"):
        quasi_harmonic(ions(), atoms, [])
    with pytest.raises(TypeError, match="swapped"):
        quasi_harmonic(atoms, ions(), 300.0)
    with pytest.raises(ValueError, match="do not interact"):
        quasi_harmonic(xenon(), Atoms("Xe", cell=[9, 9, 9], pbc=True), 30.0, mesh=(1, 1, 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("atoms", "temperatures", "scales"),
    [
        (bulk("Si", "diamond", a=5.46), np.arange(0, 601, 10.0), (0.996, 1.006)),
        (bulk("NaCl", "rocksalt", a=5.69), np.arange(0, 401, 10.0), (0.996, 1.028)),
    ],
    ids=["silicon", "salt"],
)
def test_eleven_volumes_of_phonopy(atoms, temperatures, scales):
    """Volume, alpha and Cp to 1 % of their range, with a fifth of the evaluations.

    Both begin with the relaxed crystal. A derivative of D(q) by strain counts as one evaluation.
    """
    qha = pytest.importorskip("phonopy.qha.core")
    model = mf.load_model(shared_file("weights", "MACE-MP-0_small.model"))
    mesh = (4, 4, 4)
    relaxed_atoms = mf.relax(model, atoms, symmetry=True, fmax=1e-5).atoms
    found = mf.quasi_harmonic(
        model, relaxed_atoms, temperatures, mesh=mesh, max_cells=2, fmax=1e-4, chunk_size=None
    )
    cells = [scale * found.atoms.cell.array for scale in np.linspace(*scales, 11)]
    energies, thermo = free_energies(model, found.atoms, cells, temperatures, mesh)

    def column(name: str, unit: float) -> np.ndarray:
        return unit * np.stack([getattr(t, name).numpy() for t in thermo], 1)

    expected = qha.QHA(
        np.array([abs(np.linalg.det(cell)) for cell in cells]),
        energies,
        temperatures,
        column("heat_capacity", EV_PER_MOLECULE),
        column("entropy", EV_PER_MOLECULE),
        column("free_energy", EV_PER_MOLECULE / 1000),
        eos="vinet",
    )
    expected.run()
    n = len(expected.volume_temperature)
    for ours, theirs in (
        (found.volume, expected.volume_temperature),
        (found.volumetric_expansion, expected.thermal_expansion),
        (EV_PER_MOLECULE * found.cp, expected.heat_capacity_P_polyfit),
    ):
        ours, theirs = ours.numpy()[2 : n - 1], np.array(theirs)[2 : n - 1]
        assert np.abs(ours - theirs).max() < 0.01 * np.ptp(theirs)
    assert found.n_matrices + found.n_gradients <= 11 * (len(found.mesh.q) + 1) / 5
    if atoms.symbols[0] == "Si":
        assert found.volumetric_expansion.min() < 0


@pytest.mark.slow
def test_a_hexagonal_crystal_against_a_scan_of_both_lattice_parameters():
    atoms, t, mesh = relaxed("hcp"), 15.0, (3, 3, 2)
    found = quasi_harmonic(xenon(), atoms, t, mesh=mesh, tolerance=1e-3)
    a, c = (m.ravel() for m in np.meshgrid(np.linspace(-1, 1, 5), np.linspace(-1, 1, 5)))
    cells = [
        found.cells[0].numpy() * np.array([1 + 4e-3 * x, 1 + 4e-3 * x, 1 + 4e-3 * y])
        for x, y in zip(a, c, strict=True)
    ]
    energies, thermo = free_energies(xenon(), found.atoms, cells, t, mesh)
    total = energies + np.array([float(f.free_energy) for f in thermo])
    powers = [(i, j) for i in range(5) for j in range(5 - i)]
    terms = np.stack([a**i * c**j for i, j in powers], 1)
    fit = dict(zip(powers, np.linalg.lstsq(terms, total, rcond=None)[0], strict=True))
    slopes = np.array([fit[1, 0], fit[0, 1]])
    curvature = np.array([[2 * fit[2, 0], fit[1, 1]], [fit[1, 1], 2 * fit[0, 2]]])
    shift = -4e-3 * np.linalg.solve(curvature, slopes)
    strain_a, strain_c = found.strain[0].diagonal()[[0, 2]].tolist()
    assert abs(shift[0]) < 0.01 * strain_a
    assert abs(shift[1]) < 0.01 * strain_c
    assert strain_c > 1.05 * strain_a
