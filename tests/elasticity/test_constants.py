"""Elastic constants of structures: closed formulas, solvers, slabs, warnings, refusals."""

from __future__ import annotations

import warnings

import keating
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.constraints import FixAtoms
from ase.units import GPa
from helpers import assert_close, random
from pair_potential import lennard_jones
from torch import Tensor

import mace_functional as mf
from mace_functional.elasticity import ElasticConstants, elastic_tensor, ion_response, to_voigt

POTENTIAL = lennard_jones()


@pytest.fixture(scope="module")
def close_packed() -> Atoms:
    """Two atoms in a hexagonal cell."""
    return mf.relax(POTENTIAL, bulk("Ar", "hcp", a=2.8), fmax=1e-8).atoms


@pytest.fixture(scope="module")
def hexagonal(close_packed) -> ElasticConstants:
    return mf.elastic_constants(POTENTIAL, close_packed)


@pytest.fixture(scope="module")
def glass() -> Atoms:
    """A cell without symmetry."""
    positions = np.random.default_rng(3).uniform(0, 5.7, (8, 3))
    atoms = Atoms("Ar8", positions=positions, cell=[5.6, 5.7, 5.8], pbc=True)
    return mf.relax(POTENTIAL, atoms, fmax=1e-4).atoms


def matrix_of(constants: dict[str, float], *names: str) -> Tensor:
    c11, c12, c44 = (constants[name] / GPa for name in names)
    matrix = torch.diag(torch.tensor([c11 - c12] * 3 + [c44] * 3, dtype=torch.float64))
    matrix[:3, :3] += c12
    return matrix


def test_diamond_has_the_constants_of_keatings_formulas():
    found = mf.elastic_constants(keating.Keating(), keating.diamond())
    expected = keating.constants()
    assert_close(found.stiffness, matrix_of(expected, "C11", "C12", "C44"), 1e-12)
    assert_close(found.clamped_stiffness, matrix_of(expected, "C11", "C12", "clamped C44"), 1e-12)
    assert found.unit == "GPa"
    assert found.warnings == ()


def test_they_are_those_of_the_transform(glass):
    s = mf.from_ase(glass, POTENTIAL)
    energy, args = mf.energy_fn(POTENTIAL, s.topology), (s.positions, s.cell, POTENTIAL.params)
    found = mf.elastic_constants(POTENTIAL, glass)
    for ions in ("relaxed", "clamped"):
        for name in ("birch", "lagrangian", "second-derivative"):
            expected = elastic_tensor(energy, ions=ions, coefficients=name)(*args) / GPa
            assert_close(found.tensor(ions=ions, coefficients=name), expected, 1e-9)
    assert_close(found.response, ion_response(energy)(*args), 1e-8)
    assert_close(found.stress, mf.stress(energy)(*args) / GPa, 1e-9)


def test_atoms_in_pairs_that_are_mirror_centres_obey_cauchy(close_packed):
    """Fcc with a pair potential: C12 = C44 without stress; hcp has C13 = C44 with clamped ions."""
    atoms = mf.relax(POTENTIAL, bulk("Ar", "fcc", a=4.0), fmax=1e-8).atoms
    c = mf.elastic_constants(POTENTIAL, atoms).stiffness
    assert_close(c[0, 1], c[3, 3], 1e-7)
    clamped = mf.elastic_constants(POTENTIAL, close_packed).clamped_stiffness
    assert_close(clamped[0, 2], clamped[3, 3], 1e-7)


def test_hexagonal_symmetry_holds_to_rounding(hexagonal):
    c = hexagonal.stiffness / hexagonal.stiffness.abs().max()
    assert_close(c[0, 0], c[1, 1], 1e-8)
    assert_close(c[0, 2], c[1, 2], 1e-8)
    assert_close(c[5, 5], (c[0, 0] - c[0, 1]) / 2, 1e-8)
    zeros = torch.ones(6, 6) - torch.eye(6)
    zeros[:3, :3] = 0
    assert (c * zeros).abs().max() < 1e-8
    assert c[0, 0] < hexagonal.clamped_stiffness[0, 0] / hexagonal.stiffness.abs().max()


