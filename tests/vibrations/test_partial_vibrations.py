"""Vibrations of some atoms in the frozen rest: partial Hessians, against ASE and heavy masses."""

from __future__ import annotations

import json

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.constraints import FixAtoms
from ase.vibrations import Vibrations, VibrationsData
from helpers import mostly_slow

import mace_functional as mf
from mace_functional.cli import main
from mace_functional.interop.vibrations_data import from_vibrations_data, to_vibrations_data
from mace_functional.units import frequency_factor

HYDROXYL = [3, 2]
"""Hydrogen and oxygen of ethanol."""


@pytest.fixture(scope="module")
def ethanol() -> Atoms:
    return mf.example_structure("ethanol")


@pytest.fixture(scope="module")
def full(model, ethanol):
    """Hessian of all atoms of ethanol, (N, 3, N, 3)."""
    s = mf.from_ase(ethanol, model)
    return mf.hessian(mf.energy_fn(model, s.graph))(s.positions, s.cell, model.params)


@pytest.fixture(scope="module")
def framework() -> Atoms:
    """MOF-5 with a molecule of water in its pore, within reach of the walls: 109 atoms."""
    atoms = mf.example_structure("mof-5")
    water = molecule("H2O")
    water.positions += atoms.cell.array.sum(0) / 2 - water.get_center_of_mass()
    water.positions += [2.8, 2.8, 0]
    return atoms + water


def test_frequencies_are_those_of_rows_and_columns_of_the_full_hessian(model, ethanol, full):
    modes = mf.gamma_modes(model, ethanol, indices=HYDROXYL, unit="THz")
    rows = np.ravel([[3 * atom, 3 * atom + 1, 3 * atom + 2] for atom in HYDROXYL])
    block = full.reshape(27, 27).numpy()[np.ix_(rows, rows)]
    root = np.sqrt(np.repeat(ethanol.get_masses()[HYDROXYL], 3))
    values, vectors = np.linalg.eigh(block / np.outer(root, root))
    expected = np.sign(values) * np.sqrt(abs(values)) * frequency_factor("THz")
    np.testing.assert_allclose(modes.frequencies, expected, rtol=1e-9)
    overlaps = np.einsum("mi,im->m", modes.modes.reshape(6, 6).numpy(), vectors)
    np.testing.assert_allclose(abs(overlaps), 1, atol=1e-9)
    assert modes.modes.shape == modes.displacements.shape == (6, 2, 3)
    assert modes.indices.tolist() == HYDROXYL
    assert modes.masses.tolist() == ethanol.get_masses()[HYDROXYL].tolist()


@pytest.mark.parametrize("indices", mostly_slow([[2, 3], HYDROXYL], [HYDROXYL]))
def test_frequencies_match_finite_differences_of_ase(model, ethanol, tmp_path, indices):
    atoms = ethanol.copy()
    atoms.calc = mf.MaceCalculator(model)
    vibrations = Vibrations(atoms, indices=indices, name=tmp_path / "vib", delta=1e-3, nfree=4)
    vibrations.run()
    modes = mf.gamma_modes(model, atoms, indices=indices)
    if indices == sorted(indices):  # of others, ASE 3.29 confuses the masses
        squares = (vibrations.get_frequencies() ** 2).real
        np.testing.assert_allclose(modes.frequencies * modes.frequencies.abs(), squares, rtol=1e-5)
    back = from_vibrations_data(vibrations.get_vibrations())
    torch.testing.assert_close(back.frequencies, modes.frequencies, rtol=1e-5, atol=0)
    assert back.indices.tolist() == indices


@pytest.mark.parametrize("name", ["ethanol", "quartz"])
def test_held_atoms_are_infinitely_heavy_ones(model, name):
    atoms = mf.example_structure(name)
    free = [1, 4, 7]
    s = mf.from_ase(atoms, model)
    hessian = mf.hessian(mf.energy_fn(model, s.graph))(s.positions, s.cell, model.params)
    masses = torch.full_like(s.masses, 1e12)
    masses[free] = s.masses[free]
    values = mf.frequencies(hessian, masses)
    moving = values[values.abs().argsort()[-9:]].sort().values
    found = mf.gamma_modes(model, atoms, indices=free).frequencies
    torch.testing.assert_close(found, moving, rtol=1e-7, atol=0)


def test_nothing_is_projected_out_and_what_has_no_meaning_is_none(model, ethanol):
    modes = mf.gamma_modes(model, ethanol, indices=HYDROXYL)
    forces = mf.MaceCalculator(model).get_forces(ethanol)
    lengths = np.linalg.norm(forces, axis=1)
    assert modes.n_rigid == 0
    assert modes.rigid_residual is None
    assert modes.acoustic_sum_residual is None
    assert modes.asymmetry < 1e-12
    assert modes.largest_force == pytest.approx(lengths[HYDROXYL].max())
    assert modes.largest_force < lengths.max()
    thermo = mf.harmonic_thermo(modes, 300.0)
    assert thermo.n_modes + thermo.n_imaginary == 6


