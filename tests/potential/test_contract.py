"""What every potential of the package promises, whatever its energy is made of."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms
from models import build
from pair_potential import smooth_pairs
from torch.func import grad, jvp, vmap

import mace_functional as mf
from mace_functional.autodiff.torch_internals import pytree
from mace_functional.potential.protocol import (
    EdgePotential,
    HasFeatures,
    HasParts,
    HoldsPairs,
    features_of,
    hold_pairs_of,
)


def charged() -> mf.Potential:
    spec = {"type": "categorical", "per": "graph", "num_classes": 21, "offset": 10, "emb_dim": 3}
    return mf.load_model(build(embedding_specs={"total_charge": spec}))


POTENTIALS: dict[str, Callable[[], mf.Potential]] = {
    "MACE": lambda: mf.load_model(build()),
    "MACE with a charge": charged,
    "D3": lambda: mf.D3(mf.D3Settings("pbe", 8.0, 6.0)),
    "function": smooth_pairs,
    "sum": lambda: mf.SumPotential(smooth_pairs(), mf.D3(mf.D3Settings("pbe", 8.0, 6.0))),
    "sum of sums": lambda: mf.SumPotential(
        mf.SumPotential(smooth_pairs(), mf.load_model(build())), smooth_pairs()
    ),
}


@pytest.fixture(scope="module", params=POTENTIALS)
def potential(request) -> mf.Potential:
    return POTENTIALS[request.param]()


@pytest.fixture(scope="module")
def atoms() -> Atoms:
    """Two atoms without symmetry, in a cell that is periodic along two directions."""
    cell = [[3.1, 0, 0], [0.4, 3.3, 0], [0, 0, 9]]
    return Atoms("CO", [[0, 0, 0], [1.2, 1.1, 0.9]], cell=cell, pbc=[True, True, False])


def test_it_has_the_members_of_the_protocol_and_prints_in_one_line(potential):
    assert isinstance(potential, mf.Potential)
    assert potential.dtype == torch.float64
    assert torch.device(potential.device).type == "cpu"
    assert "\n" not in repr(potential)
    for leaf in pytree.tree_leaves(potential.params):
        assert leaf.dtype == potential.dtype


def test_structure_is_that_of_the_atoms(potential, atoms):
    s = potential.structure(atoms, skin=0.2)
    assert isinstance(s, mf.Structure)
    np.testing.assert_array_equal(s.positions, atoms.positions)
    np.testing.assert_array_equal(s.cell, atoms.cell.array)
    np.testing.assert_array_equal(s.masses, atoms.get_masses())
    np.testing.assert_array_equal(s.numbers, atoms.numbers)
    assert s.topology.n_atoms == len(atoms)
    assert s.topology.pbc.tolist() == atoms.pbc.tolist()
    leaves, spec = pytree.tree_flatten(s)
    again = pytree.tree_unflatten(leaves, spec)
    energy = mf.energy_fn(potential, again.topology)(s.positions, s.cell, potential.params)
    assert energy == mf.energy_fn(potential, s.topology)(s.positions, s.cell, potential.params)


def test_energy_of_the_atoms_adds_up_and_does_not_depend_on_place_and_image(potential, atoms):
    s = potential.structure(atoms)
    energy = mf.energy_fn(potential, s.topology)(s.positions, s.cell, potential.params)
    each = mf.energy_fn(potential, s.topology, per_atom=True)
    assert each(s.positions, s.cell, potential.params).shape == (2,)
    torch.testing.assert_close(each(s.positions, s.cell, potential.params).sum(), energy)
    moved = atoms.copy()
    moved.positions += [0.3, -0.2, 5.0]
    moved.positions[1] += moved.cell.array[0] - 2 * moved.cell.array[1]
    t = potential.structure(moved)
    other = mf.energy_fn(potential, t.topology)(t.positions, t.cell, potential.params)
    assert float(other) == pytest.approx(float(energy), abs=1e-9)


def test_topology_is_current_until_a_pair_comes_near_and_is_rebuilt_then(potential, atoms):
    s = potential.structure(atoms, skin=0.4)
    slightly, far = s.positions.clone(), s.positions.clone()
    slightly[1] += 0.15
    far[1] += 1.0
    assert s.topology.is_current(slightly, s.cell)
    assert s.at(slightly, s.cell).topology is s.topology
    assert not s.topology.is_current(far, s.cell)
    for x in slightly, far:
        here = s.at(x, s.cell)
        moved = atoms.copy()
        moved.positions = x.numpy()
        fresh = potential.structure(moved)
        found, expected = (
            mf.energy_fn(potential, t)(x, s.cell, potential.params)
            for t in (here.topology, fresh.topology)
        )
        assert float(found) == pytest.approx(float(expected), abs=1e-10)


def test_derivatives_nest_and_repeat(potential, atoms):
    s = potential.structure(atoms)
    energy = mf.energy_fn(potential, s.topology)
    v = torch.linspace(-1, 1, 6, dtype=torch.float64).view(2, 3)

    def along(t: torch.Tensor) -> torch.Tensor:
        return energy(s.positions + t * v, s.cell, potential.params)

    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    forward_over_reverse = [jvp(grad(along), (zero,), (one,))[1] for _ in range(3)]
    forward_over_forward = jvp(lambda t: jvp(along, (t,), (one,))[1], (zero,), (one,))[1]
    reverse_over_reverse = grad(grad(along))(zero)
    assert len(set(map(float, forward_over_reverse))) == 1
    torch.testing.assert_close(forward_over_forward, forward_over_reverse[0])
    torch.testing.assert_close(reverse_over_reverse, forward_over_reverse[0])
    h = 1e-3
    difference = (along(zero + h) - 2 * along(zero) + along(zero - h)) / h**2
    assert float(difference) == pytest.approx(float(reverse_over_reverse), abs=2e-3, rel=1e-3)
    rows = torch.stack([s.positions, s.positions + 0.01 * v])
    together = vmap(lambda x: energy(x, s.cell, potential.params))(rows)
    for x, found in zip(rows, together, strict=True):
        torch.testing.assert_close(found, energy(x, s.cell, potential.params))


def test_it_exists_in_single_precision(potential, atoms):
    rough = potential.to(dtype=torch.float32)
    assert rough.dtype == torch.float32
    s, t = potential.structure(atoms), rough.structure(atoms)
    assert t.positions.dtype == torch.float32
    found = mf.energy_fn(rough, t.topology)(t.positions, t.cell, rough.params)
    expected = mf.energy_fn(potential, s.topology)(s.positions, s.cell, potential.params)
    assert float(found) == pytest.approx(float(expected), abs=1e-4, rel=1e-5)


def test_bad_arguments_are_refused_in_words(potential, atoms):
    s = potential.structure(atoms)
    energy = mf.energy_fn(potential, s.topology)
    with pytest.raises(ValueError, match=r"positions \(2, 3\) and cell \(3, 3\)"):
        energy(s.positions[:1], s.cell, potential.params)
    with pytest.raises(ValueError, match="one dtype and device"):
        energy(s.positions, s.cell.float(), potential.params)
    with pytest.raises(ValueError, match="no atoms"):
        potential.structure(Atoms())
    with pytest.raises(ValueError, match="skin must be"):
        potential.structure(atoms, skin=-1.0)
    with pytest.raises(TypeError, match="they are swapped"):
        mf.from_ase(potential, atoms)


def test_what_it_offers_besides_is_said_by_its_kind(potential, atoms):
    parts = potential.potentials if isinstance(potential, HasParts) else ()
    assert isinstance(potential, EdgePotential) == isinstance(
        potential, (mf.MaceModel, mf.FunctionPotential)
    )
    if isinstance(potential, HasFeatures):
        assert set(features_of(potential, atoms)) <= {"total_charge"}
    if isinstance(potential, HoldsPairs):
        s = potential.structure(atoms, skin=0.3)
        held = hold_pairs_of(potential, s)
        energies = [
            mf.energy_fn(potential, t.topology)(s.positions, s.cell, potential.params)
            for t in (s, held)
        ]
        torch.testing.assert_close(*energies)
    assert all(isinstance(part, mf.Potential) for part in parts)