def test_conjugate_gradients_give_the_dense_constants(glass):
    dense = mf.elastic_constants(POTENTIAL, glass, solver="dense")
    cg = mf.elastic_constants(POTENTIAL, glass, solver="cg")
    assert (dense.solver, cg.solver) == ("dense", "cg")
    assert_close(cg.stiffness, dense.stiffness, 1e-9)
    assert_close(cg.response, dense.response, 1e-5)
    assert cg.residual < 1e-6
    assert cg.smallest_curvature == pytest.approx(dense.smallest_curvature, rel=0.1)


def test_a_repeated_cell_has_the_constants_of_the_primitive_cell(close_packed, hexagonal):
    large = close_packed.repeat((3, 3, 2))
    found = mf.elastic_constants(POTENTIAL, large, solver="cg")
    assert_close(found.stiffness, hexagonal.stiffness, 1e-9)
    assert found.debye_temperature == pytest.approx(hexagonal.debye_temperature, rel=1e-9)


@pytest.mark.slow
def test_repeated_quartz_has_the_constants_of_quartz(model):
    atoms = mf.relax(model, mf.example_structure("quartz"), fmax=1e-6).atoms
    found = mf.elastic_constants(model, atoms.repeat((3, 2, 2)), solver="cg")
    expected = mf.elastic_constants(model, atoms)
    assert_close(found.stiffness, expected.stiffness, 1e-8)
    assert found.n_products < 3 * len(found.atoms)


def test_one_atom_and_a_solver_without_a_matrix():
    atoms = mf.relax(POTENTIAL, bulk("Ar", "fcc", a=4.0), fmax=1e-8).atoms
    found = mf.elastic_constants(POTENTIAL, atoms, solver="cg")
    assert found.smallest_curvature is None
    assert_close(found.stiffness, found.clamped_stiffness, 0)


# ---- What follows from the tensors


def test_compliance_is_the_inverse_matrix(hexagonal):
    assert_close(hexagonal.compliance, torch.linalg.inv(hexagonal.stiffness), 1e-12)


def test_stability_does_not_depend_on_the_axes(close_packed, hexagonal):
    turned = close_packed.copy()
    turned.rotate(40, (1, 2, 3), rotate_cell=True)
    found = mf.elastic_constants(POTENTIAL, turned)
    assert_close(found.stability[0], hexagonal.stability[0], 1e-7)
    assert_close(found.hill.shear, hexagonal.hill.shear, 1e-7)
    assert found.anisotropy == pytest.approx(hexagonal.anisotropy, rel=1e-6)
    value, strain = found.stability[0][0], found.softest_strain
    assert_close(torch.einsum("ij,ijkl,kl", strain, found.tensor(), strain), value, 1e-12)
    assert_close(strain.norm(), torch.tensor(1.0, dtype=torch.float64), 1e-12)


def test_results_print_in_one_line(hexagonal):
    text = repr(hexagonal)
    assert text.startswith("ElasticConstants(Ar2, a crystal; bulk modulus ")
    assert "GPa (Hill)" in text
    assert "residual" in text
    assert "<td>" in hexagonal._repr_html_()


# ---- Pressure


def test_under_pressure_birch_coefficients_are_slopes_of_the_stress():
    """At 5 GPa, with ions relaxed again after every strain."""
    atoms = mf.relax(POTENTIAL, bulk("Ar", "hcp", a=2.8), fmax=1e-8, pressure=5.0).atoms
    found = mf.elastic_constants(POTENTIAL, atoms, pressure=5.0)
    assert found.warnings == ()
    birch, second = found.tensor(), found.tensor(coefficients="second-derivative")
    assert (birch - second).abs().max() > 2.0
    strain = random(3, 3)
    strain = 1e-3 * (strain + strain.T)

    def stress(h: float) -> Tensor:
        moved = atoms.copy()
        moved.set_cell(moved.cell.array @ (np.eye(3) + h * strain.numpy()), scale_atoms=True)
        moved = mf.relax(POTENTIAL, moved, fmax=1e-8, relax_cell=False).atoms
        s = mf.from_ase(moved, POTENTIAL)
        energy = mf.energy_fn(POTENTIAL, s.topology)
        return mf.stress(energy)(s.positions, s.cell, POTENTIAL.params) / GPa

    slope = (8 * (stress(1) - stress(-1)) - (stress(2) - stress(-2))) / 12
    assert_close(torch.einsum("ijkl,kl->ij", birch, strain), slope, 1e-6)