@pytest.mark.parametrize("order", [range(9), [8, 2, 5, 0, 1, 7, 6, 4, 3]])
def test_all_atoms_free_is_the_full_result(model, ethanol, order):
    expected = mf.gamma_modes(model, ethanol)
    modes = mf.gamma_modes(model, ethanol, indices=order)
    torch.testing.assert_close(modes.frequencies, expected.frequencies)
    overlaps = (modes.modes * expected.modes[:, list(order)]).sum((1, 2))
    torch.testing.assert_close(overlaps.abs(), torch.ones_like(overlaps))
    assert (modes.n_rigid, modes.indices.tolist()) == (6, list(order))
    assert expected.indices.tolist() == list(range(9))
    for name in "rigid_residual", "acoustic_sum_residual", "largest_force":
        assert getattr(modes, name) == pytest.approx(getattr(expected, name), abs=1e-9)


def test_atoms_are_chosen_by_number_or_mask(model, ethanol):
    expected = mf.gamma_modes(model, ethanol, indices=[2, 3])
    mask = np.isin(np.arange(9), [2, 3])
    for choice in (
        (2, 3),
        range(2, 4),
        [-7, -6],
        np.array([2, 3], dtype=np.int32),
        torch.tensor([2, 3]),
        mask,
        mask.tolist(),
        torch.as_tensor(mask),
    ):
        modes = mf.gamma_modes(model, ethanol, indices=choice)
        assert modes.indices.tolist() == [2, 3]
        torch.testing.assert_close(modes.frequencies, expected.frequencies)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ([], "no atom is free"),
        (np.zeros(9, dtype=bool), "no atom is free"),
        ([1, 2, 1], "given once"),
        ([8, -1], "given once"),
        ([9], "between 0 and 8"),
        ([-10], "between 0 and 8"),
        ([True, False], "mask of 9 atoms"),
        ([0.0, 1.0], "numbers of atoms"),
        (3, "numbers of atoms"),
        ([[0, 1]], "numbers of atoms"),
    ],
)
def test_what_is_no_choice_of_atoms_is_refused(model, ethanol, full, choice, message):
    with pytest.raises(ValueError, match=message):
        mf.gamma_modes(model, ethanol, indices=choice)
    with pytest.raises(ValueError, match=message):
        mf.normal_modes(
            full,
            ethanol.get_masses(),
            torch.as_tensor(ethanol.positions),
            pbc=ethanol.pbc,
            indices=choice,
        )


def test_a_hessian_that_is_not_of_the_chosen_atoms_is_refused(ethanol, full):
    with pytest.raises(ValueError, match="one mass for every three rows"):
        mf.normal_modes(
            full,
            ethanol.get_masses(),
            torch.as_tensor(ethanol.positions),
            pbc=ethanol.pbc,
            indices=HYDROXYL,
        )


def test_fixed_atoms_are_held_as_in_ase_unless_indices_say_otherwise(model, ethanol):
    held = ethanol.copy()
    held.set_constraint([FixAtoms([0, 1, -1]), FixAtoms(mask=[False] * 9)])
    free = [2, 3, 4, 5, 6, 7]
    modes = mf.gamma_modes(model, held)
    assert modes.indices.tolist() == free
    torch.testing.assert_close(
        modes.frequencies, mf.gamma_modes(model, ethanol, indices=free).frequencies
    )
    assert mf.gamma_modes(model, held, indices=range(9)).n_rigid == 6
    assert mf.gamma_modes(model, held, indices=[0]).indices.tolist() == [0]
    held.set_constraint(FixAtoms(range(9)))
    with pytest.raises(ValueError, match="no atom is free"):
        mf.gamma_modes(model, held)


@pytest.mark.parametrize("indices", [[2, 3], HYDROXYL, [-6, 0, 2]])
def test_partial_hessians_go_to_ase_and_back(model, ethanol, full, indices):
    modes = mf.gamma_modes(model, ethanol, indices=indices)
    data = to_vibrations_data(full[indices][:, :, indices], ethanol, indices=modes.indices)
    assert data.get_indices().tolist() == sorted(index % 9 for index in indices)
    theirs = data.get_frequencies()
    np.testing.assert_allclose(theirs.real - theirs.imag, modes.frequencies, rtol=1e-6)
    embedded = data.get_modes(all_atoms=True)
    assert embedded.shape == (3 * len(indices), 9, 3)
    ours = modes.displacements.numpy()
    np.testing.assert_allclose(abs(embedded[:, modes.indices]), abs(ours), atol=1e-8)
    back = from_vibrations_data(VibrationsData.fromdict(data.todict()))
    torch.testing.assert_close(back.frequencies, modes.frequencies)
    assert (back.n_rigid, back.acoustic_sum_residual) == (0, None)


