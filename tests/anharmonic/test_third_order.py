"""Third-order force constants: against phono3py, differences and definitions."""

from __future__ import annotations

import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.constraints import FixAtoms
from pair_crystals import ions, relaxed, xenon

import mace_functional as mf
from mace_functional.anharmonic import pair_derivatives, third_order
from mace_functional.anharmonic.displaced_pairs import InequivalentPairs
from mace_functional.anharmonic.phono3py import phono3py_of
from mace_functional.anharmonic.supercells import ase_supercell

pytest.importorskip("phono3py")

from phono3py.phonon3.gruneisen import Gruneisen

TOO_SMALL = "frequencies from the supercell"
CUBE = [[-1, 1, 1], [1, -1, 1], [1, 1, -1]]
"""Matrix of the cubic cell of a face-centred lattice."""

pytestmark = pytest.mark.filterwarnings(
    f"ignore:{TOO_SMALL}", "ignore:.*Point group symmetries of supercell"
)


def computed(name, supercell=(2, 2, 2), **options):
    potential = ions() if name == "salt" else xenon()
    return mf.third_order_force_constants(potential, relaxed(name), supercell, **options)


@pytest.fixture(scope="module")
def salt():
    return computed("salt")


def largest(array):
    return float(np.abs(array).max())


def expanded(constants, potential):
    """All third derivatives of the supercell by the definition, (S, 3, S, 3, S, 3)."""
    phono3py = mf.anharmonic.to_phono3py(constants)
    atoms = ase_supercell(phono3py.supercell, constants.atoms)
    s = potential.structure(atoms)
    energy = potential.energy_fn(s.topology)
    derivatives = torch.func.jacfwd(torch.func.hessian(energy))
    return phono3py, derivatives(s.positions, s.cell, potential.params).numpy()


@pytest.mark.parametrize("name", ["salt", "hcp"])
def test_all_elements_are_the_derivatives_by_definition(name):
    constants = computed(name, (2, 2, 2) if name == "salt" else (2, 2, 1))
    phono3py, exact = expanded(constants, ions() if name == "salt" else xenon())
    expected = exact[phono3py.primitive.p2s_map].transpose(0, 2, 4, 1, 3, 5)
    assert largest(constants.values - expected) < 1e-9 * largest(expected)
    assert constants.error < 1e-9


def test_what_symmetry_makes_zero_is_zero_and_no_error():
    # There are inversions about all atoms, and all images of an atom are at the same distances.
    constants = computed("fcc")
    assert largest(constants.values) < 1e-15
    assert constants.error < 1e-6


def test_silicon_of_the_embedded_model_is_the_third_derivative_along_any_displacements(model):
    silicon = bulk("Si", "diamond", a=5.6)
    constants = mf.third_order_force_constants(model, silicon, (2, 2, 2))
    phono3py = mf.anharmonic.to_phono3py(constants)
    s = mf.from_ase(ase_supercell(phono3py.supercell, silicon), model)
    random = np.random.default_rng(1)
    first = phono3py.primitive.p2s_map
    u, v = np.zeros((16, 3)), random.normal(size=(16, 3))
    u[first] = random.normal(size=(2, 3))
    directions = torch.as_tensor(u), torch.as_tensor(v)
    args = s.positions, s.cell, model.params
    exact = mf.third(mf.energy_fn(model, s.graph))(*args, *directions).numpy()
    assert largest(constants.along(u[first], v) - exact) < 1e-8 * largest(exact)
    # The weights of the model were made in single precision, and so are its symmetries.
    assert constants.error < 1e-8
    assert constants.n_pairs == 28


def test_permutations_and_translations_leave_the_third_order_unchanged(salt):
    values, scale = salt.values, largest(salt.values)
    assert largest(values.sum(1)) < 1e-9 * scale
    assert largest(values.sum(2)) < 1e-9 * scale
    assert largest(values - values.transpose(0, 2, 1, 3, 5, 4)) < 1e-9 * scale
    first = mf.anharmonic.to_phono3py(salt).primitive.p2s_map
    own = values[:, first]
    assert largest(own - own.transpose(1, 0, 2, 4, 3, 5)) < 1e-9 * scale


