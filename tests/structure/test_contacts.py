"""How near atoms may come: the measure, its limits, and the searches that they bound."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.data import covalent_radii
from ase.geometry import get_distances
from hypothesis import given, settings
from hypothesis import strategies as st

import mace_functional as mf
from mace_functional.dispersion.pairs import CUTOFF
from mace_functional.optimize.coordinates import free_coordinates
from mace_functional.optimize.surface import Surface
from mace_functional.structure import contacts, neighbours
from mace_functional.structure.contacts import REFUSED, filled_fraction, shortest_contact


def smallest_ratio(atoms: Atoms) -> float:
    """By ASE's minimum-image distances of a supercell: another route to the same number."""
    radii = covalent_radii[atoms.numbers]
    large = atoms.repeat(np.where(atoms.pbc, 3, 1))
    distances = get_distances(atoms.positions, large.positions, cell=large.cell, pbc=large.pbc)[1]
    ratios = distances / (radii[:, None] + np.tile(radii, len(large) // len(atoms)))
    return float(ratios[distances > 1e-9].min())


@pytest.mark.parametrize(
    "atoms",
    [
        molecule("CH3CH2OH"),
        bulk("NaCl", "rocksalt", a=5.64),
        bulk("Cs", "bcc", a=6.14),
        bulk("Si") * (2, 1, 1),
        Atoms("CsH", [(0, 0, 0), (2.2, 0, 0)], cell=[5, 5, 5], pbc=(True, False, True)),
        Atoms("H2", [(0, 0, 0), (9, 0, 0)]),
    ],
    ids=lambda atoms: atoms.get_chemical_formula(),
)
def test_shortest_contact_is_that_of_all_periodic_images(atoms: Atoms) -> None:
    contact = shortest_contact(atoms)
    assert contact is not None
    assert contact.ratio == pytest.approx(smallest_ratio(atoms))
    radii = covalent_radii[atoms.numbers[[contact.first, contact.second]]]
    assert contact.distance == pytest.approx(contact.ratio * radii.sum())


def test_hydrogen_bond_counts_by_ratio_and_not_by_distance() -> None:
    """H2 is 0.74 Å long, and nearer to rest than two caesium atoms 2.5 Å apart."""
    hydrogen, caesium = (
        Atoms("H2", [(0, 0, 0), (0, 0, 0.74)]),
        Atoms("Cs2", [(0,) * 3, (2.5, 0, 0)]),
    )
    assert shortest_contact(hydrogen).ratio == pytest.approx(0.74 / 0.62)  # type: ignore[union-attr]
    assert shortest_contact(caesium).ratio == pytest.approx(2.5 / 4.88)  # type: ignore[union-attr]


def test_lone_atoms_have_no_contact() -> None:
    assert shortest_contact(Atoms("He")) is None
    assert shortest_contact(Atoms("He2", [(0, 0, 0), (500, 0, 0)])) is None


def test_atom_in_a_small_cell_meets_its_own_image() -> None:
    contact = shortest_contact(Atoms("H", cell=[0.2, 5, 5], pbc=True))
    assert contact is not None
    assert (contact.first, contact.second) == (0, 0)
    assert contact.distance == pytest.approx(0.2)


@given(st.integers(1, 6), st.floats(0.3, 4.0), st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_cell_without_room_always_has_a_contact_below_the_limit(
    count: int, length: float, seed: int
) -> None:
    """The bound by volume refuses nothing that the search would accept."""
    random = np.random.default_rng(seed)
    numbers = random.choice([1, 6, 14, 55], size=count)
    atoms = Atoms(numbers, scaled_positions=random.random((count, 3)), cell=[length] * 3, pbc=True)
    if filled_fraction(atoms) > 1:
        assert smallest_ratio(atoms) < REFUSED


def test_cell_without_room_is_refused_before_any_search(monkeypatch: Any) -> None:
    def search(*_: object) -> None:
        raise AssertionError("a search takes memory")

    monkeypatch.setattr(neighbours, "pairs", search)
    atoms = Atoms("Cs40", cell=[3, 3, 3], scaled_positions=np.random.rand(40, 3), pbc=True)
    with pytest.raises(ValueError, match="40 atoms have no room in a cell of 27 Å³"):
        shortest_contact(atoms)


@pytest.mark.parametrize("pbc", [True, (True, True, False), (True, False, False), False])
@pytest.mark.parametrize("cutoff", [3.0, 9.0])
def test_number_of_pairs_is_estimated_within_a_factor_of_three(pbc: Any, cutoff: float) -> None:
    atoms = bulk("C", cubic=True) * (3, 3, 3)
    atoms.pbc = pbc
    found = neighbours.pairs(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
    cell = np.where(atoms.pbc[:, None], atoms.cell.array, np.eye(3))
    estimate = neighbours.neighbours_expected(atoms.positions, cell, atoms.pbc, cutoff)
    assert 1 / 3 < estimate * len(atoms) / len(found.distance) < 3


def test_benzene_in_a_cell_of_one_angstrom_is_refused_before_memory_is_asked_for(
    monkeypatch: Any,
) -> None:
    atoms = molecule("C6H6")
    atoms.set_cell(np.eye(3))
    atoms.pbc = True
    monkeypatch.setattr(neighbours, "neighbour_list", None)
    with pytest.raises(ValueError, match=r"1\.6e\+06 neighbours within 31.75.* cell is too small"):
        neighbours.search(atoms.positions, atoms.cell.array, atoms.pbc, CUTOFF)


@pytest.mark.parametrize("cutoff", [1e4, 1e9])
def test_endless_cutoff_in_a_crystal_is_refused(cutoff: float) -> None:
    atoms = bulk("Si")
    with pytest.raises(ValueError, match="cutoff too large"):
        neighbours.search(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)


def test_endless_cutoff_of_a_molecule_finds_all_pairs() -> None:
    atoms = molecule("C6H6")
    receiver, _, _ = neighbours.search(atoms.positions, np.zeros((3, 3)), atoms.pbc, 1e6)
    assert len(receiver) == 12 * 11


def test_more_pairs_than_memory_are_refused(monkeypatch: Any) -> None:
    monkeypatch.setattr(neighbours, "free_memory", lambda _: 10**6)
    atoms = bulk("Si") * (4, 4, 4)
    with pytest.raises(MemoryError, match=r"pairs of 128 atoms within 12 Å need .* GiB"):
        neighbours.search(atoms.positions, atoms.cell.array, atoms.pbc, 12.0)


@pytest.mark.parametrize("density", ["diamond", "metallic hydrogen"])
def test_densest_matter_passes_with_the_cutoff_of_dispersion(density: str) -> None:
    atoms = {
        "diamond": bulk("C"),
        "metallic hydrogen": bulk("H", "fcc", a=(4 / 0.7) ** (1 / 3)),
    }[density]
    found = neighbours.neighbours_expected(
        atoms.positions, atoms.cell.array, np.ones(3, dtype=bool), CUTOFF
    )
    assert found < neighbours.MOST_NEIGHBOURS / 3


def test_optimisers_take_no_step_below_the_limit(model: mf.MaceModel) -> None:
    """Two carbon atoms 0.58 Å apart are farther than any limit in Å was, and are no molecule."""
    atoms = Atoms("C2", [(0, 0, 0), (1.3, 0, 0)])
    s = mf.from_ase(atoms, model)
    coordinates = free_coordinates(atoms, s.positions, s.cell, cell_freedom=False)
    surface = Surface(model, atoms, coordinates)
    for distance, finite in ((1.3, True), (0.65, True), (0.58, False)):
        nearer = (1.3 - distance) / 2
        z = coordinates.basis.T @ np.array([nearer, 0, 0, -nearer, 0, 0, *np.zeros(6)])
        assert np.isfinite(surface.at(z).energy) == finite
        assert surface.smallest_ratio == pytest.approx(distance / (2 * covalent_radii[6]))


def test_limits_are_ordered() -> None:
    assert 0 < neighbours.COINCIDENT < contacts.REFUSED < contacts.REPORTED < 0.77
