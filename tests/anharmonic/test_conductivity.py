"""Thermal conductivity: against phono3py's own runs, symmetry, and what each option does."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import sys
import warnings

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.constraints import FixAtoms
from pair_crystals import ions, relaxed, xenon

import mace_functional as mf
from mace_functional.anharmonic import conductivity, conductivity_of, linewidths_along
from mace_functional.anharmonic.supercell_choice import thick_supercell

phono3py = pytest.importorskip("phono3py")

pytestmark = pytest.mark.filterwarnings(
    "ignore:frequencies from the supercell", "ignore:.*Point group symmetries of supercell"
)

MESH, TEMPERATURES = (5, 5, 5), [100.0, 300.0]
CUBE = [[-1, 1, 1], [1, -1, 1], [1, 1, -1]]
"""Matrix of the cubic cell of a face-centred lattice."""

ALL = {"method": "direct", "wigner": True, "isotopes": True, "boundary": 0.5}
ALL_OF_PHONO3PY = {
    "is_LBTE": True,
    "is_isotope": True,
    "boundary_mfp": 0.5,
    "transport_type": "SMM19",
}


@pytest.fixture(scope="module")
def salt():
    return mf.third_order_force_constants(ions(), relaxed("salt"), (2, 2, 2))


@pytest.fixture(scope="module")
def plain(salt):
    return conductivity_of(salt, TEMPERATURES, mesh=MESH)


@pytest.fixture(scope="module")
def everything(salt):
    return conductivity_of(salt, TEMPERATURES, mesh=MESH, **ALL)


def largest(array):
    return float(np.abs(array).max())


def voigt(tensors):
    return np.stack(
        [tensors[..., i, j] for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))], -1
    )


def run(theirs, **options):
    """Run phono3py with the options that make it independent of rounding."""
    theirs.mesh_numbers = MESH
    theirs.init_phph_interaction(
        average_degenerate_weights=True, symmetrize_tetrahedra=True, exclude_gamma_acoustic=True
    )
    theirs.run_thermal_conductivity(temperatures=TEMPERATURES, **options)
    return theirs.thermal_conductivity


def test_tensors_are_those_of_phono3py_from_the_written_files(salt, plain, tmp_path):
    mf.anharmonic.write_phono3py(tmp_path, salt)
    loaded = phono3py.load(
        tmp_path / "phono3py_params.yaml",
        fc2_filename=tmp_path / "fc2.hdf5",
        fc3_filename=tmp_path / "fc3.hdf5",
    )
    assert np.allclose(voigt(plain.kappa), run(loaded).kappa[0], rtol=1e-6, atol=1e-9)


def test_all_parts_are_those_of_phono3py(salt, everything):
    theirs = run(mf.anharmonic.to_phono3py(salt), **ALL_OF_PHONO3PY)
    for ours, name in (
        ("populations", "kappa_intra_exact"),
        ("relaxation_time", "kappa_intra_RTA"),
        ("coherences", "kappa_inter"),
    ):
        found = voigt(getattr(everything, ours))
        assert np.allclose(found, getattr(theirs, name)[0], rtol=1e-9, atol=1e-9)


def test_tensor_of_a_cubic_crystal_is_a_number_and_falls_with_temperature(plain):
    for tensor in plain.kappa:
        assert np.allclose(tensor, tensor[0, 0] * np.eye(3), rtol=1e-6, atol=1e-9)
    assert plain.kappa[0, 0, 0] > 2 * plain.kappa[1, 0, 0] > 0
    assert plain.n_imaginary == 0
    assert not plain.coherences.any()
    assert "10.76 W/(m K) at 300 K; mesh 5 x 5 x 5, 10 inequivalent" in repr(plain)


def test_conductivity_is_heat_capacity_times_velocity_squared_times_lifetime(everything):
    r = everything
    square = (r.velocities**2).sum(-1)  # (km/s)²
    sums = np.einsum("q,tqm,qm,tqm->t", r.weights, r.heat_capacities, square, r.lifetimes)
    electronvolt, angstrom, ps, km = 1.602176634e-19, 1e-10, 1e-12, 1e3
    factor = electronvolt * km**2 * ps / angstrom**3
    kappa = factor * sums / (3 * np.prod(MESH) * r.volume)
    assert np.allclose(kappa, np.einsum("taa->t", r.relaxation_time) / 3, rtol=1e-3)


@pytest.mark.parametrize("kind", ["frequency", "mean_free_path"])
def test_cumulative_sums_end_at_the_populations_and_never_fall(plain, everything, kind):
    for result in plain, everything:
        values, sums = getattr(result, f"cumulative_by_{kind}")(300.0)
        assert values.shape == (60,)
        assert sums.shape == (60, 3, 3)
        assert np.all(np.diff(values) >= 0)
        assert np.allclose(sums[-1], result.populations[1])
    traces = np.einsum("kaa->k", sums)
    assert np.all(np.diff(traces) > -1e-3 * traces[-1])
    with pytest.raises(ValueError, match="no conductivity at 200 K, only at 100, 300 K"):
        plain.cumulative_by_frequency(200.0)


@pytest.mark.parametrize("cell", ["primitive", "cubic"])
def test_linewidths_along_bands_are_those_of_phono3py_at_points_of_the_mesh(salt, cell):
    constants = salt
    if cell == "cubic":
        cubic = make_supercell(relaxed("salt"), CUBE)
        constants = mf.third_order_force_constants(ions(), cubic, (2, 1, 1))
    result = conductivity_of(constants, TEMPERATURES, mesh=(4, 4, 4))
    phonons = mf.phonons_of(ions(), constants.atoms)
    corners = [("Γ", (0, 0, 0)), ("X", (0.5, 0, 0.5)), ("L", (0.5, 0.5, 0.5))]
    to_cell = np.linalg.inv(constants.atoms.cell.reciprocal().array @ result.cell.T)
    path = [(name, tuple(np.array(q) @ to_cell)) for name, q in corners]
    bands = mf.band_structure(phonons, path, points=7, unit="THz")
    found = linewidths_along(result, bands)
    # Γ to X has 0, 1/4, 1/2 along two axes; X to L has 0, 1/4, 1/2 along the other.
    expected = np.array([[0, 0, 0], [1, 0, 1], [2, 0, 2], [2, 1, 2], [2, 2, 2]]) / 4
    assert np.allclose(found.q, expected)
    assert found.distance[-1] == pytest.approx(float(bands.distance[-1]))
    assert np.all(np.diff(found.distance) > 0)
    theirs = mf.anharmonic.to_phono3py(constants)
    theirs.mesh_numbers = (4, 4, 4)
    theirs.init_phph_interaction(**conductivity.SYMMETRIC)
    theirs.run_thermal_conductivity(temperatures=TEMPERATURES, is_kappa_star=False)
    every = theirs.thermal_conductivity
    for i, q in enumerate(expected):
        difference = every.qpoints - q
        (k,) = np.flatnonzero(abs(difference - np.rint(difference)).max(1) < 1e-9)
        assert np.allclose(found.frequencies[i], every.frequencies[k], atol=1e-5)
        if cell == "primitive":  # the other one's supercell is not cubic
            assert np.allclose(found.linewidths[:, i], 2 * every.gamma[0][:, k], atol=1e-9)
    assert "5 wave vectors" in repr(found)
    with pytest.raises(ValueError, match="the path has no corners"):
        linewidths_along(result, mf.band_structure(phonons, np.zeros((2, 3))))


def test_isotopes_and_boundaries_lower_the_conductivity(salt, plain):
    kappa = plain.kappa[:, 0, 0]
    isotopes = conductivity_of(salt, TEMPERATURES, mesh=MESH, isotopes=True)
    assert np.all(isotopes.kappa[:, 0, 0] < 0.99 * kappa)
    wide, narrow = (
        conductivity_of(salt, TEMPERATURES, mesh=MESH, boundary=boundary).kappa[:, 0, 0]
        for boundary in (1.0, 0.01)
    )
    assert np.all(narrow < 0.5 * kappa)
    assert np.all((wide < kappa) & (wide > narrow))
    assert np.all(isotopes.total_linewidths >= plain.total_linewidths)
    assert plain.isotope_linewidths is None


def test_mean_free_paths_are_shorter_than_the_distance_of_the_boundaries(salt):
    result = conductivity_of(salt, 300.0, mesh=MESH, boundary=0.01)
    assert result.mean_free_paths.max() < 10.0


def test_direct_solution_is_larger_and_coherences_add_to_it(salt, plain, everything):
    direct = conductivity_of(salt, TEMPERATURES, mesh=MESH, method="direct")
    assert np.all(direct.kappa[:, 0, 0] > 1.01 * plain.kappa[:, 0, 0])
    assert np.allclose(direct.relaxation_time, plain.kappa)
    wigner = conductivity_of(salt, TEMPERATURES, mesh=MESH, wigner=True)
    assert np.all(wigner.coherences[:, 0, 0] > 0)
    assert np.allclose(wigner.populations, plain.kappa)
    for result in wigner, everything:
        assert np.allclose(result.kappa, result.populations + result.coherences)


def test_cells_and_symmetry_do_not_change_the_conductivity(plain):
    cubic = make_supercell(relaxed("salt"), CUBE)
    of_cubic = mf.third_order_force_constants(ions(), cubic, (2, 1, 1))
    twice = (np.array(CUBE) * [2, 1, 1]).tolist()  # columns are lattice vectors
    of_primitive = mf.third_order_force_constants(ions(), relaxed("salt"), twice)
    same = [conductivity_of(c, 300.0, mesh=MESH) for c in (of_cubic, of_primitive)]
    assert np.allclose(same[0].kappa, same[1].kappa, rtol=1e-6, atol=1e-6)
    without = mf.third_order_force_constants(ions(), relaxed("salt"), (2, 2, 2), symmetry=False)
    kappa = conductivity_of(without, TEMPERATURES, mesh=MESH).kappa
    # Without symmetry, phono3py cuts tetrahedra along one diagonal.
    assert np.allclose(kappa, plain.kappa, rtol=0.02, atol=0.02 * plain.kappa.max())


def test_imaginary_modes_are_counted_and_warned_of_once():
    stretched = relaxed("fcc")
    stretched.set_cell(1.15 * stretched.cell, scale_atoms=True)
    with pytest.warns(UserWarning, match="imaginary modes on the mesh .* down to -") as found:
        result = mf.thermal_conductivity(
            xenon(),
            stretched,
            300.0,
            supercell=(3, 3, 3),
            phonon_supercell=(3, 3, 3),
            mesh=(3, 3, 3),
            relaxed=True,
        )
    assert sum("imaginary" in str(w.message) for w in found) == 1
    assert result.n_imaginary > 0
    assert "imaginary" in repr(result)
    with pytest.warns(UserWarning, match=f"{result.n_imaginary} imaginary modes on the mesh 3 x"):
        conductivity_of(result.constants, 300.0, mesh=(3, 3, 3))


def test_thermal_conductivity_relaxes_chooses_supercells_and_computes(salt, monkeypatch):
    module = importlib.import_module("mace_functional.anharmonic.thermal_conductivity")
    monkeypatch.setattr(module, "PHONON_THICKNESS", 10.0)
    pressed = relaxed("salt")
    pressed.set_cell(0.98 * pressed.cell, scale_atoms=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "(?!frequencies from)")
        found = mf.thermal_conductivity(
            ions(),
            pressed,
            300.0,
            supercell=(2, 2, 2),
            fmax=1e-9,
            mesh=MESH,
        )
    constants = found.constants
    assert np.allclose(constants.atoms.cell, relaxed("salt").cell, atol=1e-6)
    assert constants.phonon_supercell.tolist() == (2 * np.array(CUBE)).tolist()
    assert len(constants.values) == 2
    assert largest(constants.values - salt.values) < 1e-6 * largest(salt.values)
    assert np.allclose(conductivity_of(constants, 300.0, mesh=MESH).kappa, found.kappa)


def test_phonons_of_another_crystal_are_refused():
    phonons = mf.phonons_of(ions(), bulk("NaCl", "rocksalt", a=5.9))
    with pytest.raises(ValueError, match="phonons are those of another crystal"):
        mf.third_order_force_constants(ions(), relaxed("salt"), (1, 1, 1), phonons=phonons)


@pytest.mark.parametrize(
    ("crystal", "thickness", "n_atoms"),
    [
        (bulk("Si", "diamond", a=5.43), 10.0, 64),
        (bulk("Si", "diamond", a=5.43, cubic=True), 10.0, 64),
        (bulk("Cu", "fcc", a=3.6), 10.0, 108),
        (bulk("Fe", "bcc", a=2.87), 10.0, 128),
        (bulk("Mg", "hcp", a=3.2, c=5.2), 10.0, 2 * 4 * 4 * 2),
        (bulk("Si", "diamond", a=5.43), 100.0, 64),
        (Atoms("H250", cell=[9.0, 9.0, 9.0], pbc=True), 10.0, 250),
    ],
)
def test_chosen_supercells_are_thick_and_multiples_of_the_conventional_cell(
    crystal, thickness, n_atoms
):
    matrix = thick_supercell(crystal, thickness, 200)
    assert round(len(crystal) * np.linalg.det(matrix)) == n_atoms
    cell = matrix.T @ crystal.cell.array
    heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    if thickness == 10.0 and n_atoms < 200:
        assert heights.min() >= thickness
    angles = [
        abs(cell[i] @ cell[j]) / np.linalg.norm(cell[i]) / np.linalg.norm(cell[j])
        for i, j in itertools.combinations(range(3), 2)
    ]
    assert max(angles) < 0.5 + 1e-9


@pytest.mark.parametrize("result", ["plain", "everything"])
def test_written_file_is_that_of_phono3py(salt, result, request, tmp_path, monkeypatch):
    mf.anharmonic.write_kappa(tmp_path / "ours.hdf5", request.getfixturevalue(result))
    monkeypatch.chdir(tmp_path)
    options = {} if result == "plain" else ALL_OF_PHONO3PY
    run(mf.anharmonic.to_phono3py(salt), write_kappa=True, **options)
    with h5py.File("ours.hdf5") as found, h5py.File("kappa-m555.hdf5") as theirs:
        names = set(found) & set(theirs)
        assert names >= {"temperature", "kappa", "gamma", "qpoint", "weight", "heat_capacity"}
        assert set(found) - set(theirs) <= {"mode_kappa", "kappa_intra"}
        if result == "everything":
            names.remove("kappa")  # theirs lacks the coherences
            assert np.allclose(found["kappa_intra"][()], theirs["kappa_intra_exact"][()])
        for name in names:
            assert np.allclose(found[name][()], theirs[name][()], rtol=1e-6, atol=1e-12), name


def test_bad_input_is_refused_with_advice(salt, monkeypatch):
    with pytest.raises(TypeError, match="takes a ThirdOrderForceConstants, not"):
        conductivity_of(relaxed("salt"), 300.0)
    for options, message in (
        ({"temperatures": 0.0}, "temperatures must be above zero"),
        ({"temperatures": []}, "there must be at least one"),
        ({"mesh": (3, 3)}, "three positive integers"),
        ({"mesh": -1.0}, "the spacing of a mesh must be"),
        ({"mesh": (3, 4, 5)}, "3 x 4 x 5 wave vectors breaks the symmetry"),
        ({"method": "guess"}, "method must be 'relaxation-time' or 'direct'"),
        ({"boundary": 0.0}, "boundary must be"),
    ):
        with pytest.raises(ValueError, match=message):
            conductivity_of(salt, **{"temperatures": 300.0, **options})
    zero = dataclasses.replace(salt, values=0 * salt.values)
    with pytest.raises(ValueError, match="third-order force constants are zero"):
        conductivity_of(zero, 300.0)
    monkeypatch.setattr(conductivity, "check_fits", _refuse)
    with pytest.raises(MemoryError, match="or the method 'relaxation-time'"):
        conductivity_of(salt, 300.0, mesh=MESH, method="direct")


def test_bad_crystals_are_refused_before_the_work():
    compute = mf.thermal_conductivity
    with pytest.raises(TypeError, match=r"thermal_conductivity\(potential, atoms"):
        compute(relaxed("salt"), ions(), 300.0)
    with pytest.raises(ValueError, match="periodic in all directions"):
        compute(ions(), Atoms("NaCl", [[0, 0, 0], [0, 0, 2.5]]), 300.0)
    with pytest.raises(ValueError, match="a supercell is three integers"):
        compute(ions(), relaxed("salt"), 300.0, supercell=(2, 2))
    fixed = relaxed("salt")
    fixed.set_constraint(FixAtoms([0]))
    with pytest.raises(ValueError, match="set_constraint"):
        compute(ions(), fixed, 300.0)


def test_missing_phono3py_is_an_error_that_says_how_to_install_it(salt, monkeypatch):
    monkeypatch.setitem(sys.modules, "phono3py", None)
    for compute in (
        lambda: conductivity_of(salt, 300.0),
        lambda: mf.thermal_conductivity(ions(), relaxed("salt"), 300.0),
    ):
        with pytest.raises(ImportError, match=r"pip install 'mace_functional\[anharmonic\]'"):
            compute()


def _refuse(what, size, device, advice):
    raise MemoryError(advice)