@pytest.mark.parametrize("name", ["salt", pytest.param("silicon", marks=pytest.mark.slow)])
def test_finite_differences_of_phono3py_converge_to_them_quadratically(name, model):
    potential = ions() if name == "salt" else model
    crystal = relaxed("salt") if name == "salt" else bulk("Si", "diamond", a=5.6)
    exact = mf.third_order_force_constants(potential, crystal, (2, 2, 2)).values
    calculator = mf.PotentialCalculator(potential)
    errors = []
    for distance in (0.08, 0.04, 0.02):
        phono3py = phono3py_of(
            crystal, (2, 2, 2), phonon_supercell=None, symmetry=True, symprec=1e-3
        )
        # With one-sided displacements the error is linear in the distance.
        phono3py.generate_displacements(distance=distance, is_plusminus=True)
        cells = phono3py.supercells_with_displacements
        displaced = (Atoms(c.numbers, c.positions, cell=c.cell, pbc=True) for c in cells)
        phono3py.forces = np.array([calculator.get_forces(atoms) for atoms in displaced])
        phono3py.produce_fc3()
        phono3py.symmetrize_fc3()
        errors.append(np.linalg.norm(phono3py.fc3 - exact) / np.linalg.norm(exact))
    ratios = np.array(errors[:-1]) / errors[1:]
    assert errors[-1] < 0.02
    assert np.all((ratios > 3.8) & (ratios < 4.2))


def grueneisen_by_phono3py(constants: mf.ThirdOrderForceConstants, q: np.ndarray) -> np.ndarray:
    """Mode Grüneisen parameters, the mean of three directions, from third-order force constants."""
    phono3py = mf.anharmonic.to_phono3py(constants)
    theirs = Gruneisen(
        phono3py.fc2, phono3py.fc3, phono3py.supercell, phono3py.primitive, symprec=1e-3
    )
    theirs.set_qpoints(q)
    theirs.run()
    return np.einsum("qmii->qm", theirs.gruneisen_parameters) / 3


Q = np.array([[0.5, 0.0, 0.0], [0.31, 0.17, 0.43]])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fcc", "salt"])
def test_grueneisen_parameters_from_them_are_those_of_strained_dynamical_matrices(name):
    # Pairs reach 7 and 8 Å; half of the supercell holds them.
    supercell = (4 * np.array(CUBE)).tolist() if name == "fcc" else (5, 5, 5)
    found = grueneisen_by_phono3py(computed(name, supercell), Q)
    potential = ions() if name == "salt" else xenon()
    expected = mf.gruneisen(potential, relaxed(name), Q).parameters.numpy()
    assert np.allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_grueneisen_parameters_of_silicon_are_those_of_strained_dynamical_matrices(model):
    # 250 atoms, half as wide as the range of the model: 128 leave a difference of 3e-2.
    silicon = mf.relax(model, bulk("Si", "diamond", a=5.43), symmetry=True, fmax=1e-7).atoms
    silicon.calc = None
    found = grueneisen_by_phono3py(mf.third_order_force_constants(model, silicon, (5, 5, 5)), Q)
    expected = mf.gruneisen(model, silicon, Q).parameters.numpy()
    assert np.allclose(found, expected, rtol=0, atol=2e-3)


def test_without_symmetry_the_force_constants_are_the_same(salt):
    without = computed("salt", symmetry=False)
    assert largest(without.values - salt.values) < 1e-9 * largest(salt.values)
    assert largest(without.second_order - salt.second_order) < 1e-9 * largest(salt.second_order)
    assert without.n_pairs == 6 * 48 > salt.n_pairs


def test_a_wide_tolerance_of_the_symmetry_does_not_change_a_symmetric_crystal(salt):
    wide = computed("salt", symprec=0.4)
    assert largest(wide.values - salt.values) < 1e-9 * largest(salt.values)
    assert wide.n_pairs == salt.n_pairs


def test_a_cubic_cell_gives_the_force_constants_of_the_primitive_one(salt):
    cubic = make_supercell(relaxed("salt"), CUBE)
    of_cubic = mf.third_order_force_constants(ions(), cubic, (2, 1, 1))
    twice = (np.array(CUBE) * [2, 1, 1]).tolist()  # columns are lattice vectors
    of_primitive = computed("salt", twice)
    assert of_cubic.values.shape == of_primitive.values.shape == (2, 16, 16, 3, 3, 3)
    order = np.linalg.norm
    assert order(of_cubic.values) == pytest.approx(order(of_primitive.values), rel=1e-9)
    assert order(of_cubic.second_order) == pytest.approx(order(of_primitive.second_order))
    assert of_cubic.error < 1e-9


