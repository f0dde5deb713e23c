"""MaceCalculator against mace-torch's calculator, finite differences, and ASE's own tools."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_stress
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from ase.vibrations import Vibrations, VibrationsData
from mace.calculators import MACECalculator
from models import TOTAL_CHARGE, build, float64_default

import mace_functional as mf
from mace_functional.interop import ase as interop
from mace_functional.interop.ase_optimiser import SecondOrder


@pytest.fixture(scope="module")
def module():
    return build(seed=3, correlation=3)


@pytest.fixture(scope="module")
def model(module):
    return mf.load_model(module)


@pytest.fixture
def silica() -> Atoms:
    atoms = bulk("Si", "diamond", a=4.2) + Atoms("O", [[1.1, 1.0, 0.7]])
    atoms.rattle(0.05, seed=1)
    return atoms


def reference(module) -> MACECalculator:
    return MACECalculator(models=module, device="cpu", default_dtype="float64")


def test_all_properties_equal_mace_torch(model, module, silica):
    theirs = silica.copy()
    theirs.calc = reference(module)
    silica.calc = mf.MaceCalculator(model)
    with float64_default():
        assert silica.get_potential_energy() == pytest.approx(
            theirs.get_potential_energy(), abs=1e-10
        )
        np.testing.assert_allclose(silica.get_forces(), theirs.get_forces(), atol=1e-11)
        np.testing.assert_allclose(silica.get_stress(), theirs.get_stress(), atol=1e-12)
        energies = silica.get_potential_energies()
        np.testing.assert_allclose(energies, theirs.get_potential_energies(), atol=1e-11)
    assert energies.sum() == pytest.approx(silica.get_potential_energy(), abs=1e-11)
    assert np.abs(theirs.get_forces()).max() > 1e-2


def test_hessian_is_square_and_equals_mace_torch(model, module, silica):
    ours = mf.MaceCalculator(model).get_hessian(silica)
    size = 3 * len(silica)
    assert ours.shape == (size, size)
    np.testing.assert_allclose(
        ours, reference(module).get_hessian(silica).reshape(size, size), atol=1e-10
    )
    part = mf.MaceCalculator(model).get_hessian(silica, indices=[2])
    np.testing.assert_allclose(part, ours[6:, 6:], atol=1e-12)


def test_hessian_without_atoms_is_refused(model):
    with pytest.raises(ValueError, match="has no atoms: pass atoms to get_hessian"):
        mf.MaceCalculator(model).get_hessian()


def test_stress_equals_finite_differences_of_the_energy(model, silica):
    silica.calc = mf.MaceCalculator(model)
    expected = calculate_numerical_stress(silica, eps=1e-5)
    np.testing.assert_allclose(silica.get_stress(), expected, atol=1e-8)


@pytest.mark.parametrize("cell", [None, [1, 1, 1], [15, 15, 15]])
def test_a_molecule_has_no_stress_whatever_its_cell(model, cell):
    atoms = molecule("CH3OH", cell=cell)
    atoms.calc = mf.MaceCalculator(model)
    assert np.isfinite(atoms.get_potential_energy())
    assert "stress" not in atoms.calc.results
    with pytest.raises(PropertyNotImplementedError, match="periodic in no direction"):
        atoms.get_stress()


def slab(vacuum: float) -> Atoms:
    return Atoms("CSi", [[0, 0, 0], [1.2, 1.1, 1.0]], cell=[2.6, 2.9, vacuum], pbc=[1, 1, 0])


def rod(vacuum: float) -> Atoms:
    chain = Atoms("OH", [[0, 0, 0], [0.9, 0.6, 0.1]], cell=[2.4, vacuum, vacuum], pbc=[1, 0, 0])
    chain.rotate(30, (1, 1, 1), rotate_cell=True)
    return chain


@pytest.mark.parametrize("structure", [slab, rod])
def test_stress_times_volume_of_slabs_and_rods_does_not_depend_on_the_vacuum(model, structure):
    found = []
    for vacuum in 10.0, 1.0, 40.0:
        atoms = structure(vacuum)
        atoms.calc = mf.MaceCalculator(model)
        stress = atoms.get_stress(voigt=False)
        found.append(stress * atoms.get_volume())
        free = ~atoms.pbc
        reciprocal = atoms.cell.reciprocal()[free]
        np.testing.assert_allclose(reciprocal @ stress, 0, atol=1e-14)
        s = mf.from_ase(atoms, model)
        same = mf.stress(mf.energy_fn(model, s.graph))(s.positions, s.cell, model.params)
        np.testing.assert_allclose(stress, same, rtol=0, atol=1e-13)
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=1e-11)
    np.testing.assert_allclose(found[2], found[0], rtol=0, atol=1e-11)
    assert np.abs(found[0]).max() > 1e-2


@pytest.mark.parametrize("optimiser", [BFGS, SecondOrder])
def test_cell_filters_relax_a_slab_in_its_plane_and_leave_its_vacuum(model, optimiser):
    atoms = slab(12.0)
    atoms.calc = mf.MaceCalculator(model)
    before = atoms.get_potential_energy()
    optimiser(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-2, steps=10)
    assert atoms.get_potential_energy() < before - 1e-3
    np.testing.assert_allclose(atoms.cell[2], [0, 0, 12], rtol=0, atol=1e-12)
    assert np.abs(atoms.cell.lengths()[:2] - [2.6, 2.9]).max() > 1e-3


def test_a_slab_without_a_third_lattice_vector_has_no_stress(model):
    atoms = slab(0.0)
    atoms.calc = mf.MaceCalculator(model)
    assert np.isfinite(atoms.get_potential_energy())
    with pytest.raises(PropertyNotImplementedError, match="the cell has no volume"):
        atoms.get_stress()


def test_calculator_takes_what_load_model_takes(module, model):
    atoms = molecule("CH3OH")
    atoms.calc = mf.MaceCalculator(module)
    energy = atoms.get_potential_energy()
    atoms.calc = mf.MaceCalculator(model)
    assert energy == atoms.get_potential_energy()
    assert mf.MaceCalculator("embedded").model.cutoff == mf.load_model("embedded").cutoff


@pytest.mark.parametrize("wrong", [None, 3, molecule("H2O")])
def test_calculator_says_what_it_takes_for_a_model(wrong):
    with pytest.raises(TypeError, match="the name of a model, the path of a file or"):
        mf.MaceCalculator(wrong)
    with pytest.raises(ValueError, match=r"'smal' is neither .* did you mean 'small'"):
        mf.MaceCalculator("smal")


@pytest.mark.parametrize("skin", [-0.1, float("nan"), float("inf")])
def test_calculator_refuses_a_skin_that_is_none(model, skin):
    with pytest.raises(ValueError, match="skin must be a number from 0 to 20 in Å"):
        mf.MaceCalculator(model, skin=skin)


def test_neighbour_list_is_used_again_within_the_skin(model, silica):
    silica.calc = mf.MaceCalculator(model, skin=0.4)
    silica.get_forces()
    first = silica.calc.structure.graph
    silica.positions[0] += 0.05
    silica.get_forces()
    assert silica.calc.structure.graph is first
    silica.positions[0] += 0.5
    forces = silica.get_forces()
    assert silica.calc.structure.graph is not first
    fresh = silica.copy()
    fresh.calc = mf.MaceCalculator(model, skin=0.0)
    np.testing.assert_allclose(forces, fresh.get_forces(), atol=1e-12)


@pytest.mark.slow
def test_compiled_calculator_equals_the_plain_one(model, silica):
    torch._dynamo.reset()
    silica.calc, plain = mf.MaceCalculator(model, compiled=True), mf.MaceCalculator(model)
    for _ in range(2):
        silica.positions[0] += 0.02
        np.testing.assert_allclose(silica.get_forces(), plain.get_forces(silica), atol=1e-11)
        np.testing.assert_allclose(silica.get_stress(), plain.get_stress(silica), atol=1e-11)
    torch._dynamo.reset()


def test_compiled_calculator_keeps_the_shape_of_its_graphs(model, silica, monkeypatch):
    shapes = []

    def recorded(function, **_):
        def call(topology, *args):
            shapes.append(tuple(topology.senders.shape))
            return function(topology, *args)

        return call

    monkeypatch.setattr(interop, "compile_checked", recorded)
    calculator = mf.MaceCalculator(model, skin=0.0, compiled=True)
    for strain in 1.0, 1.01, 1.02, 1.1:  # fewer neighbours at each step
        strained = silica.copy()
        strained.set_cell(silica.cell * strain, scale_atoms=True)
        strained.calc = calculator
        fresh = mf.MaceCalculator(model).get_forces(strained.copy())
        np.testing.assert_allclose(strained.get_forces(), fresh, atol=1e-12)
    assert len(set(shapes)) == 1
    denser = silica.copy()
    denser.set_cell(silica.cell * 0.9, scale_atoms=True)
    calculator.get_forces(denser)
    assert shapes[-1][1] > shapes[0][1]
    copy.deepcopy(calculator).get_forces(molecule("H2O"))
    assert shapes[-1] == (3, 3)


@pytest.mark.parametrize("change", ["element", "pbc", "size", "cell"])
def test_other_structures_never_get_a_stale_neighbour_list(model, silica, change):
    silica.calc = mf.MaceCalculator(model, skin=0.4)
    silica.get_forces()
    other = silica.copy()
    if change == "element":
        other.numbers[0] = 6
    elif change == "pbc":
        other.pbc = [True, True, False]
    elif change == "size":
        other = other.repeat((2, 1, 1))
    else:
        other.set_cell(other.cell.array * 0.8, scale_atoms=True)
    fresh = other.copy()
    other.calc, fresh.calc = silica.calc, mf.MaceCalculator(model)
    np.testing.assert_allclose(other.get_forces(), fresh.get_forces(), atol=1e-12)


def test_a_hessian_of_another_charge_leaves_the_next_energy_as_it_is():
    model = mf.load_model(build(seed=1, embedding_specs=TOTAL_CHARGE))
    neutral, charged = molecule("CH3OH"), molecule("CH3OH")
    charged.info["charge"] = 1
    calculator = mf.MaceCalculator(model)
    calculator.get_potential_energy(neutral)
    calculator.get_hessian(charged)
    neutral.positions[0, 0] += 0.01
    expected = mf.MaceCalculator(model).get_potential_energy(neutral)
    assert calculator.get_potential_energy(neutral) == pytest.approx(expected, abs=1e-12)


def test_results_follow_a_change_of_the_total_charge():
    model = mf.load_model(build(seed=1, embedding_specs=TOTAL_CHARGE))
    atoms = molecule("CH3OH")
    atoms.calc = mf.MaceCalculator(model)
    neutral = atoms.get_potential_energy()
    atoms.info["charge"] = 1
    assert abs(atoms.get_potential_energy() - neutral) > 1e-6
    charged = atoms.get_potential_energy()
    atoms.info["charge"] = 0
    assert atoms.get_potential_energy() == pytest.approx(neutral, abs=1e-12)
    atoms.info["charge"] = 1
    atoms.calc.get_hessian(atoms)
    assert atoms.get_potential_energy() == pytest.approx(charged, abs=1e-12)


def test_ase_relaxes_positions_and_cell(model, silica):
    silica.calc = mf.MaceCalculator(model)
    before = silica.get_potential_energy()
    optimiser = BFGS(FrechetCellFilter(silica), logfile=None)
    optimiser.run(fmax=1e-3, steps=5)
    assert silica.get_potential_energy() < before


def test_ase_vibrations_by_finite_differences_agree_with_the_hessian(model, tmp_path):
    atoms = molecule("H2O")
    atoms.calc = mf.MaceCalculator(model)
    free = [0, 1]
    vibrations = Vibrations(atoms, free, name=str(tmp_path / "vib"), delta=1e-3, nfree=4)
    vibrations.run()
    exact = VibrationsData.from_2d(atoms, atoms.calc.get_hessian(atoms, indices=free), free)
    np.testing.assert_allclose(
        np.sort(vibrations.get_energies() ** 2),
        np.sort(exact.get_energies() ** 2),
        atol=1e-8,
    )