def test_water_in_a_framework_has_hindered_motions_and_its_own_vibrations(model, framework):
    modes = mf.gamma_modes(model, framework, indices=[-3, -2, -1])
    assert modes.frequencies.shape == (9,)
    assert modes.indices.tolist() == [106, 107, 108]
    alone = mf.gamma_modes(model, framework[-3:], indices=range(3)).frequencies
    torch.testing.assert_close(modes.frequencies[-3:], alone[-3:], rtol=0.02, atol=0)
    assert modes.frequencies[:6].abs().max() < alone[-3] / 2
    assert (modes.n_rigid, modes.n_parts) == (0, 1)
    # In the middle of the pore, beyond the reach of the model, it feels no wall.
    apart = framework.copy()
    apart.positions[-3:] -= [2.8, 2.8, 0]
    modes = mf.gamma_modes(model, apart, indices=[-3, -2, -1])
    assert (modes.n_rigid, modes.n_rotations, modes.n_parts) == (6, 3, 2)
    torch.testing.assert_close(modes.frequencies, alone[-3:], rtol=1e-4, atol=0)


def test_command_line_relaxes_and_reports_the_free_atoms_alone(model, framework, tmp_path, capsys):
    path, relaxed, out = (tmp_path / name for name in ("in.extxyz", "relaxed.extxyz", "out.json"))
    ase.io.write(path, framework)
    words = [
        *("thermo", path, "--model", "embedded", "--free=-3--1", "--temperatures", 300),
        *("--relax", "--max-steps", 3, "--relaxed", relaxed, "--json", out),
        *("--figure", tmp_path / "out.png"),
    ]
    assert main([str(word) for word in words]) == 0
    results = json.loads(out.read_text())
    assert results["free_atoms"] == [106, 107, 108]
    assert results["relaxation"]["cell_relaxed"] is False
    assert (results["rigid_motions_removed"], results["rigid_residual_cm-1"]) == (0, None)
    assert results["acoustic_sum_residual_eV_per_A2"] is None
    before, after = ase.io.read(path), framework.copy()
    after.positions, after.cell = results["positions_A"], results["cell_A"]
    np.testing.assert_array_equal(after.positions[:106], before.positions[:106])
    np.testing.assert_array_equal(after.cell, before.cell)
    assert abs(after.positions - before.positions)[106:].max() > 1e-3
    np.testing.assert_allclose(ase.io.read(relaxed).positions, after.positions, atol=1e-7)
    modes = mf.gamma_modes(model, after, indices=[106, 107, 108])
    np.testing.assert_allclose(results["frequencies_cm-1"], modes.frequencies, atol=1e-6)
    assert results["largest_force_eV_per_A"] == pytest.approx(modes.largest_force)
    per_mole = results["heat_capacity_J_per_molK"][0]
    water = framework[-3:].get_masses().sum()
    assert results["heat_capacity_J_per_gK"][0] == pytest.approx(per_mole / water)
    printed = capsys.readouterr().out
    assert "3 free of 109 atoms" in printed
    assert "acoustic" not in printed


def test_command_line_holds_what_the_file_fixes_unless_told_otherwise(ethanol, tmp_path):
    path, out = tmp_path / "held.extxyz", tmp_path / "out.json"
    held = ethanol.copy()
    held.set_constraint(FixAtoms([0, 1, 4]))
    ase.io.write(path, held)
    words = ["thermo", str(path), "--model", "embedded", "--json", str(out)]
    for more, free in (
        ([], [2, 3, 5, 6, 7, 8]),
        (["--free", "0-2,4", "-1"], [0, 1, 2, 4, 8]),
        (["--free", "0-8"], list(range(9))),
    ):
        assert main([*words, *more]) == 0
        results = json.loads(out.read_text())
        assert results["free_atoms"] == free
        assert results["rigid_motions_removed"] == (6 if len(free) == 9 else 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--free", "0", "--mesh", "2", "2", "2"], "8 of 9 are fixed: leave out --mesh"),
        (["--free", "9"], "from 0 to 8"),
        (["--free", "-10"], "from 0 to 8"),
        (["--free", "0-9"], "from 0 to 8"),
        (["--free", "5-3"], "lower number first"),
        (["--free", "Si"], "'Si' is neither the number"),
        (["--free", "1,,2"], "'' is neither the number"),
    ],
)
def test_command_line_explains_a_bad_choice_before_anything_is_computed(
    words, message, monkeypatch, capsys
):
    def forbidden(*args, **kwargs):
        raise AssertionError("the options are bad")

    monkeypatch.setattr("mace_functional.cli.loaded_models.load_model", forbidden)
    assert main(["thermo", "quartz", "--model", "embedded", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_mesh_takes_a_choice_of_all_atoms(tmp_path):
    out = tmp_path / "out.json"
    words = ["thermo", "quartz", "--model", "embedded", "--free", "0-8", "--mesh", "1", "1", "1"]
    assert main([*words, "--json", str(out)]) == 0
    results = json.loads(out.read_text())
    assert (results["mesh"]["size"], results["free_atoms"]) == ([1, 1, 1], list(range(9)))