def test_potentials_that_may_lack_mirror_symmetry_use_no_symmetry(salt):
    lopsided = mf.FunctionPotential(
        ions().energies, cutoff=8.0, params=ions().params, mirror_symmetric=False
    )
    found = mf.third_order_force_constants(lopsided, relaxed("salt"), (2, 2, 2))
    assert not found.symmetry
    assert largest(found.values - salt.values) < 1e-9 * largest(salt.values)


def test_different_masses_of_one_element_break_the_symmetry():
    isotopes = make_supercell(relaxed("fcc"), CUBE)
    isotopes.set_masses([131.0, 131.0, 131.0, 136.0])
    found = mf.third_order_force_constants(xenon(), isotopes, (1, 1, 1))
    assert not found.symmetry
    assert len(found.values) == 4


def test_second_order_is_that_of_a_larger_supercell():
    found = computed("salt", phonon_supercell=(3, 3, 3))
    phono3py = mf.anharmonic.to_phono3py(found)
    assert found.second_order.shape == (2, 54, 3, 3)
    phonons = mf.phonons_of(ions(), relaxed("salt"))
    q = [1 / 3, 0.0, 2 / 3]
    ours = mf.frequencies(phonons.dynamical_matrix(torch.tensor(q)), unit="THz").numpy()
    phono3py.mesh_numbers = [3, 3, 3]
    phono3py.init_phph_interaction()
    phono3py.run_phonon_solver()
    theirs, *_ = phono3py.get_phonon_data()
    points = phono3py.grid.addresses @ phono3py.grid.QDinv.T
    same = np.abs(points - q - np.rint(points - q)).max(1) < 1e-9
    assert np.allclose(theirs[same], ours, rtol=1e-6)


def test_a_cutoff_keeps_close_pairs_and_says_what_it_costs(model):
    silicon = bulk("Si", "diamond", a=5.6)
    by_cutoff = {
        cutoff: mf.third_order_force_constants(model, silicon, (2, 2, 2), cutoff=cutoff)
        for cutoff in (2.0, 3.0, 20.0)
    }
    errors = [constants.error for constants in by_cutoff.values()]
    assert errors[:2] == pytest.approx([0.148, 0.091], abs=1e-3)
    assert errors[2] < 1e-8
    assert by_cutoff[2.0].n_pairs < by_cutoff[3.0].n_pairs < by_cutoff[20.0].n_pairs
    whole = mf.third_order_force_constants(model, silicon, (2, 2, 2)).values
    assert largest(by_cutoff[20.0].values - whole) < 1e-8 * largest(whole)
    for cutoff, error in zip((2.0, 3.0), errors, strict=False):  # along random displacements
        missing = np.linalg.norm(by_cutoff[cutoff].values - whole) / np.linalg.norm(whole)
        assert 0.5 < error / missing < 2
    assert "pairs within 20 Å" in repr(by_cutoff[20.0])


def test_workers_give_the_numbers_of_one_process(salt):
    with ThreadPoolExecutor(2) as executor:
        shared = computed("salt", executor=executor)
    assert np.array_equal(shared.values, salt.values)


def test_interrupted_calculation_continues_from_its_checkpoint(salt, tmp_path, monkeypatch):
    monkeypatch.setattr(pair_derivatives, "PAIRS_OF_A_PART", 5)
    path = tmp_path / "pairs.npz"
    calls = []
    whole = pair_derivatives.PairDerivatives.begun

    def begun(self, device):
        compute = whole(self, device)

        def counted(part):
            if len(calls) == 2:
                raise KeyboardInterrupt
            calls.append(len(part.atoms))
            return compute(part)

        return counted

    monkeypatch.setattr(pair_derivatives.PairDerivatives, "begun", begun)
    with pytest.raises(KeyboardInterrupt):
        computed("salt", checkpoint=path)
    calls = [0, 0, 0]
    continued = computed("salt", checkpoint=path)
    assert sum(calls) == salt.n_pairs - 10
    assert largest(continued.values - salt.values) < 1e-12 * largest(salt.values)
    calls = [0, 0, 0]
    again = computed("salt", checkpoint=path)
    assert calls == [0, 0, 0]
    assert np.array_equal(again.values, continued.values)
    with pytest.raises(ValueError, match="belongs to another calculation: it differs in"):
        computed("salt", (2, 2, 1), checkpoint=path)


