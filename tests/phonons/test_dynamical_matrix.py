"""The dynamical matrix by replicas, against Hessians of supercells and central differences."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from conftest import shared_file
from crystals import GENERAL, Case, carbide, central, chain, lone, parts, slab
from engine_settings import MODELS, with_features
from helpers import mostly_slow
from models import build
from torch import Tensor
from torch.func import grad, jacfwd, jvp, vmap
from torch.utils._pytree import tree_leaves, tree_map

import mace_functional as mf
from mace_functional.phonons import dynamical_matrix_fn
from mace_functional.phonons.wave_vector import wave_vector


@pytest.fixture(scope="module")
def model() -> mf.MaceModel:
    return mf.load_model(build(atomic_inter_scale=80.0))


@pytest.fixture(scope="module")
def case(model) -> Case:
    return Case(model, carbide())


@pytest.fixture(scope="module")
def small() -> Case:
    """For derivatives of derivatives."""
    model = build(atomic_inter_scale=80.0, r_max=3.0, max_ell=1, hidden_irreps="3x0e + 3x1o")
    return Case(mf.load_model(model), carbide())


# Quick are pairs of elements, and features.
@pytest.mark.parametrize(
    "name", mostly_slow(MODELS, {"ZBL, Agnesi, sixth-power cutoff", "total charge and spin"})
)
def test_it_is_the_folded_hessian_of_a_supercell_for_every_setting_of_the_engine(name):
    module = build(**MODELS[name])
    case = Case(mf.load_model(module, head=module.heads[-1]), with_features(carbide()))
    folded = case.supercell((3, 2, 1))
    for q in (1 / 3, 1 / 2, 0), (2 / 3, 0, 0), (0, 1 / 2, 0):
        assert abs(folded(q)).max() > 1e-3
        np.testing.assert_allclose(case(q), folded(q), rtol=0, atol=1e-10)


WAVE_MODELS = [
    "residual",
    "density residual",
    "non-linear",
    "ZBL, Agnesi, sixth-power cutoff",
    "three layers, density, L=2",
    "SO(3)",
]


@pytest.mark.parametrize("name", mostly_slow(WAVE_MODELS, WAVE_MODELS[3:5]))
@pytest.mark.parametrize("q", [GENERAL, (0.5, 0, 0.5), (0, 0, 0)])
def test_waves_of_one_cell_equal_replicas(name, q, monkeypatch):
    case = Case(mf.load_model(build(**MODELS[name])), carbide())
    tried = []
    of_waves = mf.MaceModel.wave_hessian

    def noted(*args: Any) -> Any:
        tried.append(of_waves(*args))
        return tried[-1]

    monkeypatch.setattr(mf.MaceModel, "wave_hessian", noted)
    by_waves = case(q)
    assert tried[0] is not None
    monkeypatch.setattr(mf.MaceModel, "wave_hessian", lambda *args: None)
    by_replicas = case(q)
    assert abs(by_replicas).max() > 1e-3
    np.testing.assert_allclose(by_waves, by_replicas, rtol=0, atol=1e-12)


def test_without_gradients_tensors_that_require_grad_are_plain_ones(small):
    s, expected = small.s, small(GENERAL)
    leaves = tree_map(
        lambda p: p.clone().requires_grad_(), (s.positions, s.cell, small.model.params)
    )
    with torch.no_grad():
        found = small.function(GENERAL, *leaves, s.masses)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


def test_replicas_are_used_where_waves_cannot_be(monkeypatch):
    """Under transforms, in large cells, and where radial functions read both atoms' features."""
    tried = []
    of_waves = mf.MaceModel.wave_hessian

    def noted(*args: Any) -> Any:
        tried.append(of_waves(*args))
        return tried[-1]

    monkeypatch.setattr(mf.MaceModel, "wave_hessian", noted)
    case = Case(mf.load_model(build(r_max=3.0)), carbide())
    s, params, q = case.s, case.model.params, GENERAL
    jvp(lambda c: parts(case.function(q, s.positions, c, params, s.masses)), (s.cell,), (s.cell,))
    attention = Case(mf.load_model(build(**MODELS["attention"])), carbide())
    attention(GENERAL)
    long = Case(mf.load_model(build(r_max=3.0)), carbide().repeat((30, 1, 1)))
    s = long.s
    assert long.model.wave_hessian(s.graph, q, s.positions, s.cell, long.model.params) is None
    assert tried == [None] * 3


