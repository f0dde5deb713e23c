"""Neighbour graphs against a brute-force search, ASE, and the energies of random models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import combinations, product

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, graphene, molecule
from ase.neighborlist import neighbor_list
from models import ELEMENTS, TOTAL_CHARGE, build
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.utils import _pytree as pytree

import mace_functional as mf
from mace_functional.structure.graph import Graph
from mace_functional.structure.species import Species
from mace_functional.structure.structure import Structure

SMALL = {"hidden_irreps": "3x0e + 3x1o", "max_ell": 1, "radial_MLP": [4], "num_bessel": 4}
FEATURES = {
    **TOTAL_CHARGE,
    "total_spin": {"type": "categorical", "per": "graph", "num_classes": 4, "emb_dim": 3},
    "partial": {"type": "continuous", "per": "node", "in_dim": 1, "emb_dim": 4},
    "site": {
        "type": "categorical",
        "per": "node",
        "num_classes": 3,
        "offset": -1,
        "emb_dim": 2,
    },
}
PERIODICITIES = list(product([False, True], repeat=3))
TRICLINIC = np.array([[4.1, 0.3, -0.5], [1.2, 3.6, 0.4], [-0.8, 0.9, 5.3]])

Edge = tuple[int, int, int, int, int]
"""Receiver, sender and the three components of the unit shift."""


@cache
def small_model() -> mf.MaceModel:
    return mf.load_model(build(**SMALL))


@pytest.fixture(scope="module")
def model() -> mf.MaceModel:
    return small_model()


@pytest.fixture(scope="module")
def featured_model() -> mf.MaceModel:
    return mf.load_model(build(embedding_specs=FEATURES, **SMALL))


def topology_model(cutoff: float = 4.0, elements: tuple[int, ...] = ELEMENTS) -> mf.MaceModel:
    """A model for graphs alone: its settings, and not its parameters, have the cutoff."""
    settings = replace(small_model().settings, cutoff=cutoff, atomic_numbers=elements)
    return replace(small_model(), settings=settings)


def brute_force_edges(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float
) -> set[Edge]:
    """Pairs with `|x_i - x_j + S cell| < cutoff`, from every image that could reach."""
    pbc = np.asarray(pbc, dtype=bool)
    reach = np.zeros(3, dtype=int)
    if pbc.any():
        reciprocal = np.linalg.pinv(cell[pbc])
        spread = np.ptp(positions @ reciprocal, axis=0)
        reach[pbc] = np.ceil(spread + cutoff * np.linalg.norm(reciprocal, axis=0))
    shifts = np.array(list(product(*(range(-n, n + 1) for n in reach))))
    found = set()
    for i, j in product(range(len(positions)), repeat=2):
        lengths = np.linalg.norm(positions[i] - positions[j] + shifts @ cell, axis=1)
        for shift in shifts[lengths < cutoff]:
            if i != j or shift.any():
                found.add((i, j, *(int(n) for n in shift)))
    return found


def brute_force(atoms: Atoms, cutoff: float) -> set[Edge]:
    return brute_force_edges(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)


def ase_edges(atoms: Atoms, cutoff: float) -> set[Edge]:
    sender, receiver, shifts = neighbor_list("ijS", atoms, cutoff)
    return {
        (int(i), int(j), *(int(n) for n in s))
        for i, j, s in zip(receiver, sender, shifts, strict=True)
    }


def edges_of(graph: Graph) -> set[Edge]:
    """Edges of a graph in terms of atoms; fails if one is there twice."""
    receiver, slot = graph.edge_mask.nonzero(as_tuple=True)
    columns = [
        graph.order[receiver],
        graph.order[graph.senders[receiver, slot]],
        *graph.unit_shifts[receiver, slot].to(torch.int64).T,
    ]
    edges = set(zip(*(c.tolist() for c in columns), strict=True))
    assert len(edges) == len(receiver)
    return edges


def random_atoms(
    cell: np.ndarray,
    pbc: object,
    *,
    size: int = 4,
    seed: int = 0,
    low: float = 0.0,
    high: float = 1.0,
    elements: tuple[int, ...] = ELEMENTS,
) -> Atoms:
    """Atoms at random fractional positions between `low` and `high`."""
    rng = np.random.default_rng(seed)
    scaled = rng.uniform(low, high, size=(size, 3))
    return Atoms(rng.choice(elements, size), positions=scaled @ cell, cell=cell, pbc=pbc)


def without_vectors(atoms: Atoms) -> Atoms:
    """The same atoms with zero lattice vectors in the non-periodic directions."""
    atoms.cell[~atoms.pbc] = 0.0
    return atoms


def rattled(atoms: Atoms, seed: int = 0, stdev: float = 0.08) -> Atoms:
    atoms = atoms.copy()
    atoms.rattle(stdev, seed=seed)
    return atoms


def water() -> Atoms:
    return rattled(molecule("H2O"))


def silicon() -> Atoms:
    return rattled(bulk("Si"))


def quartz_like() -> Atoms:
    return random_atoms(TRICLINIC, True, size=5, seed=4, elements=(8, 14))


def slab() -> Atoms:
    atoms = fcc111("Al", (1, 1, 2), a=4.05, vacuum=3.0)
    atoms.numbers[:] = (6, 1)
    return rattled(atoms, seed=2)


def wire() -> Atoms:
    cell = np.array([[0, 0, 0], [0, 0, 0], [0.4, -0.3, 3.1]])
    atoms = Atoms("CHO", positions=[[0, 0, 0], [1.1, 0.2, 0.5], [-0.9, 0.7, 1.6]], cell=cell)
    atoms.pbc = (False, False, True)
    return atoms


def single() -> Atoms:
    return Atoms("O", positions=[[0.3, 0.2, 0.1]])


SAMPLES: dict[str, Callable[[], Atoms]] = {
    "molecule": water,
    "crystal": silicon,
    "triclinic": quartz_like,
    "slab": slab,
    "wire": wire,
    "atom": single,
}

every_sample = pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES.keys())


def deformed(
    s: Structure, seed: int = 0, amplitude: float = 0.1, strain: float = 0.03
) -> tuple[Tensor, Tensor]:
    """Positions and cell of a structure, strained and shaken."""
    rng = np.random.default_rng(seed)
    F = torch.as_tensor(np.eye(3) + strain * rng.uniform(-1, 1, (3, 3)), dtype=s.cell.dtype)
    shake = torch.as_tensor(amplitude * rng.uniform(-1, 1, s.positions.shape), dtype=s.cell.dtype)
    return s.positions @ F + shake, s.cell @ F


def edges_at(s: Structure, positions: Tensor, cell: Tensor) -> set[Edge]:
    """A fresh brute-force search within the cutoff at another geometry."""
    pbc = s.graph.pbc.numpy()
    return brute_force_edges(positions.numpy(), cell.numpy(), pbc, s.graph.cutoff)


def energy(model: mf.MaceModel, s: Structure, graph: Graph | None = None) -> Tensor:
    return mf.energy_fn(model, graph or s.graph)(s.positions, s.cell, model.params)


def batched_energies(model: mf.MaceModel, b: Structure, *, per_atom: bool = False) -> Tensor:
    def one(graph: Graph, positions: Tensor, cell: Tensor) -> Tensor:
        return mf.energy_fn(model, graph, per_atom=per_atom)(positions, cell, model.params)

    return torch.vmap(one)(b.graph, b.positions, b.cell)


def force(model: mf.MaceModel, s: Structure) -> Tensor:
    return -torch.func.grad(mf.energy_fn(model, s.graph))(s.positions, s.cell, model.params)


# Neighbour search


def assert_all_pairs(atoms: Atoms, cutoff: float = 4.0, skin: float = 0.0) -> None:
    graph = mf.from_ase(atoms, topology_model(cutoff), skin=skin).graph
    expected = brute_force(atoms, cutoff + skin)
    assert edges_of(graph) == expected
    assert ase_edges(atoms, cutoff + skin) == expected


@pytest.mark.parametrize("skin", [0.0, 0.7])
@pytest.mark.parametrize("vectors", ["kept", "zero"])
@pytest.mark.parametrize("pbc", PERIODICITIES, ids=lambda p: "".join("FT"[b] for b in p))
def test_edges_are_all_pairs_for_every_periodicity(
    pbc: tuple[bool, ...], vectors: str, skin: float
) -> None:
    for seed in range(3):
        cell = TRICLINIC + np.random.default_rng(seed).uniform(-0.8, 0.8, (3, 3))
        atoms = random_atoms(cell, pbc, seed=seed)
        assert_all_pairs(without_vectors(atoms) if vectors == "zero" else atoms, 3.0, skin)


@pytest.mark.parametrize("pbc", PERIODICITIES[1:], ids=lambda p: "".join("FT"[b] for b in p))
def test_edges_of_cells_far_smaller_than_the_cutoff(pbc: tuple[bool, ...]) -> None:
    atoms = random_atoms(TRICLINIC / 4, pbc, size=2)
    assert_all_pairs(atoms)
    assert_all_pairs(without_vectors(atoms))


@pytest.mark.parametrize("pbc", PERIODICITIES, ids=lambda p: "".join("FT"[b] for b in p))
def test_edges_of_atoms_outside_of_the_cell(pbc: tuple[bool, ...]) -> None:
    for seed in range(3):
        atoms = random_atoms(TRICLINIC, pbc, size=6, seed=seed, low=-1.7, high=2.4)
        assert_all_pairs(atoms, 3.5)
        assert_all_pairs(without_vectors(atoms), 3.5)


def test_edges_of_atoms_many_cells_outside_in_a_periodic_direction() -> None:
    inside = random_atoms(TRICLINIC, True, size=4)
    outside = inside.copy()
    cells = np.array([[0, 0, 0], [40, -7, 3], [0, 55, 0], [-9, -9, -60]])
    outside.positions += cells @ TRICLINIC
    edges = edges_of(mf.from_ase(outside, topology_model()).graph)
    # x_i - x_j + S cell is the same vector if S loses what the atoms gained
    back = {
        (i, j, *(int(n) for n in np.array(shift) + cells[i] - cells[j])) for i, j, *shift in edges
    }
    assert back == brute_force(inside, 4.0)


@pytest.mark.parametrize("pbc", PERIODICITIES, ids=lambda p: "".join("FT"[b] for b in p))
def test_edges_of_left_handed_cells(pbc: tuple[bool, ...]) -> None:
    cell = TRICLINIC[[1, 0, 2]]
    assert np.linalg.det(cell) < 0
    assert_all_pairs(random_atoms(cell, pbc, size=4, low=-0.5, high=1.5))


@pytest.mark.parametrize("pbc", PERIODICITIES, ids=lambda p: "".join("FT"[b] for b in p))
def test_edges_of_strongly_skewed_cells(pbc: tuple[bool, ...]) -> None:
    cell = np.array([[3.1, 0.1, 0.0], [8.7, 3.0, -0.2], [-7.3, 11.1, 3.4]])
    assert_all_pairs(random_atoms(cell, pbc, size=3), 3.0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_edges_of_a_plane_with_a_normal_vector_in_the_plane(axis: int) -> None:
    cell = np.roll([[0.2, 0.1, 0.3], [3.0, 0.2, 0.1], [-0.4, 3.3, 0.2]], axis, axis=0)
    cell[axis] = cell[axis - 1] + cell[axis - 2]
    atoms = random_atoms(TRICLINIC, np.arange(3) != axis, size=4)
    atoms.cell = cell
    expected = brute_force(atoms, 4.0)
    assert edges_of(mf.from_ase(atoms, topology_model()).graph) == expected


def test_single_atom_in_a_periodic_cell_has_its_images_as_neighbours() -> None:
    atoms = Atoms("Si", positions=[[7.0, -3.0, 0.4]], cell=TRICLINIC, pbc=True)
    assert_all_pairs(atoms, 6.0)
    graph = mf.from_ase(atoms, topology_model(6.0)).graph
    assert graph.edge_mask.all()
    assert not graph.senders.any()


def test_isolated_atoms_have_no_neighbours_and_finite_energy(model: mf.MaceModel) -> None:
    atoms = Atoms("OHC", positions=[[0, 0, 0], [9, 0, 0], [0, 30, 0]])
    assert_all_pairs(atoms)
    s = mf.from_ase(atoms, model)
    assert s.graph.senders.shape == (3, 1)
    alone = [energy(model, mf.from_ase(Atoms(symbol), model)) for symbol in "OHC"]
    torch.testing.assert_close(energy(model, s), sum(alone))
    assert torch.equal(force(model, s), torch.zeros(3, 3, dtype=torch.float64))


@pytest.mark.parametrize("pbc", [(0, 0, 0), (1, 0, 0), (0, 1, 1)])
def test_edges_of_atoms_a_thousand_angstroms_apart(pbc: tuple[int, ...]) -> None:
    atoms = random_atoms(np.diag([5.0, 5.5, 6.0]), pbc, size=4)
    atoms.positions[2:] += 1000.0 * ~atoms.pbc
    assert_all_pairs(atoms)
    assert_all_pairs(without_vectors(atoms))


def test_edges_in_single_precision_are_those_of_double_precision() -> None:
    atoms = random_atoms(TRICLINIC, True, size=5)
    single = replace(topology_model(), params={"r_max": torch.tensor(4.0, dtype=torch.float32)})
    s = mf.from_ase(atoms, single)
    assert edges_of(s.graph) == brute_force(atoms, 4.0)
    floating = [t.dtype for t in pytree.tree_leaves(s) if t.is_floating_point()]
    assert set(floating) == {torch.float32}


# The arrays of a graph


@every_sample
def test_edge_vectors_are_differences_plus_lattice_vectors(sample: Callable[[], Atoms]) -> None:
    s = mf.from_ase(sample(), topology_model())
    positions, cell = deformed(s)
    vectors = s.graph.edge_vectors(positions, cell)
    order, senders = s.graph.order.tolist(), s.graph.senders.tolist()
    assert vectors.shape == (*s.graph.senders.shape, 3)
    for node, slot in product(*(range(n) for n in s.graph.senders.shape)):
        if s.graph.edge_mask[node, slot]:
            i, j = order[node], order[senders[node][slot]]
            expected = positions[i] - positions[j] + s.graph.unit_shifts[node, slot] @ cell
        else:
            expected = torch.ones(3, dtype=torch.float64)
        torch.testing.assert_close(vectors[node, slot], expected, rtol=0, atol=1e-13)


def test_edge_vectors_are_no_longer_than_cutoff_and_skin() -> None:
    s = mf.from_ase(quartz_like(), topology_model(), skin=0.5)
    lengths = s.graph.edge_vectors(s.positions, s.cell).norm(dim=-1)
    assert lengths[s.graph.edge_mask].max() < 4.5
    assert lengths[s.graph.edge_mask].max() > 4.0


def test_nodes_are_the_atoms_sorted_by_element() -> None:
    atoms = Atoms([8, 14, 1, 8, 6, 1, 1], positions=np.arange(21).reshape(7, 3))
    graph = mf.from_ase(atoms, topology_model()).graph
    assert graph.species == Species((0, 1, 2, 3), (1, 6, 8, 14), (3, 1, 2, 1))
    assert atoms.numbers[graph.order].tolist() == [1, 1, 1, 6, 8, 8, 14]
    assert graph.order[graph.inverse].tolist() == list(range(7))
    assert graph.inverse[graph.order].tolist() == list(range(7))
    assert graph.atom_mask.all()


def test_species_are_those_present_in_the_order_of_the_model() -> None:
    model = topology_model(elements=(14, 8, 1, 6))
    graph = mf.from_ase(Atoms("H2CSi", positions=np.eye(4, 3)), model).graph
    assert graph.species == Species((0, 2, 3), (14, 1, 6), (1, 2, 1))
    assert graph.order.tolist() == [3, 0, 1, 2]


def test_species_expand() -> None:
    species = Species((0, 2), (1, 8), (3, 2))
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert species.expand(rows).tolist() == [[1, 2]] * 3 + [[3, 4]] * 2


def test_to_atoms_undoes_the_order_of_the_nodes() -> None:
    graph = mf.from_ase(quartz_like(), topology_model()).graph
    values = torch.arange(5.0, dtype=torch.float64)
    assert torch.equal(graph.to_atoms(values[graph.order]), values)
    masked = replace(graph, atom_mask=torch.tensor([True, False, True, True, False]))
    assert masked.to_atoms(values[graph.order]).tolist() == [0, 0, 2, 3, 0]


def test_values_of_the_elements_by_atom() -> None:
    graph = mf.from_ase(quartz_like(), topology_model()).graph
    numbers = graph.by_atom(graph.species.numbers)
    assert numbers.tolist() == quartz_like().numbers.tolist()


def test_structure_holds_what_the_atoms_hold() -> None:
    atoms = without_vectors(slab())
    atoms.set_masses([3.5, 7.25])
    s = mf.from_ase(atoms, topology_model(), skin=0.25)
    np.testing.assert_array_equal(s.positions, atoms.positions)
    np.testing.assert_array_equal(s.cell, atoms.cell.array)
    np.testing.assert_array_equal(s.graph.pbc, atoms.pbc)
    assert s.masses.tolist() == [3.5, 7.25]
    assert s.numbers.tolist() == [6, 1]
    assert s.numbers.dtype == torch.int64
    assert (s.graph.cutoff, s.graph.skin) == (4.0, 0.25)


def test_structure_does_not_change_with_the_atoms(featured_model: mf.MaceModel) -> None:
    atoms = featured(silicon())
    atoms.set_masses([3.0, 4.0])
    s = mf.from_ase(atoms, featured_model)
    before = [t.clone() for t in pytree.tree_leaves(s)]
    for array in atoms.arrays.values():
        array[:] = 1
    atoms.cell[:] = 0.0
    atoms.pbc[:] = False
    for old, new in zip(before, pytree.tree_leaves(s), strict=True):
        assert torch.equal(old, new)


# Errors


def assert_refused(message: str, atoms: Atoms, skin: float = 0.0) -> None:
    with pytest.raises(ValueError, match=message):
        mf.from_ase(atoms, topology_model(), skin=skin)


def test_empty_structure_is_refused() -> None:
    assert_refused("^the structure has no atoms$", Atoms())


def test_unknown_elements_are_refused_by_name() -> None:
    message = "^the model does not know the elements He Fe; it was made for H C O Si$"
    assert_refused(message, Atoms("HFeHeFe", positions=np.eye(4, 3)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_positions_that_are_not_finite_are_refused(value: float) -> None:
    atoms = water()
    atoms.positions[1:, 1] = value
    assert_refused(r"^positions of atoms \[1, 2\] are not finite numbers$", atoms)


@pytest.mark.parametrize("value", [1e7, -1e155, 1e300])
def test_coordinates_whose_squares_overflow_are_refused(value: float) -> None:
    """Decompositions of matrices of such numbers were seen never to end."""
    assert_refused("exceed 1e\\+06 Å", Atoms("H2", positions=[[0, 0, 0], [value, 0, 0]]))
    assert_refused("exceed 1e\\+06 Å", Atoms("H", cell=[3, 3, abs(value)], pbc=True))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_cell_that_is_not_finite_is_refused(value: float) -> None:
    atoms = silicon()
    atoms.cell[1, 2] = value
    assert_refused("^the cell has entries that are not finite numbers$", atoms)


@pytest.mark.parametrize(
    ("pbc", "missing"),
    [((1, 1, 1), [0, 2]), ((0, 1, 1), [2]), ((1, 0, 0), [0])],
)
def test_periodic_directions_without_lattice_vectors_are_refused(
    pbc: tuple[int, ...], missing: list[int]
) -> None:
    atoms = Atoms("H", cell=[[0, 0, 0], [0, 5, 0], [0, 0, 0]], pbc=pbc)
    message = rf"^directions \[{', '.join(map(str, missing))}\] are periodic but their lattice "
    assert_refused(message + "vectors are zero: set the cell, or .*atoms.pbc$", atoms)


@pytest.mark.parametrize("length", [1e-12, 2e-6, 1e-3])
def test_vanishing_lattice_vector_is_refused(length: float) -> None:
    atoms = Atoms("H", cell=[5.0, 5.0, length], pbc=True)
    assert_refused("^the periodic lattice vectors are .* too short", atoms)


def test_nearly_parallel_lattice_vectors_are_refused() -> None:
    atoms = Atoms("H", cell=[[5, 0, 0], [5, 5e-4, 0], [0, 0, 5]], pbc=True)
    assert_refused("^the periodic lattice vectors are linearly dependent", atoms)


@pytest.mark.parametrize("distance", [1e3, 1e4, 1e5])
def test_atoms_very_far_apart_are_no_neighbours(distance: float) -> None:
    atoms = Atoms("H3", positions=[[0, 0, 0], [distance, distance, distance], [0, 0, 1]])
    assert int(mf.from_ase(atoms, topology_model()).graph.edge_mask.sum()) == 2


def test_numbers_beyond_the_periodic_table_are_unknown() -> None:
    assert_refused("^the model does not know the elements Z=200", Atoms([200]))


@pytest.mark.parametrize(
    ("pbc", "cell"),
    [
        ((1, 1, 1), [[1.5, 0, 0], [3, 0, 0], [0, 0, 5]]),
        ((1, 1, 1), [[1.5, 0, 0], [0, 2, 0], [1.5, 2, 0]]),
        ((1, 1, 1), [[1, 2, 3], [4, 5, 6], [7, 8, 9]]),
        ((1, 1, 0), [[1.5, 0, 0], [3, 0, 0], [0, 0, 5]]),
        ((1, 0, 1), [[1.1, 1.3, 1.7], [0, 1, 0], [-2.2, -2.6, -3.4]]),
        ((0, 1, 1), [[0, 0, 0], [1.1, 1.3, 1.7], [3.3, 3.9, 5.1]]),
    ],
)
def test_linearly_dependent_lattice_vectors_are_refused(
    pbc: tuple[int, ...], cell: list[list[float]]
) -> None:
    atoms = Atoms("H", cell=cell, pbc=pbc)
    assert_refused("^the periodic lattice vectors are linearly dependent", atoms)


@pytest.mark.parametrize("distance", [0.0, 5e-4])
def test_coincident_atoms_are_refused(distance: float) -> None:
    atoms = Atoms("OCOH", positions=[[0, 0, 0], [1, 1, 1], [0, 2, 0], [1, 1, 1 + distance]])
    assert_refused(r"^atoms (1 and 3|3 and 1) are \d\.\de.\d\d Å apart: remove the dupl", atoms)
    mf.from_ase(atoms[:3], topology_model())


def test_atoms_that_coincide_through_the_boundary_are_refused() -> None:
    atoms = Atoms("OH", positions=[[0.2, 1, 1], [5.2, 1, 1]], cell=[5, 6, 7], pbc=True)
    assert_refused(r"^atoms (0 and 1|1 and 0) are \d\.\de.\d\d Å apart", atoms)
    atoms.pbc = (False, True, True)
    mf.from_ase(atoms, topology_model())


@pytest.mark.parametrize("skin", [-0.1, np.nan, np.inf])
def test_skin_that_is_no_length_is_refused(skin: float) -> None:
    assert_refused(f"^skin must be .*, not {skin}$", water(), skin)


# Features


def featured(atoms: Atoms, seed: int = 0, **info: object) -> Atoms:
    """Atoms with the features of the atoms set, and those of the structure as given."""
    rng = np.random.default_rng(seed)
    atoms.set_array("partial", rng.normal(size=len(atoms)))
    atoms.set_array("site", rng.integers(1, 4, size=len(atoms)))
    atoms.info.update(info)
    return atoms


@pytest.mark.parametrize(
    ("info", "charge", "spin"),
    [
        ({}, 0, 1),
        ({"charge": -2, "spin": 3}, -2, 3),
        ({"total_charge": 2, "total_spin": 0}, 2, 0),
        ({"charge": np.int64(1)}, 1, 1),
        ({"spin": np.array(2.0)}, 0, 2),
    ],
)
def test_charge_and_spin_are_read_from_info(
    featured_model: mf.MaceModel, info: dict[str, object], charge: float, spin: float
) -> None:
    atoms = featured(water(), **info)
    features = mf.from_ase(atoms, featured_model).graph.features
    assert features["total_charge"].item() == charge
    assert features["total_spin"].item() == spin
    assert {t.dtype for t in features.values()} == {torch.float64}
    np.testing.assert_array_equal(features["partial"], atoms.arrays["partial"])
    np.testing.assert_array_equal(features["site"], atoms.arrays["site"])


def test_each_feature_changes_the_energy(featured_model: mf.MaceModel) -> None:
    def at(atoms: Atoms) -> float:
        return energy(featured_model, mf.from_ase(atoms, featured_model)).item()

    changed = [featured(water(), **info) for info in ({}, {"charge": 1}, {"spin": 2})]
    for name in ("partial", "site"):
        atoms = featured(water())
        atoms.arrays[name][1] = 3 - atoms.arrays[name][1] % 2
        changed.append(atoms)
    energies = [at(atoms) for atoms in changed]
    assert min(abs(a - b) for a, b in combinations(energies, 2)) > 1e-4


def test_models_without_features_ignore_them(model: mf.MaceModel) -> None:
    assert mf.from_ase(featured(water(), charge=1), model).graph.features == {}


def test_missing_feature_of_the_atoms_is_refused(featured_model: mf.MaceModel) -> None:
    message = r"^the model needs the feature 'partial': set atoms.arrays\['partial'\]$"
    with pytest.raises(ValueError, match=message):
        mf.from_ase(water(), featured_model)


def test_missing_feature_of_the_structure_is_refused() -> None:
    specs = {"pressure": {"type": "continuous", "per": "graph", "in_dim": 1, "emb_dim": 2}}
    needy = mf.load_model(build(embedding_specs=specs, **SMALL))
    with pytest.raises(ValueError, match=r"'pressure': set atoms.info\['pressure'\]$"):
        mf.from_ase(water(), needy)
    atoms = water()
    atoms.info["pressure"] = 0.7
    assert mf.from_ase(atoms, needy).graph.features["pressure"].item() == 0.7


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"charge": 3}, "^total_charge must lie between -2 and 2, not 3$"),
        ({"charge": -3}, "^total_charge must lie between -2 and 2, not -3$"),
        ({"charge": np.nan}, "^total_charge must lie between -2 and 2, not nan$"),
        ({"spin": 4}, "^total_spin must lie between 0 and 3, not 4$"),
        ({"spin": -1}, "^total_spin must lie between 0 and 3, not -1$"),
    ],
)
def test_class_out_of_range_is_refused(
    featured_model: mf.MaceModel, info: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        mf.from_ase(featured(water(), **info), featured_model)


def test_several_charges_of_one_structure_are_refused(featured_model: mf.MaceModel) -> None:
    with pytest.raises(ValueError, match=r"^total_charge must be one number, not \[1, 0, 1\]$"):
        mf.from_ase(featured(water(), charge=[1, 0, 1]), featured_model)


def test_class_of_one_atom_out_of_range_is_refused(featured_model: mf.MaceModel) -> None:
    atoms = featured(water())
    atoms.arrays["site"][1] = 0
    with pytest.raises(ValueError, match=r"^site must lie between 1 and 3, not"):
        mf.from_ase(atoms, featured_model)


# Skin


@every_sample
@pytest.mark.parametrize("skin", [0.0, 0.6])
def test_slack_at_the_reference_is_the_skin(sample: Callable[[], Atoms], skin: float) -> None:
    s = mf.from_ase(sample(), topology_model(), skin=skin)
    assert s.graph.remaining_skin(s.positions, s.cell) == pytest.approx(skin, abs=1e-12)
    assert s.graph.is_current(s.positions, s.cell)


@every_sample
def test_current_graph_holds_all_pairs_within_the_cutoff(sample: Callable[[], Atoms]) -> None:
    s = mf.from_ase(sample(), topology_model(), skin=0.8)
    held = edges_of(s.graph)
    rng = np.random.default_rng(0)
    outcomes = set()
    for seed in range(25):
        amplitude, strain = rng.uniform(0, 0.6), rng.uniform(0, 0.06)
        positions, cell = deformed(s, seed, amplitude, strain)
        current = s.graph.is_current(positions, cell)
        assert not current or edges_at(s, positions, cell) <= held
        outcomes.add(current)
    assert outcomes == ({True} if len(s.positions) == 1 else {True, False})


@pytest.mark.parametrize("sample", [silicon, quartz_like, slab, water])
def test_small_motions_leave_the_graph_current(sample: Callable[[], Atoms]) -> None:
    s = mf.from_ase(sample(), topology_model(), skin=0.8)
    for seed in range(10):
        positions, cell = deformed(s, seed, amplitude=0.1, strain=0.02)
        assert s.graph.is_current(positions, cell)


def left_out(s: Structure) -> tuple[int, int, np.ndarray]:
    """The pair next to those in the graph: receiver, sender and vector."""
    x, cell, pbc = s.positions.numpy(), s.cell.numpy(), s.graph.pbc.numpy()
    further = brute_force_edges(x, cell, pbc, s.graph.cutoff + s.graph.skin + 2.0)
    beyond = [
        (i, j, x[i] - x[j] + np.array(shift) @ cell) for i, j, *shift in further - edges_of(s.graph)
    ]
    return min(beyond, key=lambda pair: np.linalg.norm(pair[2]))


@pytest.mark.parametrize("skin", [0.0, 0.6])
@pytest.mark.parametrize("sample", [quartz_like, slab, wire])
def test_graph_is_not_current_when_a_new_pair_meets_by_moving(
    sample: Callable[[], Atoms], skin: float
) -> None:
    atoms = sample() * (1 + sample().pbc)
    s = mf.from_ase(atoms, topology_model(), skin=skin)
    i, j, vector = left_out(s)
    distance = np.linalg.norm(vector)
    assert i != j
    closer = torch.as_tensor(vector * (1 - 3.999 / distance) / 2)
    positions = s.positions.clone()
    positions[i] -= closer
    positions[j] += closer
    assert not edges_at(s, positions, s.cell) <= edges_of(s.graph)
    assert not s.graph.is_current(positions, s.cell)


@pytest.mark.parametrize("skin", [0.0, 0.6])
@pytest.mark.parametrize("sample", [silicon, quartz_like, slab, wire])
def test_graph_is_not_current_when_a_new_pair_meets_by_strain(
    sample: Callable[[], Atoms], skin: float
) -> None:
    s = mf.from_ase(sample(), topology_model(), skin=skin)
    vector = left_out(s)[2]
    distance = np.linalg.norm(vector)
    axis = vector / distance
    F = torch.as_tensor(np.eye(3) - (1 - 3.999 / distance) * np.outer(axis, axis))
    assert not edges_at(s, s.positions @ F, s.cell @ F) <= edges_of(s.graph)
    assert not s.graph.is_current(s.positions @ F, s.cell @ F)


def test_two_atoms_use_the_slack_by_what_they_approach() -> None:
    s = mf.from_ase(Atoms("OH", positions=[[0, 0, 0], [0, 0, 4.6]]), topology_model(), skin=0.5)
    positions = s.positions.clone()
    positions[1, 2] -= 0.3
    assert s.graph.remaining_skin(positions, s.cell) == pytest.approx(0.2)
    positions[0, 2] += 0.1999
    assert s.graph.is_current(positions, s.cell)
    positions[0, 2] += 0.0002
    assert not s.graph.is_current(positions, s.cell)


@every_sample
def test_rigid_translation_does_not_use_the_slack(sample: Callable[[], Atoms]) -> None:
    s = mf.from_ase(sample(), topology_model(), skin=0.4)
    shift = torch.tensor([120.0, -70.0, 33.0], dtype=torch.float64)
    assert s.graph.remaining_skin(s.positions + shift, s.cell) == pytest.approx(0.4)


@every_sample
def test_rigid_rotation_does_not_use_the_slack(sample: Callable[[], Atoms]) -> None:
    s = mf.from_ase(sample(), topology_model(), skin=0.4)
    for turn in ([0.02, -0.05, 0.03], [0.9, -0.5, 1.3], [0, 0, np.pi], [0, -2.0, 0]):
        Q = torch.as_tensor(Rotation.from_rotvec(turn).as_matrix())
        assert s.graph.remaining_skin(s.positions @ Q, s.cell @ Q) == pytest.approx(0.4, abs=1e-9)


def test_mirror_image_of_a_molecule_needs_a_new_graph() -> None:
    atoms = Atoms("CHOH", positions=[[0, 0, 0], [4.2, 0, 0], [0, 4.2, 0], [0, 0, 4.2]])
    s = mf.from_ase(atoms, topology_model(), skin=0.1)
    assert not s.graph.is_current(-s.positions, s.cell)


@pytest.mark.parametrize("sample", [silicon, quartz_like])
def test_uniform_compression_uses_the_slack(sample: Callable[[], Atoms]) -> None:
    s = mf.from_ase(sample(), topology_model(), skin=0.4)
    slack = s.graph.remaining_skin(0.95 * s.positions, 0.95 * s.cell)
    assert slack == pytest.approx(0.95 * 4.4 - 4.0)
    assert not s.graph.is_current(0.9 * s.positions, 0.9 * s.cell)
    assert s.graph.remaining_skin(1.1 * s.positions, 1.1 * s.cell) == pytest.approx(1.1 * 4.4 - 4.0)


@pytest.mark.parametrize("direction", [(3.0, 0, 0), (0, -3.0, 0), (0, 0, 3.0), (1.0, 2.0, -2.0)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_small_strain_of_a_wire_uses_little_slack(axis: int, direction: tuple[float, ...]) -> None:
    atoms = wire()
    atoms.pbc = np.arange(3) == axis
    atoms.cell = np.outer(atoms.pbc, direction)
    s = mf.from_ase(atoms, topology_model(), skin=0.5)
    for seed in range(4):
        positions, cell = deformed(s, seed, amplitude=0.0, strain=1e-3)
        assert s.graph.remaining_skin(positions, cell) > 0.4


def test_vectors_of_non_periodic_directions_do_not_matter() -> None:
    s = mf.from_ase(slab(), topology_model(), skin=0.3)
    cell = s.cell.clone()
    cell[2] = torch.tensor([1.0, 2.0, 0.3])
    assert s.graph.remaining_skin(s.positions, cell) == pytest.approx(0.3)
    cell[0, 0] *= 0.9
    assert not s.graph.is_current(s.positions, cell)


def test_atom_wrapped_to_the_other_side_needs_a_new_graph() -> None:
    s = mf.from_ase(quartz_like(), topology_model(), skin=0.5)
    positions = s.positions.clone()
    positions[2] += s.cell[1]
    assert not s.graph.is_current(positions, s.cell)


def test_graph_is_not_current_for_geometries_that_are_not_numbers() -> None:
    s = mf.from_ase(silicon(), topology_model(), skin=0.5)
    assert not s.graph.is_current(s.positions * torch.nan, s.cell)
    assert not s.graph.is_current(s.positions, s.cell * torch.nan)


def test_slack_takes_positions_that_require_gradients() -> None:
    s = mf.from_ase(silicon(), topology_model(), skin=0.5)
    s.positions.requires_grad_()
    s.cell.requires_grad_()
    assert s.graph.remaining_skin(s.positions, s.cell) == pytest.approx(0.5)
    assert edges_of(s.rebuild().graph) == edges_of(s.graph)


def test_reference_does_not_follow_a_structure_changed_in_place() -> None:
    s = mf.from_ase(silicon(), topology_model(), skin=0.2)
    positions = s.positions.clone()
    s.positions[0] += 2.0
    assert not s.graph.is_current(s.positions, s.cell)
    s.cell.mul_(0.8)
    assert not s.graph.is_current(positions, s.cell)


def test_reference_does_not_follow_what_it_was_rebuilt_with() -> None:
    s = mf.from_ase(silicon(), topology_model(), skin=0.2)
    positions, cell = s.positions.clone(), s.cell.clone()
    graph = s.rebuild(positions, cell).graph
    positions[0] += 2.0
    assert not graph.is_current(positions, s.cell)
    cell *= 0.8
    assert not graph.is_current(s.positions, cell)


def test_energy_does_not_depend_on_the_skin(model: mf.MaceModel) -> None:
    bare, wide = (mf.from_ase(quartz_like(), model, skin=skin) for skin in (0.0, 1.5))
    assert wide.graph.edge_mask.sum() > bare.graph.edge_mask.sum()
    torch.testing.assert_close(energy(model, wide), energy(model, bare))
    torch.testing.assert_close(force(model, wide), force(model, bare))


def test_energy_of_a_current_graph_is_that_of_a_new_one(model: mf.MaceModel) -> None:
    s = mf.from_ase(quartz_like(), model, skin=1.0)
    positions, cell = deformed(s, amplitude=0.15)
    new = s.rebuild(positions, cell)
    assert s.graph.is_current(positions, cell)
    assert edges_of(new.graph) != edges_of(s.graph)
    torch.testing.assert_close(energy(model, new, s.graph), energy(model, new))


# Rebuilding


@every_sample
@pytest.mark.parametrize("skin", [0.0, 0.5])
def test_rebuilt_structure_is_that_of_the_moved_atoms(
    sample: Callable[[], Atoms], skin: float, model: mf.MaceModel
) -> None:
    atoms = sample()
    s = mf.from_ase(atoms, model, skin=skin)
    positions, cell = deformed(s, amplitude=0.6, strain=0.2)
    new = s.rebuild(positions, cell)
    atoms.cell, atoms.positions = cell.numpy(), positions.numpy()
    fresh = mf.from_ase(atoms, model, skin=skin)
    assert edges_of(new.graph) == edges_of(fresh.graph) == brute_force(atoms, 4.0 + skin)
    assert new.graph.species == fresh.graph.species
    assert new.graph.remaining_skin(positions, cell) == pytest.approx(skin)
    assert torch.equal(new.positions, positions)
    assert torch.equal(new.cell, cell)
    torch.testing.assert_close(energy(model, new), energy(model, fresh))


def test_rebuilding_keeps_numbers_masses_and_features(featured_model: mf.MaceModel) -> None:
    atoms = featured(quartz_like(), charge=-1, spin=2)
    atoms.set_masses(np.arange(5) + 1.5)
    s = mf.from_ase(atoms, featured_model, skin=0.3)
    new = s.rebuild(*deformed(s))
    assert torch.equal(new.masses, s.masses)
    assert torch.equal(new.numbers, s.numbers)
    assert torch.equal(new.graph.pbc, s.graph.pbc)
    assert new.graph.features.keys() == s.graph.features.keys()
    for name, value in s.graph.features.items():
        assert torch.equal(new.graph.features[name], value)
    assert (new.graph.cutoff, new.graph.skin) == (s.graph.cutoff, s.graph.skin)
    atoms.cell, atoms.positions = new.cell.numpy(), new.positions.numpy()
    fresh = mf.from_ase(atoms, featured_model)
    torch.testing.assert_close(energy(featured_model, new), energy(featured_model, fresh))


def test_rebuilding_with_only_one_argument_keeps_the_other() -> None:
    s = mf.from_ase(slab(), topology_model())
    positions, cell = deformed(s, amplitude=0.4)
    for new, x, c in (
        (s.rebuild(), s.positions, s.cell),
        (s.rebuild(positions), positions, s.cell),
        (s.rebuild(cell=cell), s.positions, cell),
    ):
        assert torch.equal(new.positions, x)
        assert torch.equal(new.cell, c)
        assert edges_of(new.graph) == edges_at(s, x, c)


def test_rebuilding_keeps_the_dtype() -> None:
    s = mf.from_ase(quartz_like(), topology_model())
    s = pytree.tree_map(lambda t: t.float() if t.is_floating_point() else t, s)
    new = s.rebuild(s.positions + 0.01)
    assert [t.dtype for t in pytree.tree_leaves(new)] == [t.dtype for t in pytree.tree_leaves(s)]


def test_rebuilding_takes_a_geometry_that_requires_gradients_where_none_are_recorded() -> None:
    s = mf.from_ase(silicon(), topology_model())
    positions, cell = deformed(s, amplitude=0.4)
    geometry = positions.clone().requires_grad_(), cell.clone().requires_grad_()
    with pytest.raises(ValueError, match=r"^Structure\.rebuild .* has no derivatives"):
        s.rebuild(*geometry)
    with torch.no_grad():
        new = s.rebuild(*geometry)
    assert edges_of(new.graph) == edges_at(s, positions, cell)
    assert not any(leaf.requires_grad for leaf in pytree.tree_leaves(new))


def test_moved_structure_keeps_the_graph() -> None:
    s = mf.from_ase(quartz_like(), topology_model(), skin=0.5)
    positions, cell = deformed(s)
    new = s.moved(positions, cell)
    assert new.graph is s.graph
    assert torch.equal(new.positions, positions)
    assert torch.equal(new.cell, cell)
    assert torch.equal(new.numbers, s.numbers)


def test_rebuilding_refuses_bad_geometries() -> None:
    s = mf.from_ase(silicon(), topology_model())
    positions, cell = s.positions.clone(), s.cell.clone()
    positions[1, 0] = torch.nan
    with pytest.raises(ValueError, match=r"^positions of atoms \[1\] are not finite"):
        s.rebuild(positions)
    cell[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"^the cell has entries that are not finite"):
        s.rebuild(cell=cell)
    with pytest.raises(ValueError, match=r"^atoms (0 and 1|1 and 0) are 0.0e.00 Å apart"):
        s.rebuild(s.positions * 0)
    with pytest.raises(ValueError, match=r"^directions \[0, 1, 2\] are periodic but"):
        s.rebuild(cell=s.cell * 0)


@pytest.mark.parametrize("shape", [(1, 3), (3, 3), (2, 2)])
def test_rebuilding_refuses_another_number_of_atoms(shape: tuple[int, int]) -> None:
    s = mf.from_ase(silicon(), topology_model())
    with pytest.raises(ValueError, match="positions"):
        s.rebuild(torch.arange(shape[0] * shape[1], dtype=torch.float64).view(shape))


# Pytrees


@pytest.mark.parametrize("part", ["structure", "graph"])
def test_flattening_and_unflattening_give_the_same(part: str, featured_model: mf.MaceModel) -> None:
    s = mf.from_ase(featured(quartz_like()), featured_model, skin=0.3)
    tree = s if part == "structure" else s.graph
    leaves, spec = pytree.tree_flatten(tree)
    assert all(isinstance(leaf, Tensor) for leaf in leaves)
    back = pytree.tree_unflatten(leaves, spec)
    assert type(back) is type(tree)
    graphs = (back.graph, s.graph) if isinstance(back, Structure) else (back, s.graph)
    for name in ("species", "cutoff", "skin"):
        assert getattr(graphs[0], name) == getattr(graphs[1], name)
    for name in ("order", "senders", "unit_shifts", "edge_mask", "pbc", "reference_cell"):
        assert getattr(graphs[0], name) is getattr(graphs[1], name)
    assert graphs[0].features.keys() == FEATURES.keys()
    if isinstance(back, Structure):
        for name in ("positions", "cell", "masses", "numbers"):
            assert getattr(back, name) is getattr(s, name)


def test_tree_structures_are_equal_for_one_composition_only() -> None:
    def spec(atoms: Atoms, skin: float = 0.0) -> pytree.TreeSpec:
        return pytree.tree_structure(mf.from_ase(atoms, topology_model(), skin=skin))

    assert spec(silicon()) == spec(rattled(silicon(), seed=9))
    assert spec(silicon()) != spec(silicon(), skin=0.1)
    assert spec(silicon()) != spec(Atoms("SiC", positions=np.eye(2, 3)))


def test_tree_map_changes_the_dtype(model: mf.MaceModel) -> None:
    s = mf.from_ase(quartz_like(), model)
    half = pytree.tree_map(lambda t: t.float() if t.is_floating_point() else t, s)
    assert isinstance(half, Structure)
    assert half.positions.dtype == half.graph.unit_shifts.dtype == torch.float32
    assert half.graph.order.dtype == torch.int64
    assert half.graph.edge_mask.dtype == torch.bool
    params = {name: value.float() for name, value in model.params.items()}
    low = mf.energy_fn(model, half.graph)(half.positions, half.cell, params)
    assert low.dtype == torch.float32
    assert low.item() == pytest.approx(energy(model, s).item(), abs=1e-4)


def test_structure_passes_through_vmap_as_an_argument(model: mf.MaceModel) -> None:
    s = mf.from_ase(quartz_like(), model)
    scales = torch.tensor([0.98, 1.0, 1.03], dtype=torch.float64)

    def scaled(s: Structure, scale: Tensor) -> Tensor:
        return mf.energy_fn(model, s.graph)(scale * s.positions, scale * s.cell, model.params)

    mapped = torch.vmap(scaled, in_dims=(None, 0))(s, scales)
    torch.testing.assert_close(mapped, torch.stack([scaled(s, scale) for scale in scales]))
    stacked = pytree.tree_map(lambda t: torch.stack([t] * 3), s)
    torch.testing.assert_close(torch.vmap(scaled)(stacked, scales), mapped)


def test_structure_passes_through_vmap_as_a_result() -> None:
    s = mf.from_ase(silicon(), topology_model())
    scales = torch.tensor([0.9, 1.1], dtype=torch.float64)
    b = torch.vmap(lambda x: replace(s, positions=x * s.positions, cell=x * s.cell))(scales)
    assert isinstance(b, Structure)
    torch.testing.assert_close(b.positions[1], 1.1 * s.positions)
    assert b.graph.senders.shape == (2, *s.graph.senders.shape)
    assert b.graph.species == s.graph.species


# Batches


def mixed() -> list[Atoms]:
    """Different sizes, compositions, neighbour counts and periodicities."""
    return [water(), silicon(), slab(), single(), quartz_like(), wire(), molecule("CH3CH2OH")]


@pytest.fixture(scope="module")
def structures(model: mf.MaceModel) -> list[Structure]:
    return [mf.from_ase(atoms, model) for atoms in mixed()]


def test_batch_pads_to_one_shape(structures: list[Structure]) -> None:
    b = mf.batch(structures)
    sizes = [len(s.positions) for s in structures]
    count, size = len(sizes), max(sizes)
    assert b.positions.shape == b.graph.reference_positions.shape == (count, size, 3)
    assert b.cell.shape == b.graph.reference_cell.shape == (count, 3, 3)
    assert b.masses.shape == b.numbers.shape == (count, size)
    assert b.graph.inverse.shape == b.graph.atom_mask.shape == (count, size)
    assert b.graph.atom_mask.sum(1).tolist() == sizes
    assert torch.equal(b.graph.pbc, torch.stack([s.graph.pbc for s in structures]))
    nodes, width = sum(b.graph.species.counts), b.graph.senders.shape[2]
    assert width == max(s.graph.senders.shape[1] for s in structures)
    assert b.graph.order.shape == (count, nodes)
    assert b.graph.senders.shape == b.graph.edge_mask.shape == (count, nodes, width)
    assert b.graph.unit_shifts.shape == (count, nodes, width, 3)


def test_batch_pads_with_number_0_mass_1_and_position_0(structures: list[Structure]) -> None:
    b = mf.batch(structures)
    for k, s in enumerate(structures):
        real = b.graph.atom_mask[k]
        assert real.tolist() == sorted(real.tolist(), reverse=True)
        assert torch.equal(b.positions[k, real], s.positions)
        assert torch.equal(b.masses[k, real], s.masses)
        assert torch.equal(b.numbers[k, real], s.numbers)
        assert torch.equal(b.cell[k], s.cell)
        assert not b.positions[k, ~real].any()
        assert not b.numbers[k, ~real].any()
        assert (b.masses[k, ~real] == 1).all()


def test_batch_holds_the_edges_of_each(structures: list[Structure]) -> None:
    b = mf.batch(structures)
    for k, s in enumerate(structures):
        graph = pytree.tree_map(lambda t, k=k: t[k], b.graph)
        assert edges_of(graph) == edges_of(s.graph)


def test_batch_makes_room_for_every_composition(structures: list[Structure]) -> None:
    species = mf.batch(structures).graph.species
    most = [max(int((s.numbers == z).sum()) for s in structures) for z in ELEMENTS]
    assert species == Species((0, 1, 2, 3), ELEMENTS, tuple(most))


@pytest.mark.parametrize("per_atom", [False, True])
def test_batched_energies_are_those_of_each(
    structures: list[Structure], model: mf.MaceModel, per_atom: bool
) -> None:
    energies = batched_energies(model, mf.batch(structures), per_atom=per_atom)
    for batched, s in zip(energies, structures, strict=True):
        E = mf.energy_fn(model, s.graph, per_atom=per_atom)
        expected = E(s.positions, s.cell, model.params)
        if per_atom:
            assert not batched[len(expected) :].any()
            batched = batched[: len(expected)]
        torch.testing.assert_close(batched, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", ["grad of vmap", "vmap of grad"])
def test_batched_forces_are_those_of_each_and_zero_where_padded(
    structures: list[Structure], model: mf.MaceModel, order: str
) -> None:
    b = mf.batch(structures)

    def one(positions: Tensor, cell: Tensor, graph: Graph) -> Tensor:
        return mf.energy_fn(model, graph)(positions, cell, model.params)

    if order == "vmap of grad":
        gradient = torch.vmap(torch.func.grad(one))(b.positions, b.cell, b.graph)
    else:
        total = torch.func.grad(lambda *args: torch.vmap(one)(*args).sum())
        gradient = total(b.positions, b.cell, b.graph)
    assert not gradient[~b.graph.atom_mask].any()
    for k, s in enumerate(structures):
        forces = -gradient[k, b.graph.atom_mask[k]]
        torch.testing.assert_close(forces, force(model, s), rtol=1e-10, atol=1e-12)


def test_positions_of_padded_atoms_do_not_matter(
    structures: list[Structure], model: mf.MaceModel
) -> None:
    b = mf.batch(structures)
    positions = torch.where(b.graph.atom_mask[..., None], b.positions, 1.7)
    elsewhere = batched_energies(model, replace(b, positions=positions))
    torch.testing.assert_close(elsewhere, batched_energies(model, b), rtol=0, atol=1e-13)


def test_batched_stress_and_curvature_are_those_of_each(
    structures: list[Structure], model: mf.MaceModel
) -> None:
    b = mf.batch(structures[:3])

    def cell_gradient(graph: Graph, positions: Tensor, cell: Tensor) -> Tensor:
        return torch.func.grad(mf.energy_fn(model, graph), argnums=1)(positions, cell, model.params)

    def curvature(graph: Graph, positions: Tensor, cell: Tensor) -> Tensor:
        E = mf.energy_fn(model, graph)
        return mf.hvp(E)(positions, cell, model.params, torch.cos(3 * positions))

    slopes = torch.vmap(cell_gradient)(b.graph, b.positions, b.cell)
    curved = torch.vmap(curvature)(b.graph, b.positions, b.cell)
    for k, s in enumerate(structures[:3]):
        geometry = s.graph, s.positions, s.cell
        torch.testing.assert_close(slopes[k], cell_gradient(*geometry), rtol=1e-9, atol=1e-11)
        real = b.graph.atom_mask[k]
        torch.testing.assert_close(curved[k, real], curvature(*geometry), rtol=1e-9, atol=1e-11)
        assert not curved[k, ~real].any()


def test_batch_keeps_the_order_of_the_structures(
    structures: list[Structure], model: mf.MaceModel
) -> None:
    order = [3, 0, 6, 1, 5, 4, 2]
    energies = batched_energies(model, mf.batch(structures))
    permuted = batched_energies(model, mf.batch([structures[k] for k in order]))
    torch.testing.assert_close(permuted, energies[order])


def test_batch_of_permuted_atoms_has_permuted_energies(model: mf.MaceModel) -> None:
    atoms = quartz_like()
    order = [4, 2, 0, 3, 1]
    b = mf.batch([mf.from_ase(a, model) for a in (atoms, atoms[order], water())])
    energies = batched_energies(model, b, per_atom=True)
    torch.testing.assert_close(energies[1], energies[0, order])


@every_sample
def test_batch_of_one(sample: Callable[[], Atoms], model: mf.MaceModel) -> None:
    s = mf.from_ase(sample(), model)
    b = mf.batch([s])
    for one, many in zip(pytree.tree_leaves(s), pytree.tree_leaves(b), strict=True):
        assert many.shape == (1, *one.shape)
        assert many.dtype == one.dtype
    assert edges_of(pytree.tree_map(lambda t: t[0], b.graph)) == edges_of(s.graph)
    torch.testing.assert_close(batched_energies(model, b)[0], energy(model, s))


def test_batch_of_copies_needs_no_padding(model: mf.MaceModel) -> None:
    s = mf.from_ase(quartz_like(), model)
    b = mf.batch([s] * 3)
    assert b.graph.atom_mask.all()
    assert b.graph.species == s.graph.species
    torch.testing.assert_close(batched_energies(model, b), energy(model, s).expand(3))


def test_batch_of_disjoint_elements(model: mf.MaceModel) -> None:
    pair = [mf.from_ase(atoms, model) for atoms in (silicon(), water())]
    b = mf.batch(pair)
    assert b.graph.species == Species((0, 2, 3), (1, 8, 14), (2, 1, 2))
    expected = torch.stack([energy(model, s) for s in pair])
    torch.testing.assert_close(batched_energies(model, b), expected)


def test_batch_of_isolated_atoms_and_crystal(model: mf.MaceModel) -> None:
    lonely = Atoms("HH", positions=[[0, 0, 0], [50, 0, 0]])
    alone = [mf.from_ase(atoms, model) for atoms in (lonely, single())]
    assert mf.batch(alone).graph.senders.shape[2] == 1
    for group in (alone, [*alone, mf.from_ase(graphene(), model)]):
        expected = torch.stack([energy(model, s) for s in group])
        torch.testing.assert_close(batched_energies(model, mf.batch(group)), expected)


def test_batch_with_features(featured_model: mf.MaceModel) -> None:
    infos = [{}, {"charge": -2}, {"charge": 2, "spin": 3}, {"spin": 0}]
    samples = [water(), silicon(), single(), quartz_like()]
    group = [
        mf.from_ase(featured(atoms, seed, **info), featured_model)
        for seed, (atoms, info) in enumerate(zip(samples, infos, strict=True))
    ]
    b = mf.batch(group)
    assert b.graph.features["total_charge"].tolist() == [0, -2, 2, 0]
    assert b.graph.features["total_spin"].tolist() == [1, 1, 3, 0]
    assert b.graph.features["partial"].shape == b.graph.features["site"].shape == (4, 5)
    for k, s in enumerate(group):
        for name in ("partial", "site"):
            values = b.graph.features[name][k]
            assert torch.equal(values[b.graph.atom_mask[k]], s.graph.features[name])
            assert (values[~b.graph.atom_mask[k]] == values[0]).all()
    expected = torch.stack([energy(featured_model, s) for s in group])
    torch.testing.assert_close(batched_energies(featured_model, b), expected)


def test_charge_given_as_an_array_of_one_is_a_charge(featured_model: mf.MaceModel) -> None:
    group = [
        mf.from_ase(featured(atoms, charge=np.array([1])), featured_model)
        for atoms in (water(), single())
    ]
    expected = mf.from_ase(featured(water(), charge=1), featured_model)
    torch.testing.assert_close(energy(featured_model, group[0]), energy(featured_model, expected))
    energies = batched_energies(featured_model, mf.batch(group))
    torch.testing.assert_close(energies[0], energy(featured_model, expected))


def test_batch_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^batch needs at least one structure$"):
        mf.batch([])


def test_batch_of_different_models_is_refused(featured_model: mf.MaceModel) -> None:
    one = mf.from_ase(water(), topology_model())
    for other in (
        mf.from_ase(water(), topology_model(), skin=0.1),
        mf.from_ase(water(), topology_model(3.0)),
        mf.from_ase(featured(water()), featured_model),
    ):
        for pair in ([one, other], [other, one], [one, one, other]):
            with pytest.raises(ValueError, match="different models or with different skins"):
                mf.batch(pair)


@pytest.mark.parametrize("elements", [(1, 6, 14), (8,), (1, 8)])
def test_batch_of_models_with_different_elements_is_refused(elements: tuple[int, ...]) -> None:
    one = mf.from_ase(quartz_like(), topology_model())
    number = elements[-1]
    other = mf.from_ase(Atoms([number]), topology_model(elements=elements))
    with pytest.raises(ValueError, match="different elements"):
        mf.batch([one, other])