def test_a_stress_that_was_not_named_is_a_warning():
    atoms = mf.relax(POTENTIAL, bulk("Ar", "hcp", a=2.8), fmax=1e-6, pressure=5.0).atoms
    with pytest.warns(UserWarning, match=r"the cell carries a stress of 5 GPa: the constants are"):
        found = mf.elastic_constants(POTENTIAL, atoms)
    assert len(found.warnings) == 1
    assert "1 warnings" in repr(found)


# ---- Slabs and rods


def sheet(vacuum: float = 8.0) -> Atoms:
    """A triangular lattice of atoms that relax in their plane and out of it."""
    atoms = Atoms(
        "Ar2", [[0, 0, 0], [1.5, 1.2, 1.9]], cell=[[3.1, 0, 0], [0.2, 3.0, 0], [0, 0, vacuum]]
    )
    atoms.pbc = [True, True, False]
    return mf.relax(POTENTIAL, atoms, fmax=1e-8).atoms


def test_constants_of_a_slab_are_per_area():
    atoms = sheet()
    found = mf.elastic_constants(POTENTIAL, atoms)
    assert found.unit == "N/m"
    assert_close(found.axes, torch.eye(3).double()[:2], 0)
    s = mf.from_ase(atoms, POTENTIAL)
    energy = mf.energy_fn(POTENTIAL, s.topology)
    of_volume = elastic_tensor(energy)(s.positions, s.cell, POTENTIAL.params)
    plane = [0, 1, 5]
    in_plane = to_voigt(of_volume)[plane][:, plane] * s.cell[2, 2]
    assert_close(found.stiffness, in_plane * 16.02176634, 1e-8)
    turned = atoms.copy()
    turned.cell[2] = [0, 0, 0]
    turned.rotate(30, (1, 2, 3), rotate_cell=True)
    other = mf.elastic_constants(POTENTIAL, turned)
    assert_close(other.stability[0], found.stability[0], 1e-7)
    assert_close(other.hill.bulk, found.hill.bulk, 1e-7)
    along = turned.cell.array[1]
    assert_close(other.young_modulus(along), found.young_modulus(atoms.cell.array[1]), 1e-7)
    assert_close(other.sound_velocities(along), found.sound_velocities(atoms.cell.array[1]), 1e-7)
    assert found.sound_velocities([1, 0, 0]).shape == (2,)


def test_a_slab_has_no_directions_out_of_its_plane_and_no_debye_temperature():
    found = mf.elastic_constants(POTENTIAL, sheet())
    with pytest.raises(ValueError, match="leaves the periodic directions"):
        found.young_modulus([0, 0, 1])
    with pytest.raises(ValueError, match="for crystals"):
        _ = found.debye_temperature


def test_a_rod_has_one_constant():
    """Atoms in a row: C is the distance times the second derivative of the energy, per length."""
    atoms = Atoms("Ar", cell=[2.8, 9, 9], pbc=[True, False, False])
    atoms = mf.relax(POTENTIAL, atoms, fmax=1e-8).atoms
    found = mf.elastic_constants(POTENTIAL, atoms)
    assert found.unit == "nN"
    length = atoms.cell.lengths()[0]

    def energy(strain: float) -> float:
        s = mf.from_ase(atoms, POTENTIAL)
        cell = s.cell * torch.tensor([1 + strain, 1, 1], dtype=torch.float64)[:, None]
        return float(mf.energy_fn(POTENTIAL, s.topology)(s.positions, cell, POTENTIAL.params))

    h = 1e-3
    curvature = (
        16 * (energy(h) + energy(-h)) - (energy(2 * h) + energy(-2 * h)) - 30 * energy(0)
    ) / (12 * h * h)
    assert float(found.stiffness) == pytest.approx(curvature / length * 1.602176634, rel=1e-6)
    assert_close(found.young_modulus([2, 0, 0]), found.stiffness[0, 0], 1e-12)
    with pytest.raises(ValueError, match="a rod has no moduli of a polycrystal"):
        _ = found.hill
    double = atoms.repeat((2, 1, 1))
    assert_close(mf.elastic_constants(POTENTIAL, double).stiffness, found.stiffness, 1e-9)