@pytest.mark.parametrize("make", mostly_slow([lone, carbide, chain, slab], [carbide, chain, slab]))
def test_it_is_the_folded_hessian_of_a_supercell_for_every_periodicity(model, make):
    case = Case(model, make())
    repeats = np.where(case.atoms.pbc, (2, 3, 2), 1)
    folded = case.supercell(repeats)
    for shift in (1, 1, 1), (0, 1, 0), (1, 2, 0), (0, 0, 0):
        q = np.array(shift) * case.atoms.pbc / repeats
        np.testing.assert_allclose(case(q), folded(q), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("weights", "structure"),
    [
        ("MACE-MP-0_small", "salt"),
        pytest.param("embedded", "quartz", marks=pytest.mark.slow),
        pytest.param("MACE-DAC-1", "salt", marks=pytest.mark.slow),
    ],
)
def test_it_is_the_folded_hessian_of_a_supercell_for_trained_models(weights, structure):
    if weights != "embedded":
        weights = str(shared_file("weights", f"{weights}.model"))
    salt = bulk("NaCl", "rocksalt", a=5.64)
    atoms = salt if structure == "salt" else mf.example_structure(structure)
    atoms.rattle(0.03, seed=4)
    case = Case(mf.load_model(weights), atoms)
    for repeats in ((1, 2, 1), (3, 1, 1)) if structure == "quartz" else ((2, 3, 1),):
        q = [1 / k if k > 1 else 0 for k in repeats]
        np.testing.assert_allclose(case(q), case.supercell(repeats)(q), rtol=0, atol=1e-10)


def test_it_is_hermitian_periodic_in_q_and_conjugate_at_minus_q(case):
    matrix = case(GENERAL)
    assert matrix.dtype == torch.complex128
    assert matrix.imag.abs().max() > 1e-2
    for other in matrix.mH, case(-GENERAL).conj(), case(GENERAL + torch.tensor([1, -2, 0])):
        torch.testing.assert_close(matrix, other, rtol=0, atol=1e-12)


def test_two_and_one_replicas_give_what_three_give(case):
    """Under `vmap` wave vectors cannot be looked at, so there are three."""
    special = torch.tensor([[0, 0, 0], [0.5, 0, 0], [0.5, -0.5, 1.5], [1, 0, 2]]).double()
    for matrix, q in zip(vmap(case)(special), special, strict=True):
        torch.testing.assert_close(case(q), matrix, rtol=0, atol=1e-12)
    assert [len(case(q).imag.nonzero()) for q in special] == [0, 0, 0, 0]


def test_at_gamma_it_is_the_mass_weighted_hessian_and_translations_cost_nothing(case):
    s, size = case.s, len(case.atoms)
    energy = mf.energy_fn(case.model, s.graph)
    operator = mf.HessianOperator(energy, s.positions, s.cell, case.model.params, masses=s.masses)
    torch.testing.assert_close(case([0.0, 0, 0]).real, operator.dense(), rtol=0, atol=1e-12)
    translation = s.masses.sqrt().repeat_interleave(3)[:, None] * torch.eye(3).repeat(size, 1)
    for replicas in case([0.0, 0, 0]), vmap(case)(torch.zeros(1, 3).double())[0]:
        left = (replicas.real @ translation).abs().max()
        assert left < 1e-12 * torch.linalg.eigvalsh(replicas).abs().max() * translation.max()


