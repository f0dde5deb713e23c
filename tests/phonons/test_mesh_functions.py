"""Sums over the modes on a mesh as pure functions, and their gradients."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import pytest
import torch
from ase import Atoms
from crystals import central, chain
from helpers import assert_close, random
from pair_crystals import ions, relaxed, xenon
from torch import Tensor
from torch.func import grad, jvp, vmap

import mace_functional as mf

TEMPERATURES = [0.0, 80.0, 300.0]
SIZE = (2, 2, 1)


class Salt(NamedTuple):
    """Relaxed rock salt, its structure, and meshes with and without its space group."""

    potential: mf.FunctionPotential
    atoms: Atoms
    s: Any
    reduced: mf.Mesh
    full: mf.Mesh

    @property
    def arguments(self) -> tuple[Tensor, Tensor, Any, Tensor]:
        return self.s.positions, self.s.cell, self.potential.params, self.s.masses


@pytest.fixture(scope="module")
def salt() -> Salt:
    potential, atoms = ions(), relaxed("salt")
    reduced, full = (mf.Mesh.of(atoms, SIZE, symmetry=reduce) for reduce in (True, False))
    return Salt(potential, atoms, potential.structure(atoms), reduced, full)


def test_thermodynamics_are_those_of_the_modes_on_the_mesh(salt):
    thermo = mf.mesh_thermo_fn(salt.potential, salt.s.topology, salt.reduced, TEMPERATURES)
    found = thermo(*salt.arguments)
    phonons = mf.phonons_of(salt.potential, salt.atoms, method="replicas")
    expected = mf.mesh_thermo(mf.mesh_modes(phonons, salt.reduced), TEMPERATURES).thermo
    for name, one, other in zip(found._fields, found, expected, strict=True):
        assert_close(one, other), name
    assert int(found.n_modes) == 6 * len(salt.reduced.q) - 3


@pytest.mark.parametrize("name", ["free_energy", "heat_capacity", "entropy"])
def test_gradients_by_parameters_are_central_differences_on_both_meshes(salt, name):
    x, cell, params, masses = salt.arguments
    slopes = []
    for mesh in salt.reduced, salt.full:
        thermo = mf.mesh_thermo_fn(salt.potential, salt.s.topology, mesh, 300.0)

        def f(params: Any, thermo: Any = thermo) -> Tensor:
            return getattr(thermo(x, cell, params, masses), name)

        slopes.append(grad(f)(params))
    for key, value in params.items():
        expected = central(lambda t, k=key, v=value: f(params | {k: v * (1 + t)}), 1e-3) / value
        assert_close(slopes[1][key], expected, 1e-7)
        assert_close(slopes[0][key], slopes[1][key], 1e-9)


def test_gradients_by_positions_cell_and_masses_and_second_derivatives(salt):
    x, cell, params, masses = salt.arguments
    thermo = mf.mesh_thermo_fn(salt.potential, salt.s.topology, salt.full, 300.0)

    def f(x: Tensor, cell: Tensor, masses: Tensor) -> Tensor:
        return thermo(x, cell, params, masses).free_energy

    # Without symmetry no modes are degenerate, so second derivatives exist.
    point = x + 0.02 * random(2, 3), cell + 0.02 * random(3, 3, seed=1), masses
    along = random(2, 3, seed=2), random(3, 3, seed=3), random(2, seed=4)

    def slope(*p: Tensor) -> Tensor:
        pairs = zip(grad(f, (0, 1, 2))(*p), along, strict=True)
        return sum((g * a).sum() for g, a in pairs)

    def moved(t: float) -> tuple[Tensor, ...]:
        return tuple(p + t * a for p, a in zip(point, along, strict=True))

    assert_close(slope(*point), central(lambda t: f(*moved(t)), 1e-3), 1e-7)
    expected = central(lambda t: slope(*moved(t)), 1e-3)
    assert_close(jvp(slope, point, along)[1], expected, 1e-6)
    by_masses = vmap(lambda m: f(point[0], point[1], m))(torch.stack([masses, 2 * masses]))
    assert_close(by_masses[1], f(point[0], point[1], 2 * masses), 1e-12)


def test_a_sum_has_the_leading_dimensions_of_its_function(salt):
    def moments(w: Tensor) -> Tensor:
        return torch.stack([w, w**2, torch.ones_like(w)])

    sums = mf.mesh_sum_fn(salt.potential, salt.s.topology, salt.reduced, moments, unit="THz")
    first, second, count = sums(*salt.arguments)
    phonons = mf.phonons_of(salt.potential, salt.atoms, method="replicas")
    modes = mf.mesh_modes(phonons, salt.reduced)
    w = modes.frequencies_in("THz")
    weights = salt.reduced.weights
    assert_close(first, weights @ w.sum(1), 1e-10)
    assert_close(second, weights @ w.square().sum(1), 1e-10)
    assert_close(count, 6 - 3 * weights[(salt.reduced.q == 0).all(1)].sum(), 1e-12)


def test_a_reduced_mesh_is_refused_where_its_symmetry_does_not_hold(salt):
    x, cell, params, masses = salt.arguments
    count = mf.mesh_sum_fn(salt.potential, salt.s.topology, salt.reduced, torch.ones_like)
    for place, value in enumerate((x, cell, params, masses)):
        if value is params:
            continue

        def f(value: Tensor, place: int = place) -> Tensor:
            moved: list[Any] = [x, cell, params, masses]
            moved[place] = value
            return count(*moved)

        for transform in grad(f), vmap(f), lambda v: jvp(f, (v,), (v,)):
            with pytest.raises(ValueError, match="symmetry=False"):
                transform(value)
        with pytest.raises(ValueError, match="symmetry=False"):
            f(value.clone().requires_grad_())


def test_imaginary_modes_are_told_of_inside_of_transforms(salt):
    x, cell, params, masses = salt.arguments
    args = salt.potential, salt.s.topology, salt.reduced
    flipped = {"screening": params["screening"], "repulsion": -params["repulsion"]}
    thermo = mf.mesh_thermo_fn(*args, 300.0)
    with pytest.warns(UserWarning, match="imaginary modes, down to -.*are left out") as caught:
        grad(lambda p: thermo(x, cell, p, masses).free_energy)(flipped)
    assert len(caught) == 1
    with pytest.warns(UserWarning, match="imaginary modes") as caught:
        thermo(x, cell, flipped, masses)
    assert len(caught) == 1
    roots = mf.mesh_sum_fn(*args, torch.sqrt)
    for call in lambda p: roots(x, cell, p, masses), grad(lambda p: roots(x, cell, p, masses)):
        with pytest.raises(ValueError, match=r"not finite at q = .* go down to -"):
            call(flipped)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            call(params)


def test_the_rotation_of_a_chain_is_left_out():
    model = mf.load_model("embedded")
    atoms = chain()
    atoms = mf.relax(model, Atoms("SiO", atoms.positions, cell=[3.4, 9, 9], pbc=atoms.pbc)).atoms
    s, mesh = mf.from_ase(atoms, model), mf.Mesh.of(atoms, (2, 1, 1))
    count = mf.mesh_sum_fn(model, s.topology, mesh, torch.ones_like)
    assert_close(count(s.positions, s.cell, model.params, s.masses), torch.tensor(4.0).double())


def test_parts_that_nothing_connects_are_refused():
    potential = xenon()
    atoms = Atoms("Xe2", [[0, 0, 0], [4, 0, 0]], cell=[20, 20, 20], pbc=True)
    s, mesh = potential.structure(atoms), mf.Mesh.of(atoms, (1, 1, 1))
    count = mf.mesh_sum_fn(potential, s.topology, mesh, torch.ones_like)
    with pytest.raises(ValueError, match="no interactions connect"):
        count(s.positions, s.cell, potential.params, s.masses)


def test_meshes_of_other_structures_and_swapped_arguments_are_refused(salt):
    other = mf.Mesh.of(relaxed("fcc"), (1, 1, 1))
    with pytest.raises(ValueError, match="the mesh was made for 1 atoms"):
        mf.mesh_thermo_fn(salt.potential, salt.s.topology, other, 300.0)
    with pytest.raises(TypeError, match="mesh_thermo_fn"):
        mf.mesh_thermo_fn(salt.potential, salt.reduced, salt.s.topology, 300.0)
    with pytest.raises(ValueError, match="unit"):
        mf.mesh_sum_fn(salt.potential, salt.s.topology, salt.full, torch.exp, unit="eV")