# ---- Doubtful structures


def simple_cubic(repeats: int) -> Atoms:
    """A crystal that is not stable under shear, and whose planes slide."""
    atoms = mf.relax(POTENTIAL, bulk("Ar", "sc", a=2.9), fmax=1e-8, symmetry=True).atoms
    return atoms.repeat(repeats)


def test_an_unstable_crystal_has_a_warning_and_no_moduli():
    with pytest.warns(UserWarning, match="the structure is not stable: the strain"):
        found = mf.elastic_constants(POTENTIAL, simple_cubic(1))
    assert not found.is_stable
    assert "not stable" in repr(found)
    for name in ("voigt", "reuss", "hill", "anisotropy", "compliance", "debye_temperature"):
        with pytest.raises(ValueError, match="the structure is not stable"):
            getattr(found, name)
    assert (found.sound_velocities([1, 1, 0]) < 0).any() or (found.stability[0] < 0).any()


@pytest.mark.parametrize("solver", ["dense", "cg"])
def test_a_saddle_point_is_refused(solver):
    """Its sliding planes have another symmetry than every strain."""
    with pytest.raises(ValueError, match=r"saddle point: the Hessian has a curvature of -"):
        mf.elastic_constants(POTENTIAL, simple_cubic(2), solver=solver)


def test_ions_that_are_not_relaxed_are_a_warning(close_packed):
    atoms = close_packed.copy()
    atoms.positions[1] += [0.01, 0, 0]
    with pytest.warns(UserWarning, match="the ions are not relaxed: the largest force is"):
        mf.elastic_constants(POTENTIAL, atoms)


@pytest.mark.parametrize("solver", ["dense", "cg"])
def test_parts_that_do_not_interact_are_left_where_they_are(close_packed, hexagonal, solver):
    """Two sheets beyond the cutoff: in-plane constants of both; the crystal has no stiffness."""
    flat = sheet(40.0)
    flat.pbc = True
    double = flat.repeat((1, 1, 2))
    with pytest.warns(UserWarning, match="parts that do not interact"):
        found = mf.elastic_constants(POTENTIAL, double, solver=solver)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        single = mf.elastic_constants(POTENTIAL, flat)
    assert_close(found.stiffness, single.stiffness, 1e-7)
    assert found.stiffness[2, 2].abs() < 1e-8


def test_bad_arguments_are_refused(close_packed):
    def refused(message: str, atoms: Atoms = close_packed, **options: object) -> None:
        with pytest.raises(ValueError, match=message):
            mf.elastic_constants(POTENTIAL, atoms, **options)

    refused("H2O is a molecule, periodic in no direction", molecule("H2O"))
    refused("solver must be 'auto', 'dense' or 'cg'", solver="lu")
    refused("tolerance must be a finite number above zero", tolerance=0)
    refused("pressure must be a number from", pressure=np.inf)
    refused("a pressure is for crystals", sheet(), pressure=1.0)
    held = close_packed.copy()
    held.set_constraint(FixAtoms([0]))
    refused("elastic_constants", held)
    with pytest.raises(TypeError, match="swapped"):
        mf.elastic_constants(close_packed, POTENTIAL)


def test_bad_directions_are_refused(hexagonal):
    for bad, message in (
        ([1, 2], "three numbers"), ([0, 0, 0], "is zero"), ([1, np.nan, 0], "three numbers"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            hexagonal.young_modulus(bad)
    with pytest.raises(ValueError, match="ions must be"):
        hexagonal.tensor(ions="free")
    with pytest.raises(ValueError, match="coefficients must be one of"):
        hexagonal.tensor(coefficients="wallace")