@pytest.mark.parametrize("chunk_size", [1, 4, None])
def test_chunks_do_not_matter(case, chunk_size):
    chunked = Case(case.model, case.atoms, chunk_size=chunk_size)
    torch.testing.assert_close(chunked(GENERAL), case(GENERAL), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "q",
    [GENERAL, pytest.param(torch.tensor([0.5, 0, 0]).double(), marks=pytest.mark.slow)],
    ids=["general", "edge of the zone"],
)
def test_derivatives_by_q(small, q):
    along = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)

    def f(q: Tensor) -> Tensor:
        return parts(small(q))

    def slope(q: Tensor) -> Tensor:
        return jvp(f, (q,), (along,))[1]

    value, first = f(q), slope(q)
    jacobian, expected = jacfwd(f)(q), central(lambda t: f(q + t * along), 1e-3)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(first, expected, rtol=0, atol=1e-8)
    torch.testing.assert_close(jacobian @ along, first, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        grad(lambda q: f(q).square().sum())(q), 2 * (value[..., None] * jacobian).sum((0, 1, 2))
    )
    # Nested transforms are the same when repeated.
    torch.testing.assert_close(slope(q), first, rtol=0, atol=1e-13)
    torch.testing.assert_close(f(q), value, rtol=0, atol=1e-13)


@pytest.mark.slow
def test_second_derivatives_by_q(small):
    along = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)

    def slope(q: Tensor) -> Tensor:
        return jvp(lambda q: parts(small(q)), (q,), (along,))[1]

    second = jvp(slope, (GENERAL,), (along,))[1]
    expected = central(lambda t: slope(GENERAL + t * along), 1e-3)
    torch.testing.assert_close(second, expected, rtol=0, atol=1e-7)


ARGUMENTS = "positions", "cell", "parameters", "masses"


@pytest.mark.parametrize("argument", mostly_slow(ARGUMENTS, {"cell", "parameters"}))
def test_derivatives_by_cell_positions_masses_and_parameters(small, argument):
    s, params = small.s, small.model.params
    generator = torch.Generator().manual_seed(0)

    def random(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=like.dtype)

    def f(x: Tensor, cell: Tensor, params: dict[str, Tensor], masses: Tensor) -> Tensor:
        return parts(small.function(GENERAL, x, cell, params, masses))

    learnt = {k: p for k, p in params.items() if "weight" in k and p.numel() and "max" not in k}
    values = dict(zip(ARGUMENTS, (s.positions, s.cell, learnt, s.masses), strict=True))

    def one(new: Any) -> Tensor:
        x, cell, changed, masses = (values | {argument: new}).values()
        return f(x, cell, params | changed, masses)

    value = values[argument]
    along = tree_map(random, value)
    found = jvp(one, (value,), (along,))[1]
    step = 1e-2 if argument == "masses" else 1e-3
    expected = central(lambda t: one(tree_map(lambda v, a: v + t * a, value, along)), step)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    slopes = grad(lambda new: (one(new) * found).sum())(value)
    products = tree_map(lambda s, a: (s * a).sum(), slopes, along)
    total = torch.stack(tree_leaves(products)).sum()
    torch.testing.assert_close(total, (found * found).sum(), rtol=1e-9, atol=0)


def test_single_precision(model):
    single = Case(model.to(dtype=torch.float32), carbide())
    double = Case(model, carbide())(GENERAL)
    assert single(GENERAL).dtype == torch.complex64
    torch.testing.assert_close(single(GENERAL), double.to(torch.complex64), rtol=0, atol=1e-5)


def test_atoms_out_of_reach_of_each_other(model):
    atoms = Atoms("CO", [[0, 0, 0], [6, 6, 6]], cell=[12, 12, 12], pbc=True)
    torch.testing.assert_close(Case(model, atoms)(GENERAL).abs(), torch.zeros(6, 6).double())


