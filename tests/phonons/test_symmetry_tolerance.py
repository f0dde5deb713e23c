"""How symmetric a crystal has to be: rounded coordinates, and what a tolerance does to results."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from ase import Atoms

import mace_functional as mf
from mace_functional.cli import main
from mace_functional.structure.symmetry import (
    SYMPREC,
    Operations,
    made_symmetric,
    space_group,
    standard_path,
)

QUARTZ = mf.example_structure("quartz")


def rounded(digits):
    atoms = QUARTZ.copy()
    atoms.set_scaled_positions(np.round(atoms.get_scaled_positions(), digits))
    return atoms


def moved(size):
    """Quartz with all atoms moved by up to `size` Å, and no symmetry left."""
    atoms = QUARTZ.copy()
    steps = np.random.default_rng(3).standard_normal(atoms.positions.shape)
    atoms.positions += size * steps / np.linalg.norm(steps, axis=1).max()
    return atoms


def test_quartz_rounded_to_four_digits_keeps_its_path_without_a_word():
    expected = standard_path(QUARTZ)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = standard_path(rounded(4))
    assert space_group(rounded(4)) == space_group(QUARTZ)
    assert found["path"] == expected["path"]
    for name, q in found["point_coords"].items():
        np.testing.assert_allclose(q, expected["point_coords"][name], atol=1e-6)
    assert len(mf.Mesh.of(rounded(4), (3, 3, 3)).rotations) == 6


def test_higher_symmetry_just_out_of_reach_is_pointed_out():
    with pytest.warns(UserWarning, match=r"symprec = 0.001 Å; with 0.01 Å the crystal is P3_"):
        standard_path(moved(3e-3))
    with pytest.warns(UserWarning, match="the symmetry that is kept is that of space group P1"):
        made_symmetric(moved(3e-3))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        standard_path(moved(3e-3), symprec=1e-2)
        standard_path(moved(0.25))


@pytest.mark.parametrize("symprec", [-1.0, 0.0, float("nan"), float("inf"), 1e-300, 10.0])
def test_tolerance_that_ends_spglib_is_refused_in_words(symprec):
    for ask in (
        lambda: standard_path(QUARTZ, symprec),
        lambda: made_symmetric(QUARTZ, symprec),
        lambda: space_group(QUARTZ, symprec),
        lambda: Operations.of(QUARTZ, QUARTZ.numbers, symprec),
    ):
        with pytest.raises(ValueError, match=r"symprec must be a number from 1e-08 to 0.5 in Å"):
            ask()


def test_tolerance_that_spglib_cannot_work_with_is_refused_in_words():
    atoms = Atoms("Si2", [[0, 0, 0], [0.1, 0, 0]], cell=[5, 5, 5], pbc=True)
    for ask in space_group, made_symmetric, standard_path:
        with pytest.raises(ValueError, match=r"symprec = 0.5 Å does not fit the structure"):
            ask(atoms, 0.5)


def test_operations_turn_without_stretching_in_a_cell_that_is_not_quite_symmetric():
    atoms = QUARTZ.copy()
    atoms.set_cell(atoms.cell.array * [[1.0], [1.0001], [1.0]], scale_atoms=True)
    operations = Operations.of(atoms, atoms.numbers)
    assert len(operations.cartesian) == 6
    products = operations.cartesian @ operations.cartesian.transpose(0, 2, 1)
    np.testing.assert_allclose(products, np.broadcast_to(np.eye(3), (6, 3, 3)), atol=1e-12)


@pytest.mark.slow
def test_default_tolerance_moves_frequencies_by_less_than_a_thousandth():
    """A crystal as far from symmetric as the tolerance lets pass, on a reduced and a full mesh."""
    atoms, model = moved(0.4 * SYMPREC), mf.load_model("embedded")
    lattice = mf.phonons_of(model, atoms, symmetry=False, method="force-constants")
    whole = mf.mesh_modes(lattice, mf.Mesh.of(atoms, (2, 2, 2), symmetry=False))
    reduced = mf.mesh_modes(lattice, mf.Mesh.of(atoms, (2, 2, 2)))
    assert len(reduced.mesh.q) < len(whole.mesh.q)
    ours, theirs = (m.frequencies[m.mesh.mapping.reshape(-1)] for m in (reduced, whole))
    assert (ours - theirs).abs().max() < 1.0
    capacities = [mf.mesh_thermo(m, 300.0).thermo.heat_capacity for m in (reduced, whole)]
    assert float(capacities[0] / capacities[1]) == pytest.approx(1, abs=1e-4)
    imposed = mf.force_constants(model, atoms)
    for q, expected in zip(whole.mesh.q, whole.frequencies, strict=True):
        found = mf.frequencies(imposed.dynamical_matrix(q))
        assert torch.allclose(found, expected, atol=1.0)


def test_symmetry_that_holds_only_loosely_is_told():
    with pytest.warns(UserWarning, match="the symmetry that is used only to within 0.0"):
        mf.Mesh.of(moved(0.02), (2, 2, 2), symprec=0.1)


@pytest.mark.slow
def test_symprec_of_the_command_line_is_that_of_the_mesh(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    moved(3e-3).write("quartz.extxyz")
    words = ["thermo", "quartz.extxyz", "--model", "embedded", "--mesh", "2", "2", "2"]
    for more, count in ([], 8), (["--symprec", "0.02"], 4):
        assert main([*words, *more, "--temperatures", "300"]) == 0
        assert f", {count} inequivalent" in " ".join(capsys.readouterr().out.split())
    assert main([*words, "--symprec", "-1"]) == 2
    assert "--symprec must be a number from 1e-08 to 0.5 in Å" in capsys.readouterr().err
