"""Force constants in real space, against replicas, supercells and what symmetry asks for."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.spacegroup import crystal
from conftest import shared_file
from crystals import GENERAL, Case, carbide, central, chain, lone, parts, slab
from engine_settings import MODELS, with_features
from helpers import mostly_slow
from models import build
from scipy.spatial.transform import Rotation
from torch.func import jvp, vmap

import mace_functional as mf
from mace_functional.derivatives.local_columns import Column, LocalColumns
from mace_functional.phonons import phonons_of
from mace_functional.phonons.force_constants import ForceConstants, force_constants
from mace_functional.structure.symmetry import Operations

WAVES = torch.tensor(
    [[0.13, -0.29, 0.41], [0.5, 0, 0], [0, 0, 0], [1 / 3, 1 / 3, 0.5]], dtype=torch.float64
)


def model_of(dtype: torch.dtype = torch.float64, **settings: Any) -> mf.MaceModel:
    """Of short range, and so stiff that what comes from afar is more than rounding."""
    module = build(**{"r_max": 3.0, "atomic_inter_scale": 80.0} | settings)
    return mf.load_model(module, dtype=dtype, head=module.heads[-1])


@pytest.fixture(scope="module")
def model() -> mf.MaceModel:
    return model_of()


@pytest.fixture(scope="module")
def silicon() -> ForceConstants:
    return force_constants(mf.load_model("embedded"), bulk("Si"))


@pytest.fixture(scope="module")
def rattled(model) -> ForceConstants:
    return force_constants(model, carbide())


def mixed() -> Atoms:
    """Five atoms without symmetry, of three elements that do not come in order."""
    atoms = Atoms(
        "OSiOCC",
        scaled_positions=[
            [0, 0, 0],
            [0.5, 0.5, 0.1],
            [0.1, 0.5, 0.5],
            [0.6, 0, 0.5],
            [0.8, 0.7, 0.7],
        ],
        cell=[[3.4, 0.2, 0], [0.5, 3.3, 0.1], [-0.3, 0.4, 4.6]],
        pbc=True,
    )
    atoms.rattle(0.05, seed=2)
    return atoms


def quartz() -> Atoms:
    """Of one hand, with the symmetry of its space group to the last digit."""
    basis = [(0.4697, 0, 2 / 3), (0.4133, 0.2672, 0.7855)]
    cell = [4.91, 4.91, 5.405, 90, 90, 120]
    atoms = crystal(["Si", "O"], basis=basis, spacegroup=154, cellpar=cell)
    return Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)


def assert_same_as_replicas(constants: ForceConstants, case: Case) -> None:
    waves = WAVES * torch.as_tensor(case.atoms.pbc)
    assert case(waves[0]).abs().max() > 1e-2
    for q in waves:
        found = constants.dynamical_matrix(q)
        torch.testing.assert_close(found, case(q), rtol=0, atol=1e-10)


SETTINGS = {
    name: MODELS[name]
    for name in (
        "residual",
        "L=0",
        "one layer",
        "agnostic then residual",
        "density then density residual",
        "non-linear, L=0",
        "oxidation states, total spin",
        "as MACE-MPA-0",
        "as MACE-OMOL",
    )
}


@pytest.mark.parametrize("name", mostly_slow(SETTINGS, {"one layer"}))
def test_dynamical_matrix_is_that_of_replicas_for_settings_of_the_engine(name):
    model, atoms = model_of(**SETTINGS[name]), with_features(carbide())
    assert_same_as_replicas(force_constants(model, atoms), Case(model, atoms))


def test_dynamical_matrix_is_that_of_replicas_with_attention():
    """Attention reads features of the senders; in a chain, because it takes its time."""
    model = model_of(**MODELS["attention"])
    assert_same_as_replicas(force_constants(model, chain()), Case(model, chain()))


@pytest.mark.slow
def test_dynamical_matrix_is_that_of_replicas_with_three_layers():
    model = model_of(num_interactions=3, r_max=2.6)
    assert_same_as_replicas(force_constants(model, carbide()), Case(model, carbide()))


@pytest.mark.parametrize("make", mostly_slow([lone, mixed, slab, chain], [mixed, slab, chain]))
def test_dynamical_matrix_is_that_of_replicas_for_every_periodicity(model, make):
    assert_same_as_replicas(force_constants(model, make()), Case(model, make()))


@pytest.mark.parametrize(
    "structure", ["rattled silicon", pytest.param("quartz", marks=pytest.mark.slow)]
)
def test_dynamical_matrix_is_that_of_replicas_for_the_embedded_model(structure):
    model = mf.load_model("embedded")
    atoms = quartz()
    if structure == "rattled silicon":
        atoms = bulk("Si")
        atoms.rattle(0.02, seed=1)
    assert_same_as_replicas(force_constants(model, atoms), Case(model, atoms))


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["MACE-MP-0_small", "MACE-DAC-1"])
def test_dynamical_matrix_is_that_of_replicas_for_foundation_models(weights):
    model = mf.load_model(str(shared_file("weights", f"{weights}.model")))
    atoms = bulk("NaCl", "rocksalt", a=5.64)
    atoms.rattle(0.02, seed=1)
    constants = force_constants(model, atoms)
    assert_same_as_replicas(constants, Case(model, atoms))
    assert 20 < constants.range < 4 * model.cutoff


def test_values_are_those_of_a_supercell_that_holds_their_range():
    """Between two atoms of a supercell larger than twice the range there is one image only."""
    model = model_of(num_interactions=1)
    atoms = chain()
    constants = force_constants(model, atoms)
    large = make_supercell(atoms, np.diag([7, 1, 1]), order="cell-major")
    s = mf.from_ase(large, model)
    hessian = mf.hessian(mf.energy_fn(model, s.graph))(s.positions, s.cell, model.params)
    assert constants.range < 3.5 * atoms.cell.lengths()[0]
    rows = hessian.view(7, 2, 3, 7, 2, 3)[0]
    left = rows.clone()
    for cell, block in zip(constants.cells[:, 0], constants.values, strict=True):
        torch.testing.assert_close(block, rows[:, :, cell % 7], rtol=0, atol=1e-12)
        left[:, :, cell % 7] = 0
    assert left.abs().max() < 1e-12


def test_exchange_of_the_two_atoms(rattled):
    by_cell = {tuple(c): v for c, v in zip(rattled.cells.tolist(), rattled.values, strict=True)}
    assert len(by_cell) > 50
    for cell, block in by_cell.items():
        opposite = by_cell[tuple(-c for c in cell)]
        torch.testing.assert_close(block, opposite.permute(2, 3, 0, 1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", [carbide, slab, chain])
def test_translations_cost_nothing(model, make):
    constants = force_constants(model, make())
    total = constants.values.sum((0, 3))
    assert constants.acoustic_sum_residual == total.abs().max()
    assert constants.acoustic_sum_residual < 1e-12 * constants.values.abs().max()


@pytest.mark.parametrize(("layers", "least"), [(1, 4.5), (2, 8.0)])
def test_range_is_that_of_message_passing(layers, least):
    constants = force_constants(model_of(num_interactions=layers), carbide())
    assert least < constants.range < 2 * layers * 3.0
    ends = constants.cells.double() @ constants.cell + constants.positions[1]
    separations = (ends - constants.positions[0]).norm(dim=1)
    torch.testing.assert_close(constants.distances[:, 0, 1], separations)
    assert (constants.values[separations > constants.range, 0, :, 1] == 0).all()
    largest = constants.values.abs().flatten(1).amax(1)
    assert largest.min() > 1e-16 * largest.max()


def test_atoms_out_of_reach_of_each_other(model):
    atoms = Atoms("CO", [[0, 0, 0], [6, 6, 6]], cell=[12, 12, 12], pbc=True)
    constants = force_constants(model, atoms)
    assert constants.cells.tolist() == [[0, 0, 0]]
    assert constants.range == 0
    assert not constants.dynamical_matrix(GENERAL).any()


def graphene() -> Atoms:
    cell = [[2.46, 0, 0], [1.23, 1.23 * np.sqrt(3), 0], [0, 0, 0]]
    return Atoms("C2", [[0, 0, 7], [0, 0.82 * np.sqrt(3), 7]], cell=cell, pbc=[True, True, False])


def zigzag() -> Atoms:
    return Atoms("C2", [[0, 5, 5], [1.2, 5.6, 5]], cell=[2.4, 0, 0], pbc=[True, False, False])


def turned(atoms: Atoms) -> Atoms:
    """In a general orientation."""
    rotation = Rotation.from_rotvec([0.3, -0.8, 0.5]).as_matrix()
    atoms.set_cell(atoms.cell.array @ rotation.T)
    atoms.positions @= rotation.T
    return atoms


def cubic() -> Atoms:
    """Not a primitive cell: there are translations among the operations."""
    return bulk("SiC", "zincblende", a=3.9, cubic=True)


def two_kinds_of_carbon() -> Atoms:
    """Diamond in which a feature of the atoms tells them apart."""
    atoms = bulk("C", "diamond", a=3.3)
    atoms.set_array("charges", np.array([0, 2]))
    return atoms


@pytest.mark.parametrize(
    ("make", "columns"),
    [
        pytest.param(lambda: bulk("SiC", "zincblende", a=3.9), 2, marks=pytest.mark.slow),
        (lambda: turned(bulk("C", "diamond", a=3.3)), 1),
        (lambda: bulk("C", "hcp", a=2.3, c=3.9), 1),
        (cubic, 2),
        (lambda: turned(quartz()), 5),
        (graphene, 1),
        (zigzag, 1),
        pytest.param(carbide, 6, marks=pytest.mark.slow),
        (chain, 6),
    ],
)
def test_symmetry_gives_what_was_not_computed(model, monkeypatch, make, columns):
    computed = []
    columns_of = LocalColumns.columns

    def counted(
        local: LocalColumns, atoms: Sequence[int], displacements: torch.Tensor
    ) -> Iterator[Column]:
        computed.extend([displacements.shape[1]] * len(atoms))
        return columns_of(local, atoms, displacements)

    monkeypatch.setattr(LocalColumns, "columns", counted)
    less, all_ = (force_constants(model, make(), symmetry=on) for on in (True, False))
    assert sum(computed) == columns + 3 * len(make())
    assert_equal(less, all_)


def assert_equal(less: ForceConstants, all_: ForceConstants) -> None:
    """Equal but for cells in which both are next to nothing."""
    found, expected = (
        {tuple(c): v for c, v in zip(f.cells.tolist(), f.values, strict=True)} for f in (less, all_)
    )
    nothing = torch.zeros_like(all_.values[0])
    for cell in found.keys() | expected.keys():
        pair = found.get(cell, nothing), expected.get(cell, nothing)
        torch.testing.assert_close(*pair, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("pbc", "count"), [((1, 1, 1), 48), ((1, 1, 0), 16), ((1, 0, 0), 16)])
def test_operations_of_one_atom_in_a_cube_as_wide_as_the_vacuum(pbc, count):
    """Those of a cube, of a square, and of a line in a square box, whatever spglib makes of it."""
    atoms = Atoms("C", cell=[20, 20, 20], pbc=pbc)
    operations = Operations.of(atoms, atoms.numbers, symprec=1e-5, proper=False)
    assert len(operations.lattice) == count
    proper = Operations.of(atoms, atoms.numbers, symprec=1e-5, proper=True)
    assert 2 * len(proper.lattice) == count


def test_symmetry_heeds_features_of_the_atoms():
    model = model_of(**SETTINGS["oxidation states, total spin"])
    atoms = two_kinds_of_carbon()
    less, all_ = (force_constants(model, atoms, symmetry=on) for on in (True, False))
    assert (all_.values[:, 0] - all_.values[:, 1]).abs().max() > 1e-3
    assert_equal(less, all_)


def test_symmetry_is_without_reflections_for_models_without_parity():
    model = model_of(**MODELS["SO(3)"])
    atoms = bulk("SiC", "zincblende", a=3.9)
    less, all_ = (force_constants(model, atoms, symmetry=on) for on in (True, False))
    assert_equal(less, all_)


def test_symmetry_that_noise_breaks_is_not_used(model):
    atoms = bulk("SiC", "zincblende", a=3.9)
    atoms.rattle(1e-3, seed=0)
    less, all_ = (force_constants(model, atoms, symmetry=on, symprec=1e-5) for on in (True, False))
    assert_equal(less, all_)
    imposed = force_constants(model, atoms, symprec=1e-1).dynamical_matrix(GENERAL)
    assert (imposed - all_.dynamical_matrix(GENERAL)).abs().max() > 1e-4


def test_many_wave_vectors_at_once_and_derivatives(rattled):
    f = rattled.dynamical_matrix
    for matrix, q in zip(vmap(f)(WAVES), WAVES, strict=True):
        torch.testing.assert_close(matrix, f(q), rtol=0, atol=1e-13)
    along = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
    slope = jvp(f, (GENERAL,), (along,))[1]
    expected = central(lambda t: f(GENERAL + t * along), 1e-3)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(slope, expected, rtol=0, atol=1e-8)
    gradient = torch.func.grad(lambda q: parts(f(q)).square().sum())(GENERAL)
    torch.testing.assert_close(gradient @ along, 2 * (parts(f(GENERAL)) * parts(slope)).sum())


def test_silicon(silicon):
    """Six optical modes of one frequency at Gamma, three acoustic ones of none."""
    squares = torch.linalg.eigvalsh(silicon.dynamical_matrix(torch.zeros(3).double()))
    assert squares[:3].abs().max() < 1e-12
    torch.testing.assert_close(squares[3:], squares[3].expand(3))
    assert 10 < mf.frequencies(silicon.values.sum(0), silicon.masses, unit="THz")[-1] < 20


def test_saved_and_read(silicon, tmp_path):
    silicon.save(tmp_path / "silicon.npz")
    read = ForceConstants.load(tmp_path / "silicon.npz")
    assert repr(read) == repr(silicon)
    assert torch.equal(read.dynamical_matrix(GENERAL), silicon.dynamical_matrix(GENERAL))
    np.savez(tmp_path / "other.npz", values=np.zeros(3))
    with pytest.raises(ValueError, match="no force constants"):
        ForceConstants.load(tmp_path / "other.npz")


def test_single_precision(rattled):
    single = force_constants(model_of(torch.float32), carbide())
    assert single.values.dtype == torch.float32
    matrix = single.dynamical_matrix(GENERAL.float())
    expected = rattled.dynamical_matrix(GENERAL).to(torch.complex64)
    torch.testing.assert_close(matrix, expected, rtol=0, atol=1e-5)


def test_phonons_choose_a_method(model):
    chosen = phonons_of(model, carbide())
    assert chosen.force_constants is not None
    assert chosen.diagnostics.asymmetry < 1e-12
    replicas = phonons_of(model, carbide(), method="replicas")
    assert replicas.force_constants is None
    found, expected = (p.dynamical_matrix(GENERAL) for p in (chosen, replicas))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    molecule = phonons_of(model, Atoms("CO", [[0, 0, 0], [0, 0, 1.1]]))
    assert molecule.force_constants is None


@pytest.mark.parametrize("limit", ["free_memory", "ASSUMED_WAVE_VECTORS"])
def test_phonons_choose_replicas_where_force_constants_are_too_much(model, monkeypatch, limit):
    little = (lambda device: 2**10) if limit == "free_memory" else 1
    monkeypatch.setattr(sys.modules[phonons_of.__module__], limit, little)
    assert phonons_of(model, carbide()).force_constants is None
    assert phonons_of(model, carbide(), method="force-constants").force_constants is not None


def test_bad_input_is_explained(model, rattled):
    molecule = Atoms("CO", [[0, 0, 0], [0, 0, 1.1]])
    for call in (
        lambda: force_constants(model, molecule),
        lambda: phonons_of(model, molecule, method="force-constants"),
    ):
        with pytest.raises(
            ValueError, match=r"not periodic: set atoms.pbc, or compute the Hessian"
        ):
            call()
    with pytest.raises(ValueError, match="method must be one of auto, force-constants, replicas"):
        phonons_of(model, carbide(), method="supercell")
    with pytest.raises(ValueError, match=r"q must have the shape \(3,\), not \(2, 3\); use vmap"):
        rattled.dynamical_matrix(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="not periodic"):
        force_constants(model, slab()).dynamical_matrix(GENERAL)
    with pytest.raises(ValueError, match="symprec"):
        force_constants(model, carbide(), symprec=100.0)