def test_bad_input_is_explained(case, model):
    s = case.s
    arguments = (s.positions, s.cell, model.params)
    with pytest.raises(ValueError, match=r"q must have the shape \(3,\), not \(2, 3\); use vmap"):
        case(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="masses"):
        case.function(GENERAL, *arguments, s.masses[:1])
    with pytest.raises(ValueError, match="not periodic"):
        Case(model, slab())([0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="one structure"):
        dynamical_matrix_fn(model, mf.batch([s, s]).graph)


# What may be given as q.


@cache
def as_force_constants(case: Case) -> Callable[[Any], Tensor]:
    return mf.force_constants(case.model, case.atoms, symmetry=False).dynamical_matrix


@cache
def as_phonons(case: Case) -> Callable[[Any], Tensor]:
    return mf.phonons_of(case.model, case.atoms, method="replicas").dynamical_matrix


def as_function(case: Case) -> Callable[[Any], Tensor]:
    s = case.s
    return lambda q: case.function(q, s.positions, s.cell, case.model.params, s.masses)


KINDS = list, tuple, np.array, torch.tensor, lambda q: list(torch.tensor(q))
MATRICES = as_function, as_phonons, as_force_constants
every_matrix = pytest.mark.parametrize("matrix_of", MATRICES)


@pytest.mark.parametrize(
    ("matrix_of", "kind"),
    mostly_slow(
        itertools.product(MATRICES, KINDS),
        [
            *itertools.product([as_force_constants], KINDS),
            *itertools.product(MATRICES, [list]),
            (as_function, torch.tensor),
        ],
    ),
)
def test_wave_vectors_of_every_kind_are_taken(matrix_of, kind, case):
    matrix = matrix_of(case)
    q = [0.25, -0.125, 0.375]
    expected = matrix(torch.tensor(q, dtype=torch.float64))
    found = matrix(kind(q))
    assert found.dtype == torch.complex128
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_a_third_given_as_a_number_of_python_is_not_rounded_to_single_precision():
    pbc, like = [True] * 3, torch.zeros(3, dtype=torch.float64)
    third = torch.tensor(1 / 3, dtype=torch.float64)
    for q in [1 / 3, 0, 0], (1 / 3, 0.0, 0.0), np.array([1 / 3, 0, 0]), [third, 1 / 3, 0]:
        assert float(wave_vector(q, pbc, like)[0]) == 1 / 3
    assert float(wave_vector([third, 1 / 3, 0], pbc, like)[1]) == 1 / 3


@every_matrix
def test_whole_numbers_are_wave_vectors(matrix_of, case):
    matrix = matrix_of(case)
    gamma = matrix(torch.zeros(3).double())
    for q in [0, 0, 0], torch.zeros(3, dtype=torch.int64), np.zeros(3, dtype=int):
        np.testing.assert_allclose(matrix(q), gamma, rtol=0, atol=1e-12)


@every_matrix
@pytest.mark.parametrize(
    ("q", "message"),
    [
        ([0.1, float("nan"), 0.2], "not finite"),
        ([0.1, float("inf"), 0.2], "not finite"),
        ("Gamma", "q must be three numbers"),
        (None, "q must be three numbers"),
        ([0.1, 0.2], r"q must have the shape \(3,\), not \(2,\)"),
        (torch.zeros(3, dtype=torch.complex128), "three real numbers"),
        (torch.zeros(3, dtype=torch.bool), "three real numbers"),
    ],
)
def test_what_is_no_wave_vector_is_refused(matrix_of, q, message, case):
    with pytest.raises(ValueError, match=message):
        matrix_of(case)(q)


def test_derivatives_by_numbers_in_a_list_pass_through(small):
    matrix = as_function(small)
    x, one = torch.tensor(0.13, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
    by_list = jvp(lambda t: matrix([t, 0.2, 0.3]), (x,), (one,))[1]
    q = torch.tensor([0.13, 0.2, 0.3], dtype=torch.float64)
    along = torch.tensor([1.0, 0, 0], dtype=torch.float64)
    np.testing.assert_allclose(by_list, jvp(matrix, (q,), (along,))[1], rtol=0, atol=1e-12)


def test_positions_and_wave_vector_in_the_wrong_order_are_refused(case):
    s = case.s
    with pytest.raises(ValueError, match=r"q must have the shape \(3,\)"):
        case.function(s.positions, torch.zeros(3).double(), s.cell, case.model.params, s.masses)


def test_masses_of_another_precision_are_refused(case):
    s = case.s
    with pytest.raises(ValueError, match="positions, cell and masses must have one dtype"):
        case.function([0, 0, 0], s.positions, s.cell, case.model.params, s.masses.float())
