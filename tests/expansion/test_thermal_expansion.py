"""Thermal expansion to first order against entropies of strained cells and thermodynamics."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.units import GPa
from pair_crystals import ions, relaxed, xenon
from torch import Tensor

import mace_functional as mf
from mace_functional.expansion import invariant_strains

thermal_expansion = partial(mf.thermal_expansion, chunk_size=None)
MESH = (2, 2, 2)


def energy_and_entropy(atoms: Atoms, strain: Tensor, temperature: float) -> tuple[float, float]:
    """Return energy, eV, and entropy, eV/K, of a strained cell of xenon."""
    moved = atoms.copy()
    moved.set_cell(atoms.cell.array @ (np.eye(3) + strain.numpy()), scale_atoms=True)
    s = mf.from_ase(moved, xenon())
    energy = mf.energy_fn(xenon(), s.topology)(s.positions, s.cell, xenon().params)
    phonons = mf.phonons_of(xenon(), moved, method="replicas", chunk_size=None)
    modes = mf.mesh_modes(phonons, mf.Mesh.of(atoms, MESH), eigenvectors=False)
    return float(energy), float(mf.mesh_thermo(modes, temperature).thermo.entropy)


def test_expansion_follows_from_entropies_and_energies_of_strained_cells(monkeypatch):
    """K alpha = dS/de, with K and dS/de by differences along both strains of an hcp crystal."""
    monkeypatch.setattr("mace_functional.phonons.mesh._check_mesh", lambda *_: None)
    atoms, t, step = relaxed("hcp"), 30.0, 2e-3
    found = thermal_expansion(xenon(), atoms, t, mesh=MESH)
    strains = invariant_strains(atoms)
    middle, _ = energy_and_entropy(atoms, 0 * strains[0], t)
    up, down = ([energy_and_entropy(atoms, k * step * e, t) for e in strains] for k in (1, -1))
    both = energy_and_entropy(atoms, step * strains.sum(0), t)[0]
    minus = energy_and_entropy(atoms, -step * strains.sum(0), t)[0]
    k = torch.zeros(2, 2, dtype=torch.float64)
    for i in range(2):
        k[i, i] = (up[i][0] + down[i][0] - 2 * middle) / step**2
    k[0, 1] = k[1, 0] = ((both + minus - 2 * middle) / step**2 - k.trace()) / 2
    ds = torch.tensor([(up[i][1] - down[i][1]) / (2 * step) for i in range(2)]).double()
    alpha = torch.linalg.solve(k, ds)
    expected = torch.tensordot(alpha, strains, 1)
    torch.testing.assert_close(found.expansion[0], expected, rtol=1e-3, atol=1e-9)
    torch.testing.assert_close(found.cp[0] - found.cv[0], t * alpha @ ds, rtol=2e-3, atol=0)


def test_cp_minus_cv_and_the_macroscopic_gruneisen_parameter():
    """T V alpha : C : alpha of tensors from elsewhere, and alpha_V B V = gamma Cv."""
    atoms, potential, t = relaxed("salt"), ions(), 200.0
    mesh = mf.Mesh.of(atoms, MESH)
    found = thermal_expansion(potential, atoms, [t], mesh=mesh)
    s = mf.from_ase(atoms, potential)
    c = mf.elastic_tensor(mf.energy_fn(potential, s.topology))(
        s.positions, s.cell, potential.params
    )
    alpha, volume = found.expansion[0], atoms.get_volume()
    difference = t * volume * torch.einsum("ij,ijkl,kl->", alpha, c, alpha)
    torch.testing.assert_close(found.cp[0] - found.cv[0], difference, rtol=1e-6, atol=0)
    assert 1 < float(c[0, 0, 0, 0] / GPa) < 100
    gamma = mf.gruneisen(potential, atoms, mesh, strains="symmetric", chunk_size=None)
    bulk_modulus = (c[0, 0, 0, 0] + 2 * c[0, 0, 1, 1]) / 3
    expected = found.cv[0] * gamma.macroscopic(t).trace() / 3 / (bulk_modulus * volume)
    torch.testing.assert_close(found.volumetric_expansion[0], expected, rtol=1e-6, atol=0)


def test_cv_is_that_of_the_mesh_and_the_third_law_holds():
    atoms = relaxed("fcc")
    found = thermal_expansion(xenon(), atoms, [0.0, 20.0], mesh=MESH)
    phonons = mf.phonons_of(xenon(), atoms, method="replicas", chunk_size=None)
    modes = mf.mesh_modes(phonons, mf.Mesh.of(atoms, MESH), eigenvectors=False)
    expected = mf.mesh_thermo(modes, [0.0, 20.0])
    torch.testing.assert_close(found.cv, expected.thermo.heat_capacity)
    torch.testing.assert_close(found.specific_cv, expected.specific_heat_capacity)
    assert found.cp[0] == found.cv[0] == found.expansion[0].abs().max() == 0
    assert found.strain[0].trace() > 0  # the zero-point motion
    assert found.specific_cp[1] > found.specific_cv[1]


def test_a_layer_expands_in_its_plane():
    atoms = Atoms("Xe", cell=[[3.69, 0, 0], [-1.845, 3.1957, 0], [0, 0, 10]], pbc=[1, 1, 0])
    atoms = mf.relax(xenon(), atoms, fmax=1e-8, symmetry=False).atoms
    atoms.calc = None
    with pytest.warns(UserWarning, match="imaginary modes"):  # out of the plane
        found = thermal_expansion(xenon(), atoms, [20.0], mesh=(3, 3, 1))
    alpha = found.expansion[0]
    assert alpha[2].abs().max() == 0
    torch.testing.assert_close(alpha[0, 0], alpha[1, 1])
    assert found.n_imaginary > 0


def test_bad_input():
    atoms = relaxed("fcc")
    small = atoms.copy()
    small.set_cell(0.98 * atoms.cell.array, scale_atoms=True)
    with pytest.warns(UserWarning, match="the cell is not relaxed"):
        thermal_expansion(xenon(), small, [20.0], mesh=(1, 1, 1))
    large = atoms.copy()
    large.set_cell(1.3 * atoms.cell.array, scale_atoms=True)
    with pytest.raises(ValueError, match="no minimum in the cell"):
        thermal_expansion(xenon(), large, [20.0], mesh=(1, 1, 1))
    with pytest.raises(ValueError, match="temperatures must lie"):
        thermal_expansion(xenon(), atoms, [-1.0])
    with pytest.raises(ValueError, match="three positive integers"):
        thermal_expansion(xenon(), atoms, [1.0], mesh=(1, 0, 1))
