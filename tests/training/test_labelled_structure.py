"""Labelled structures: Hessians and their columns as products, and refusal of bad labels."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from free_hessian import free_hessian

from mace_functional.training import Curvature, LabelledStructure

rng = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(12, 12), (4, 3, 4, 3)])
def test_hessian_gives_its_product_with_every_direction(shape):
    H = free_hessian(4)
    curvature = Curvature.of_hessian(H.reshape(shape))
    assert curvature.directions.shape == curvature.products.shape == (12, 4, 3)
    u = rng.normal(size=12)
    combined = np.tensordot(u, curvature.products, 1).ravel()
    np.testing.assert_allclose(np.tensordot(u, curvature.directions, 1).ravel(), u)
    np.testing.assert_allclose(combined, H @ u, atol=1e-13)


def test_columns_are_those_of_the_hessian():
    H = free_hessian(5)
    indices = [3, 0]
    columns = H.reshape(5, 3, 5, 3)[:, :, indices].transpose(2, 3, 0, 1)
    curvature = Curvature.of_columns(indices, columns)
    whole = Curvature.of_hessian(H)
    rows = [9, 10, 11, 0, 1, 2]
    np.testing.assert_array_equal(curvature.directions, whole.directions[rows])
    np.testing.assert_allclose(curvature.products, whole.products[rows], atol=1e-14)


def test_slightly_asymmetric_hessian_is_symmetrised_with_a_warning():
    H = free_hessian(3)
    skewed = H.copy()
    skewed[0, 5] += 0.1 * abs(H).max()
    with pytest.warns(UserWarning, match="not symmetric"):
        curvature = Curvature.of_hessian(skewed)
    np.testing.assert_allclose(curvature.products.reshape(9, 9), (skewed + skewed.T) / 2)


def test_mass_weighted_hessian_gives_a_warning():
    masses = np.repeat([1.0, 16.0, 200.0], 3)
    with pytest.warns(UserWarning, match="masses"):
        Curvature.of_hessian(free_hessian(3) / np.sqrt(masses[:, None] * masses))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Curvature.of_hessian(np.zeros((4, 4))), r"\(N, 3, N, 3\) or \(3N, 3N\)"),
        (lambda: Curvature.of_hessian(np.triu(free_hessian(3))), "not symmetric"),
        (lambda: Curvature.of_hessian(np.full((3, 3), np.nan)), "9 are not"),
        (lambda: Curvature.of_hessian(3000 * free_hessian(2)), "N/m"),
        (lambda: Curvature(np.zeros((2, 3)), np.zeros((2, 3))), "directions, atoms, 3"),
        (lambda: Curvature(np.eye(3)[:, None], np.zeros((2, 1, 3))), "directions, atoms, 3"),
        (lambda: Curvature(np.zeros((1, 2, 3)), np.zeros((1, 2, 3))), "direction 0 is zero"),
        (lambda: Curvature.of_columns([0, 0], np.zeros((2, 3, 4, 3))), "repeat"),
        (lambda: Curvature.of_columns([4], np.zeros((1, 3, 4, 3))), "from 0 to 3"),
        (lambda: Curvature.of_columns([0], np.zeros((4, 3, 1, 3))), "with k indices"),
        (lambda: Curvature.of_columns([0, 1], rng.normal(size=(2, 3, 4, 3))), "not symmetric"),
    ],
)
def test_bad_curvature_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_labels_are_kept_and_the_calculator_is_not():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=0)
    atoms.calc = EMT()
    labelled = LabelledStructure(
        atoms,
        energy=atoms.get_potential_energy(),
        forces=atoms.get_forces(),
        stress=atoms.get_stress(voigt=False),
        curvature=Curvature.of_hessian(free_hessian(4)),
        weight=2,
        name="copper",
    )
    assert labelled.atoms.calc is None
    assert atoms.calc is not None
    assert (labelled.energy, labelled.weight) == (atoms.get_potential_energy(), 2.0)
    np.testing.assert_array_equal(labelled.forces, atoms.get_forces())
    np.testing.assert_allclose(labelled.stress, atoms.get_stress(voigt=False), atol=1e-15)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({}, "no label"),
        ({"energy": np.nan}, "energy must be a finite number in eV"),
        ({"energy": 1.0, "weight": -1}, "weight must not be negative"),
        ({"forces": np.zeros((2, 3))}, r"forces must have the shape \(4, 3\)"),
        ({"forces": np.full((4, 3), 1e5)}, "eV/Å"),
        ({"forces": np.full((4, 3), np.inf)}, "12 are not"),
        ({"stress": np.zeros(6)}, "Voigt"),
        ({"stress": 100 * np.eye(3)}, "GPa"),
        ({"stress": np.triu(np.ones((3, 3)))}, "not symmetric"),
        ({"curvature": Curvature.of_hessian(free_hessian(2))}, "that of 2 atoms"),
    ],
)
def test_bad_labels_are_refused_with_the_name_of_the_structure(labels, message):
    with pytest.raises(ValueError, match=f"gold: .*{message}"):
        LabelledStructure(bulk("Au", cubic=True), name="gold", **labels)


def test_stress_of_a_molecule_is_refused():
    with pytest.raises(ValueError, match=r"H2O: .*not periodic"):
        LabelledStructure(molecule("H2O"), stress=np.zeros((3, 3)))


def test_other_classes_are_refused():
    with pytest.raises(TypeError, match="ASE Atoms"):
        LabelledStructure("Cu", energy=1.0)
    with pytest.raises(TypeError, match="of_hessian"):
        LabelledStructure(Atoms("H"), curvature=np.zeros((3, 3)))