def test_structure_that_is_not_relaxed_and_small_supercells_are_warned_of():
    pushed = relaxed("salt")
    pushed.positions[0, 0] += 0.05
    with pytest.warns(UserWarning, match="the structure is not relaxed"):
        mf.third_order_force_constants(ions(), pushed, (1, 1, 1))
    with pytest.warns(UserWarning, match=rf"{TOO_SMALL} of the second order are up to .* THz"):
        computed("salt", (1, 1, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        computed("fcc", (1, 1, 1), phonon_supercell=(4, 4, 4))


def test_symmetry_that_holds_only_approximately_is_warned_of():
    pushed = relaxed("salt")
    pushed.positions[0] += [0.01, 0.004, 0.007]
    with pytest.warns(UserWarning, match="holds only approximately. Relax with this symmetry"):
        mf.third_order_force_constants(ions(), pushed, (2, 2, 2), symprec=0.05)


def test_bad_input_is_refused_with_advice(model, monkeypatch):
    crystal = relaxed("salt")
    compute = mf.third_order_force_constants
    with pytest.raises(TypeError, match=r"third_order_force_constants\(potential, atoms"):
        compute(crystal, ions(), (2, 2, 2))
    with pytest.raises(ValueError, match="a supercell is three integers"):
        compute(ions(), crystal, (2, 2))
    with pytest.raises(ValueError, match="a supercell is three integers"):
        compute(ions(), crystal, (2, 2, 2), phonon_supercell=(2.5, 2, 2))
    with pytest.raises(ValueError, match="periodic in all directions"):
        compute(ions(), Atoms("NaCl", [[0, 0, 0], [0, 0, 2.5]]), (1, 1, 1))
    with pytest.raises(ValueError, match="cutoff"):
        compute(ions(), crystal, (2, 2, 2), cutoff=-1.0)
    with pytest.raises(ValueError, match="a cutoff needs the symmetry"):
        compute(ions(), crystal, (2, 2, 2), cutoff=4.0, symmetry=False)
    fixed = crystal.copy()
    fixed.set_constraint(FixAtoms([0]))
    with pytest.raises(ValueError, match="set_constraint"):
        compute(ions(), fixed, (2, 2, 2))
    monkeypatch.setattr(third_order, "check_fits", _refuse)
    with pytest.raises(MemoryError, match="take a smaller supercell"):
        compute(ions(), crystal, (2, 2, 2))


def _refuse(what, size, device, advice):
    raise MemoryError(advice)


def test_missing_phono3py_is_an_error_that_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "phono3py", None)
    with pytest.raises(ImportError, match=r"pip install 'mace_functional\[anharmonic\]'"):
        computed("salt")


def test_opposite_displacements_are_computed_once():
    phono3py = phono3py_of(
        relaxed("salt"), (2, 2, 2), phonon_supercell=None, symmetry=True, symprec=1e-3
    )
    for of_first in InequivalentPairs(phono3py, None).pairs:
        for atom in np.unique(of_first.second_atoms):
            directions = of_first.second_directions[of_first.second_atoms == atom]
            assert np.allclose(np.linalg.norm(directions, axis=1), 1)
            cosines = np.abs(directions @ directions.T) - np.eye(len(directions))
            assert cosines.max(initial=0.0) < 1 - 1e-6


def test_files_for_phono3py_hold_everything(salt, tmp_path):
    folder = tmp_path / "new" / "salt"
    mf.anharmonic.write_phono3py(folder, salt)
    assert sorted(p.name for p in folder.iterdir()) == [
        "fc2.hdf5",
        "fc3.hdf5",
        "phono3py_params.yaml",
    ]
    back = mf.anharmonic.from_phono3py(folder)
    assert np.array_equal(back.values, salt.values)
    assert np.array_equal(back.second_order, salt.second_order)
    assert np.array_equal(back.supercell, salt.supercell)
    assert np.allclose(back.atoms.positions, salt.atoms.positions)
    assert np.isnan(back.error)
    same = mf.anharmonic.from_phono3py(mf.anharmonic.to_phono3py(salt))
    assert np.array_equal(same.values, salt.values)
    (folder / "fc3.hdf5").unlink()
    with pytest.raises(ValueError, match=r"has no fc3\.hdf5"):
        mf.anharmonic.from_phono3py(folder)
    empty = phono3py_of(
        relaxed("salt"), (2, 2, 2), phonon_supercell=None, symmetry=True, symprec=1e-3
    )
    with pytest.raises(ValueError, match="lacks force constants"):
        mf.anharmonic.from_phono3py(empty)
