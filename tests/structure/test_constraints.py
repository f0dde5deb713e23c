"""Constraints hold the same in relaxations, vibrations and searches, or are refused by name."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.constraints import (
    FixAtoms,
    FixBondLengths,
    FixCartesian,
    FixCom,
    FixedLine,
    FixedPlane,
    FixInternals,
    FixScaled,
    FixSubsetCom,
    FixSymmetry,
    Hookean,
)
from ase.vibrations import VibrationsData
from scipy.linalg import eigh, null_space

import mace_functional as mf
from mace_functional.interop.vibrations_data import from_vibrations_data, to_vibrations_data
from mace_functional.structure.selection import freedom
from mace_functional.units import frequency_factor


@pytest.fixture(scope="module")
def methanol():
    atoms = molecule("CH3OH")
    atoms.rattle(0.02, seed=1)
    return atoms


CELL = np.array([[5.0, 0.3, 0], [0.2, 5.2, -0.4], [0.1, 0.5, 5.1]])
TILTED = np.array([1.0, 2.0, -1.0])
MASSES = molecule("CH3OH").get_masses()


def forbid(*rows: tuple[int, np.ndarray]) -> np.ndarray:
    """Displacements of single atoms that are forbidden, (k, 18)."""
    found = np.zeros((len(rows), 6, 3))
    for row, (atom, direction) in zip(found, rows, strict=True):
        row[atom] = direction
    return found.reshape(len(rows), 18)


def across(direction: np.ndarray) -> np.ndarray:
    return null_space(direction[None]).T


HELD = {
    "FixAtoms": (FixAtoms([0, 2]), forbid(*((k, e) for k in (0, 2) for e in np.eye(3)))),
    "FixCartesian": (
        FixCartesian([1, 3], [True, False, True]),
        forbid(*((k, np.eye(3)[j]) for k in (1, 3) for j in (0, 2))),
    ),
    # The reciprocal vector of a lattice vector is what its scaled coordinate is measured along.
    "FixScaled": (FixScaled([1], [True, True, False]), forbid(*((1, v) for v in across(CELL[2])))),
    "FixedLine": (FixedLine([4], TILTED), forbid(*((4, v) for v in across(TILTED)))),
    "FixedPlane": (FixedPlane([0, 4], TILTED), forbid((0, TILTED), (4, TILTED))),
    "FixCom": (FixCom(), np.kron(MASSES, np.eye(3))),
    "FixSubsetCom": (
        FixSubsetCom([0, 1]),
        np.kron(MASSES * np.isin(np.arange(6), [0, 1]), np.eye(3)),
    ),
}


QUICK = "FixScaled", "FixSubsetCom"


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in HELD]
)
def test_vibrations_and_relaxations_hold_the_same_directions(model, methanol, name):
    constraint, forbidden = HELD[name]
    free = null_space(forbidden)
    start = methanol.copy()
    start.set_cell(CELL)
    start.set_constraint(constraint)
    np.testing.assert_allclose(
        freedom(start, "x").basis() @ freedom(start, "x").basis().T, free @ free.T, atol=1e-9
    )

    found = mf.relax(model, start, fmax=1e-4)
    moved = (found.atoms.positions - start.positions).ravel()
    assert found.converged
    assert np.abs(forbidden @ moved).max() < 1e-9
    assert np.abs(moved).max() > 1e-3

    modes = mf.gamma_modes(model, found.atoms)
    s = mf.from_ase(found.atoms, model)
    hessian = mf.hessian(mf.energy_fn(model, s.graph))(s.positions, s.cell, model.params)
    kinetic = free.T @ np.diag(np.repeat(MASSES, 3)) @ free
    values = eigh(free.T @ hessian.view(18, 18).numpy() @ free, kinetic, eigvals_only=True)
    expected = np.sign(values) * np.sqrt(abs(values)) * frequency_factor("cm-1")
    # Rigid motions that need nothing of what is held come out of the full problem near zero.
    assert len(modes.frequencies) + modes.n_rigid == len(expected)
    rigid = np.sort(np.argsort(abs(expected))[: modes.n_rigid])
    assert abs(expected[rigid]).max(initial=0) < 5
    np.testing.assert_allclose(modes.frequencies, np.delete(expected, rigid), rtol=1e-3, atol=1e-2)
    assert modes.largest_force < 1.1e-4
    lowest = mf.check_stability(model, found.atoms).frequency
    assert lowest == pytest.approx(modes.frequencies[0].item(), rel=0.02)
    everything = mf.gamma_modes(model, found.atoms, indices=range(6))
    assert everything.n_rigid == 6
    data = VibrationsData(found.atoms, hessian.numpy(), indices=range(6))
    theirs = from_vibrations_data(data)  # of all atoms, in the directions that are free
    assert theirs.n_rigid == (6 if name == "FixAtoms" else modes.n_rigid)


@pytest.mark.parametrize(
    "constraint",
    [
        FixBondLengths([(0, 1)]),
        Hookean(0, 1, 5.0, 1.0),
        FixInternals(bonds=[[1.4, [0, 1]]]),
        FixSymmetry(Atoms("C", cell=[3, 3, 3], pbc=True)),
    ],
    ids=lambda constraint: type(constraint).__name__,
)
def test_other_constraints_are_refused_by_name_everywhere(model, methanol, constraint):
    atoms = methanol.copy()
    atoms.set_constraint(constraint)
    crystal = mf.example_structure("quartz")
    crystal.set_constraint(constraint)
    for call in (
        lambda: mf.relax(model, atoms),
        lambda: mf.gamma_modes(model, atoms),
        lambda: mf.check_stability(model, atoms),
        lambda: mf.find_saddle(model, atoms),
        lambda: mf.phonons_of(model, crystal),
        lambda: mf.force_constants(model, crystal),
        lambda: to_vibrations_data(torch.zeros(18, 18), atoms),
    ):
        with pytest.raises(ValueError, match=f"does not support .* {type(constraint).__name__}"):
            call()


def test_phonons_are_of_whole_crystals(model):
    crystal = mf.example_structure("quartz")
    crystal.set_constraint([FixAtoms([0]), FixCartesian([1], [True, False, False])])
    for call in (mf.phonons_of, mf.force_constants):
        with pytest.raises(ValueError, match=r"needs all atoms free.*FixAtoms, FixCartesian"):
            call(model, crystal)


def test_selective_dynamics_and_move_masks_hold_what_the_files_say(model, tmp_path):
    poscar = tmp_path / "POSCAR"
    poscar.write_text(
        "water\n1.0\n8 0 0\n0 9 0\n0 0 10\nO H\n1 2\nSelective dynamics\nCartesian\n"
        "4 4 5 F F F\n4 4.76 5.59 T T F\n4 3.24 5.59 T T T\n"
    )
    assert freedom(ase.io.read(poscar), "x").atoms == [1, 2]
    held = freedom(ase.io.read(poscar), "x").held
    np.testing.assert_allclose(held[1], np.diag([0, 0, 1]), atol=1e-12)
    masks = tmp_path / "water.extxyz"
    masks.write_text(
        '3\nProperties=species:S:1:pos:R:3:move_mask:L:3 pbc="F F F"\n'
        "O 0 0 0.119 F F F\nH 0 0.763 -0.477 T T T\nH 0 -0.763 -0.477 T F T\n"
    )
    atoms = ase.io.read(masks)
    np.testing.assert_array_equal(
        freedom(atoms, "x").held[:, range(3), range(3)], [[1, 1, 1], [0, 0, 0], [0, 1, 0]]
    )
    relaxed = mf.relax(model, atoms, fmax=1e-4).atoms
    modes = mf.gamma_modes(model, relaxed)
    assert modes.indices.tolist() == [1, 2]
    # The oxygen rests and one hydrogen keeps its y: the molecule can still turn in two ways.
    assert (modes.n_rigid, len(modes.frequencies)) == (2, 3)


def test_held_directions_do_not_fit_into_ases_vibrations_data(methanol):
    atoms = methanol.copy()
    atoms.set_constraint(FixCartesian([1], [True, False, False]))
    with pytest.raises(ValueError, match="fixes single directions"):
        to_vibrations_data(torch.zeros(18, 18), atoms)
