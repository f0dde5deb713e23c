"""Free coordinates: displacements and strains, without what is held."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from optimizer_problems import coordinates_of, rattled_quartz

from mace_functional.optimize.coordinates import STRAINS


@pytest.fixture(scope="module")
def crystal():
    return rattled_quartz()


def test_strains_are_an_orthonormal_basis_in_the_order_of_voigt():
    np.testing.assert_allclose(np.einsum("kab,lab->kl", STRAINS, STRAINS), np.eye(6), atol=1e-15)
    np.testing.assert_allclose(STRAINS, STRAINS.transpose(0, 2, 1))
    assert STRAINS[3, 1, 2] == STRAINS[3, 2, 1] > 0  # yz


def test_translations_are_no_coordinates(crystal):
    coordinates = coordinates_of(crystal)
    assert coordinates.count == 3 * len(crystal) - 3 + 6
    np.testing.assert_allclose(
        coordinates.basis.T @ coordinates.basis, np.eye(coordinates.count), atol=1e-12
    )
    z = np.random.default_rng(0).normal(size=coordinates.count)
    displacements, _ = coordinates.split(coordinates.joint(z))
    np.testing.assert_allclose(displacements.mean(0), 0, atol=1e-12)


@pytest.mark.parametrize(
    ("pbc", "freedom", "count"),
    [
        ((1, 1, 1), True, 6),
        ((1, 1, 0), True, 3),
        ((0, 0, 1), True, 1),
        ((0, 0, 0), True, 0),
        ((1, 1, 1), False, 0),
        ((1, 1, 0), "isotropic", 1),
        ((1, 1, 1), (1, 1, 0, 0, 0, 1), 3),
        ((1, 1, 0), (1, 0, 1, 1, 1, 1), 2),
    ],
)
def test_free_strains(pbc, freedom, count):
    atoms = Atoms("Si2", [[0, 0, 0], [1, 1, 1]], cell=np.diag([4, 5, 6]), pbc=pbc)
    assert coordinates_of(atoms, cell_freedom=freedom).count == 3 + count


def test_strains_of_a_slab_lie_in_its_plane():
    """However it is turned: what is normal to the periodic directions is not strained."""
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    atoms = Atoms("Si", cell=np.diag([4.0, 5.0, 30.0]) @ turn, pbc=(1, 1, 0))
    coordinates = coordinates_of(atoms)
    z = np.random.default_rng(0).normal(size=coordinates.count)
    _, strain = coordinates.split(coordinates.joint(z))
    np.testing.assert_allclose(strain.numpy() @ turn[2], 0, atol=1e-12)
    assert coordinates.count == 3
