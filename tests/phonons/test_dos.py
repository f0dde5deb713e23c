"""Densities of states against phonopy, closed forms and sampling."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import bulk
from springs import chain, phonopy_of, salt, silicon, spring_phonons

from mace_functional.phonons import Mesh, density_of_states, mesh_modes
from mace_functional.phonons.dos import integration_weights, tetrahedra
from mace_functional.units import frequency_factor


def modes_of(atoms, size, **options):
    return mesh_modes(spring_phonons(atoms), Mesh.of(atoms, size), **options)


@pytest.mark.parametrize("atoms", [salt(), silicon()])
def test_tetrahedra_agree_with_phonopy(atoms):
    size = (6, 6, 6)
    modes = modes_of(atoms, size)
    reference = phonopy_of(atoms)
    reference.run_mesh(size, with_eigenvectors=True, is_mesh_symmetry=False, is_gamma_center=True)
    top = float(modes.frequencies_in("THz").max())
    options = {"freq_min": 0.05 * top, "freq_max": 0.97 * top, "freq_pitch": 0.92 * top / 12}
    reference.run_total_dos(**options)
    reference.run_projected_dos(**options)
    expected = reference.get_total_dos_dict()
    projected = reference.get_projected_dos_dict()["projected_dos"]
    scale = expected["total_dos"].max()
    for i, f in enumerate(expected["frequency_points"]):
        # phonopy has values at points, here are means over steps: these are narrow ones.
        dos = density_of_states(modes, grid=[f - 1e-6, f, f + 1e-6], unit="THz")
        assert float(dos.total[1]) == pytest.approx(expected["total_dos"][i], abs=1e-4 * scale)
        # Six tetrahedra have less symmetry than the crystal, which the means of stars put back.
        shares = dos.per_atom[:, 1].numpy()
        np.testing.assert_allclose(shares, projected[:, i], rtol=0, atol=2e-2 * scale)
        np.testing.assert_allclose(shares.sum(), float(dos.total[1]), rtol=1e-12)


@pytest.mark.parametrize("atoms", [salt(), silicon()])
def test_smearing_agrees_with_phonopy(atoms):
    size = (5, 5, 5)
    reference = phonopy_of(atoms)
    reference.run_mesh(size, with_eigenvectors=True, is_mesh_symmetry=False, is_gamma_center=True)
    reference.run_projected_dos(sigma=0.2, use_tetrahedron_method=False)
    expected = reference.get_projected_dos_dict()
    dos = density_of_states(
        modes_of(atoms, size),
        method="gaussian",
        width=0.2,
        grid=expected["frequency_points"],
        unit="THz",
    )
    np.testing.assert_allclose(dos.per_atom, expected["projected_dos"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["tetrahedron", "gaussian"])
@pytest.mark.parametrize("size", [(1, 1, 1), (2, 1, 3), (5, 5, 5)])
def test_integral_is_the_number_of_modes(method, size):
    dos = density_of_states(modes_of(salt(), size), method=method, unit="meV")
    step = dos.frequencies.diff().mean()
    assert float(dos.total.sum() * step) == pytest.approx(6.0, abs=1e-5)
    torch.testing.assert_close(dos.per_atom.sum(0), dos.total)
    torch.testing.assert_close(
        dos.per_atom.sum(1) * step, torch.full((2,), 3.0).double(), rtol=1e-5, atol=0
    )
    assert dos.unit == "meV"


def test_linear_chain_has_its_density_in_closed_form():
    spring, mass = 2.0, 7.0
    phonons = chain((mass,), spring)
    modes = mesh_modes(phonons, Mesh.of(phonons.atoms, (2000, 1, 1)), eigenvectors=False)
    top = frequency_factor("cm-1") * 2 * np.sqrt(spring / mass)
    dos = density_of_states(modes, grid=np.linspace(0.1, 0.9, 9) * top)
    edges = np.linspace(0.05, 0.95, 10)
    expected = 2 / np.pi * np.diff(np.arcsin(edges)) / (0.1 * top)
    np.testing.assert_allclose(dos.total, expected, rtol=1e-5)
    assert dos.per_atom is None


def test_waves_of_one_speed_have_the_density_of_debye():
    atoms, step, speed = bulk("Cu", "sc", a=2.5), 2.5, 0.8

    def dynamical_matrix(q):
        wave = 2 * torch.pi / step * (q - q.round())
        return (speed**2 * wave @ wave * torch.eye(3)).to(torch.complex128)

    crystal = replace(spring_phonons(atoms), dynamical_matrix=dynamical_matrix)
    modes = mesh_modes(crystal, Mesh.of(atoms, (30, 30, 30)), eigenvectors=False)
    per_wave = frequency_factor("cm-1") * speed * 2 * torch.pi  # Å / cm
    edge = per_wave / (2 * step)
    dos = density_of_states(modes, grid=torch.linspace(0.3, 0.9, 7) * edge)
    expected = 3 * 4 * torch.pi * step**3 * dos.frequencies.square() / per_wave**3
    torch.testing.assert_close(dos.total, expected, rtol=0.02, atol=0)


def test_flat_bands_are_not_lost():
    phonons = spring_phonons(salt())
    flat = torch.diag(torch.arange(1.0, 7).double().square()).to(torch.complex128)
    einstein = replace(phonons, dynamical_matrix=lambda q: flat)
    modes = mesh_modes(einstein, Mesh.of(salt(), (2, 2, 2), shift=(1, 1, 1)))
    factor = frequency_factor("cm-1")
    dos = density_of_states(modes, grid=factor * torch.arange(0.5, 8, 0.5))
    expected = torch.tensor([0.0] + [1, 0] * 6 + [0, 0]).double() / (0.5 * factor)
    torch.testing.assert_close(dos.total, expected)


def test_atoms_that_symmetry_exchanges_are_equal_as_without_symmetry():
    atoms = silicon()
    phonons = spring_phonons(atoms)
    whole = Mesh.of(atoms, (4, 4, 4), symmetry=False)
    for method in "tetrahedron", "gaussian":
        options = {"method": method, "grid": np.linspace(0, 660, 50)}
        found = density_of_states(modes_of(atoms, (4, 4, 4)), **options)
        expected = density_of_states(mesh_modes(phonons, whole), **options)
        torch.testing.assert_close(found.total, expected.total, rtol=0, atol=1e-10)
        torch.testing.assert_close(found.per_atom[0], found.per_atom[1])


def test_tetrahedra_fill_the_zone():
    mesh = Mesh.of(salt(), (3, 4, 5), symmetry=False)
    corners = tetrahedra(mesh)
    assert corners.shape == (6 * 60, 4)
    share = torch.bincount(corners.flatten(), minlength=len(mesh.q)) / corners.numel()
    torch.testing.assert_close(share.double(), mesh.weights, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "corners",
    [
        [0.0, 1.0, 2.0, 3.0],
        [0.0, 0.0, 2.0, 3.0],
        [0.0, 1.0, 1.0, 3.0],
        [0.0, 1.0, 3.0, 3.0],
        [0.0, 0.0, 0.0, 3.0],
        [0.0, 3.0, 3.0, 3.0],
        [0.0, 0.0, 3.0, 3.0],
    ],
)
def test_weights_of_corners_are_integrals_over_the_tetrahedron(corners):
    corners = torch.tensor(corners, dtype=torch.float64)
    points = np.random.default_rng(1).dirichlet(np.ones(4), size=200_000)  # uniform inside
    energies = points @ corners.numpy()
    for energy in 0.3, 1.0, 1.7, 2.6:
        found = integration_weights(torch.tensor(energy).double(), corners[None])[0]
        expected = (points * (energies < energy)[:, None]).mean(0)
        np.testing.assert_allclose(found, expected, rtol=0, atol=3e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "histogram"}, "unknown method 'histogram'"),
        ({"width": 0.1}, "tetrahedra have no width"),
        ({"method": "gaussian", "width": 0.0}, "width must be positive"),
        ({"grid": [1.0, 2.0, 4.0]}, "evenly spaced"),
        ({"grid": [2.0, 1.0]}, "evenly spaced and ascending"),
        ({"grid": [1.0]}, "at least two"),
        ({"unit": "Hz"}, "unknown unit of frequency"),
    ],
)
def test_bad_input_is_explained(options, message):
    with pytest.raises(ValueError, match=message):
        density_of_states(modes_of(salt(), (2, 2, 2)), **options)
