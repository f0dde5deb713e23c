"""Meshes of wave vectors against spglib and whole meshes; checkpoints."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import spglib
import torch
from ase import Atoms
from ase.build import bulk, graphene
from springs import chain, salt, silicon, spring_phonons

from mace_functional.phonons import Mesh, Phonons, mesh_modes, modes_at_q


def slab() -> Atoms:
    atoms = Atoms("CSi", [[0, 0, 0], [1.5, 1.5, 0.8]], cell=[3, 3, 0], pbc=[True, True, False])
    atoms.positions += 7.0
    return atoms


@pytest.mark.parametrize(
    ("atoms", "size", "shift"),
    [
        (salt(), (4, 4, 4), (0, 0, 0)),
        (salt(), (4, 4, 4), (1, 1, 1)),
        (silicon(), (5, 5, 5), (0, 0, 0)),
        (bulk("Mg"), (5, 5, 3), (0, 0, 0)),
        (bulk("Mg"), (4, 4, 2), (0, 0, 1)),
        (bulk("NaCl", "rocksalt", a=5.6, cubic=True), (3, 3, 3), (0, 0, 0)),
        (graphene(), (6, 6, 1), (0, 0, 0)),
    ],
)
def test_stars_are_those_of_spglib(atoms, size, shift):
    mesh = Mesh.of(atoms, size, shift=shift)
    cell = atoms.cell.array.copy()
    if not cell[2].any():
        cell[2, 2] = 17.0
    crystal = (cell, atoms.positions @ np.linalg.inv(cell), atoms.numbers)
    mapping, _ = spglib.get_ir_reciprocal_mesh(size, crystal, is_shift=shift)
    _, counts = np.unique(mapping, return_counts=True)
    found = np.rint(mesh.weights.numpy() * np.prod(size))
    np.testing.assert_array_equal(np.sort(found), np.sort(counts))
    np.testing.assert_allclose(mesh.weights, found / np.prod(size), rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("atoms", "size", "shift"),
    [
        (salt(), (4, 3, 2), (False, False, False)),  # less symmetric than the crystal
        (silicon(), (4, 4, 4), (True, True, True)),
        (silicon(), (2, 4, 4), (True, False, False)),
        (bulk("Mg"), (3, 3, 2), (False, False, True)),
        (slab(), (4, 3, 1), (False, True, False)),
    ],
)
def test_frequencies_of_all_points_are_those_of_their_star(atoms, size, shift):
    phonons = spring_phonons(atoms)
    mesh = Mesh.of(atoms, size, shift=shift)
    assert len(mesh.q) < np.prod(size)
    modes = mesh_modes(phonons, mesh, eigenvectors=False)
    for address in np.ndindex(size):
        q = torch.tensor((np.array(address) + np.array(shift) / 2) / size)
        expected = torch.linalg.eigvalsh(phonons.dynamical_matrix(q))
        found = modes.eigenvalues[mesh.mapping[address]]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert mesh.weights.sum() == pytest.approx(1.0)


def test_without_symmetry_waves_that_run_backwards_are_left_out_alone():
    mesh = Mesh.of(salt(), (4, 3, 2), symmetry=False)
    assert len(mesh.q) == 14  # 24 points, of which 4 are their own opposites
    assert len(mesh.rotations) == 1
    assert (mesh.q.abs() <= 0.5).all()


def test_isotopes_and_handedness_count():
    atoms = silicon()
    plain = Mesh.of(atoms, (4, 4, 4))
    assert len(Mesh.of(atoms, (4, 4, 4), proper=True).rotations) == len(plain.rotations) // 2
    atoms.set_masses([28.0, 30.0])
    assert len(Mesh.of(atoms, (4, 4, 4)).rotations) == len(plain.rotations) // 2


def test_rigid_motions_are_at_exactly_zero_and_belong_to_gamma():
    phonons = spring_phonons(salt())
    modes = mesh_modes(phonons, Mesh.of(salt(), (2, 2, 2)))
    assert modes.n_rigid.tolist() == [3, 0, 0]
    assert (modes.eigenvalues[0, :3] == 0).all()
    vectors = modes.eigenvectors.flatten(2)
    torch.testing.assert_close(
        vectors @ vectors.mH,
        torch.eye(6, dtype=vectors.dtype).expand(3, 6, 6),
        rtol=0,
        atol=1e-12,
    )


def test_eigenvectors_solve_the_dynamical_matrix():
    phonons = spring_phonons(silicon())
    for q in ([0.0, 0, 0], [0.2, -0.3, 0.1], [1.0, 0.0, -2.0]):
        q = torch.tensor(q, dtype=torch.float64)
        values, vectors = modes_at_q(phonons, q)
        columns = vectors.flatten(1).mT
        torch.testing.assert_close(
            phonons.dynamical_matrix(q) @ columns, columns * values, rtol=0, atol=1e-12
        )


def counting(phonons: Phonons, stop_after: int = 1000) -> tuple[Phonons, list[list[float]]]:
    """Phonons that remember what they were asked, and are interrupted at some point."""
    asked: list[list[float]] = []

    def dynamical_matrix(q):
        if len(asked) == stop_after:
            raise KeyboardInterrupt
        asked.append(q.tolist())
        return phonons.dynamical_matrix(q)

    return replace(phonons, dynamical_matrix=dynamical_matrix), asked


@pytest.mark.parametrize("eigenvectors", [True, False])
def test_an_interrupted_mesh_goes_on_where_it_was(tmp_path, eigenvectors):
    phonons, mesh = spring_phonons(salt()), Mesh.of(salt(), (4, 4, 4))
    expected = mesh_modes(phonons, mesh, eigenvectors=eigenvectors)
    options = {"checkpoint": tmp_path / "mesh.npz", "eigenvectors": eigenvectors}
    first, asked_first = counting(phonons, stop_after=5)
    with pytest.raises(KeyboardInterrupt):
        mesh_modes(first, mesh, **options)
    second, asked_second = counting(phonons)
    found = mesh_modes(second, mesh, **options)
    assert asked_second[0] == asked_first[0]  # the check
    assert asked_first + asked_second[1:] == mesh.q.tolist()
    third, asked_third = counting(phonons)
    again = mesh_modes(third, mesh, **options)
    assert len(asked_third) == 1
    for modes in found, again:
        assert torch.equal(modes.eigenvalues, expected.eigenvalues)
        if eigenvectors:
            assert torch.equal(modes.eigenvectors, expected.eigenvectors)
        else:
            assert modes.eigenvectors is None
    assert [file.name for file in tmp_path.iterdir()] == ["mesh.npz"]


def test_checkpoints_of_something_else_are_refused(tmp_path):
    phonons, mesh = spring_phonons(salt()), Mesh.of(salt(), (2, 2, 2))
    path = tmp_path / "mesh.npz"
    mesh_modes(phonons, mesh, checkpoint=path, eigenvectors=False)
    with pytest.raises(ValueError, match="has no eigenvectors"):
        mesh_modes(phonons, mesh, checkpoint=path)
    stiffer = replace(phonons, dynamical_matrix=lambda q: 1.01 * phonons.dynamical_matrix(q))
    with pytest.raises(ValueError, match="it belongs to another model"):
        mesh_modes(stiffer, mesh, checkpoint=path, eigenvectors=False)
    with pytest.raises(ValueError, match="has other q"):
        mesh_modes(phonons, Mesh.of(salt(), (3, 3, 3)), checkpoint=path, eigenvectors=False)
    path.write_text("nothing of the kind")
    with pytest.raises(ValueError, match="is no checkpoint"):
        mesh_modes(phonons, mesh, checkpoint=path)
    np.savez(path, q=mesh.q)
    with pytest.raises(ValueError, match="it lacks"):
        mesh_modes(phonons, mesh, checkpoint=path)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Mesh.of(salt(), (2, 2)), "three positive integers"),
        (lambda: Mesh.of(salt(), (2, 2, 0)), "three positive integers"),
        (lambda: Mesh.of(salt(), (2, 2, -1)), "three positive integers"),
        (lambda: Mesh.of(salt(), (2, 2, 1.5)), "three positive integers"),
        (lambda: Mesh.of(salt(), 4), "three positive integers"),
        (lambda: Mesh.of(salt(), (2, 2, 2), shift=(0.3, 0, 0)), "three booleans"),
        (lambda: Mesh.of(slab(), (2, 2, 2)), "give it one point and no shift"),
        (lambda: Mesh.of(slab(), (2, 2, 1), shift=(0, 0, 1)), "give it one point and no shift"),
        (lambda: Mesh.of(Atoms("N2", [[0, 0, 0], [0, 0, 1.1]]), (1, 1, 1)), "needs a crystal"),
        (
            lambda: mesh_modes(spring_phonons(silicon()), Mesh.of(salt(), (2, 2, 2))),
            "made for another structure",
        ),
        (lambda: modes_at_q(spring_phonons(salt()), torch.zeros(2)), r"shape \(3,\)"),
        (lambda: modes_at_q(spring_phonons(salt()), torch.full((3,), np.nan)), "not finite"),
        (lambda: modes_at_q(chain((1.0,)), torch.tensor([0, 0.5, 0])), "not periodic"),
    ],
)
def test_bad_input_is_explained(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_matrices_that_are_not_finite_are_refused():
    phonons = spring_phonons(salt())
    broken = replace(phonons, dynamical_matrix=lambda q: phonons.dynamical_matrix(q) * np.nan)
    with pytest.raises(ValueError, match="entries that are not finite"):
        mesh_modes(broken, Mesh.of(salt(), (2, 2, 2)))


def test_a_structure_that_is_not_at_rest_is_warned_of():
    phonons = spring_phonons(salt(), largest_force=0.123)
    with pytest.warns(UserWarning, match=r"the largest force is 0.123 eV/Å"):
        mesh_modes(phonons, Mesh.of(salt(), (2, 2, 2)))
