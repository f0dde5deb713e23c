"""Sparse Hessians, against dense ones."""

from __future__ import annotations

import importlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.constraints import FixAtoms
from helpers import assert_close
from layered_springs import STRUCTURES, dense, diamond, layered_springs, ribbon, sheet
from models import build
from pair_potential import Pairs
from scipy.sparse import bsr_array
from scipy.sparse.csgraph import shortest_path

import mace_functional as mf
from mace_functional.sparse.hop_graph import one_hop

sparse_hessian_module = importlib.import_module("mace_functional.sparse.sparse_hessian")

METHODS = ["products", "local"]


def hop_counts(potential: mf.Potential, atoms: Atoms) -> np.ndarray:
    """Edges between all pairs of atoms, by the shortest paths of scipy."""
    graph = potential.structure(atoms).topology
    i, j, _ = graph.pairs_within(torch.as_tensor(atoms.positions), torch.as_tensor(atoms.cell[:]))
    edges = np.zeros((len(atoms), len(atoms)))
    edges[i, j] = 1
    return shortest_path(edges, unweighted=True)


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layers", [1, 2])
def test_the_exact_matrix_equals_the_dense_hessian(name: str, method: str, layers: int) -> None:
    potential, atoms = layered_springs(layers), STRUCTURES[name]()
    result = mf.sparse_hessian(potential, atoms, method=method)
    assert isinstance(result.matrix, bsr_array)
    assert result.matrix.blocksize == (3, 3)
    assert_close(result.matrix.toarray(), dense(potential, atoms))
    assert result.hops is None
    assert result.truncation is None
    assert result.method == method


@pytest.mark.parametrize("method", METHODS)
def test_the_exact_matrix_of_mace_equals_the_dense_hessian(method: str) -> None:
    module = build(r_max=2.2, embedding_specs=None)
    potential = mf.load_model(module)
    atoms = Atoms("C12", np.stack([1.4 * np.arange(12), np.arange(12) % 2, np.zeros(12)], axis=1))
    atoms.numbers[[0, 11]] = 1, 8  # far from each other: few clusters have all elements
    atoms.rattle(0.1, seed=1)
    result = mf.sparse_hessian(potential, atoms, method=method)
    assert result.matrix.nnz < (3 * len(atoms)) ** 2
    assert_close(result.matrix.toarray(), dense(potential, atoms))


def test_stored_pairs_are_those_within_twice_the_layers() -> None:
    for layers in (1, 2):
        potential, atoms = layered_springs(layers, coupling=1.0), ribbon()
        hops = hop_counts(potential, atoms)
        blocks = np.abs(dense(potential, atoms).reshape(12, 3, 12, 3)).max((1, 3))
        assert blocks[hops == 2 * layers].min() > 1e-6
        stored = mf.sparse_hessian(potential, atoms).matrix
        pairs = np.zeros((12, 12), dtype=bool)
        pairs[np.repeat(np.arange(12), np.diff(stored.indptr)), stored.indices] = True
        assert (pairs == (hops <= 2 * layers)).all()


def test_a_hop_is_an_edge_of_the_potential() -> None:
    potential, atoms = layered_springs(), sheet(4, 3)
    step = one_hop(potential.structure(atoms).topology)
    assert ((hop_counts(potential, atoms) <= 1) == step.toarray()).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_sum_of_potentials_has_the_sum_of_their_matrices(method: str) -> None:
    atoms = sheet(4, 3)
    terms = layered_springs(1), layered_springs(2, coupling=0.3)
    result = mf.sparse_hessian(mf.SumPotential(*terms), atoms, method=method)
    assert_close(result.matrix.toarray(), sum(dense(term, atoms) for term in terms))


def test_local_columns_are_exact_inside_a_truncated_pattern() -> None:
    potential, atoms = layered_springs(), sheet(5, 5)
    exact = dense(potential, atoms)
    result = mf.sparse_hessian(potential, atoms, hops=2, method="local", sum_rule=False)
    hops = hop_counts(potential, atoms)
    inside = np.kron(hops <= 2, np.ones((3, 3), dtype=bool))
    assert not inside.all()
    assert_close(result.matrix.toarray(), np.where(inside, exact, 0.0))


def test_products_need_fewer_columns_when_truncated() -> None:
    potential, atoms = layered_springs(1), diamond(4, 4, 4)
    one, two = (
        mf.sparse_hessian(potential, atoms, hops=k, method="products", sum_rule=False)
        for k in (1, 2)
    )
    assert one.n_products < two.n_products < 3 * len(atoms)
    exact = dense(potential, atoms)
    errors = [
        np.abs((result.matrix - bsr_array(exact)).toarray())[result.matrix.toarray() != 0].max()
        for result in (one, two)
    ]
    assert errors[1] < errors[0] < np.abs(exact).max()
    assert one.asymmetry > two.asymmetry > 0


def test_hops_beyond_the_range_are_exact() -> None:
    potential, atoms = layered_springs(), ribbon()
    result = mf.sparse_hessian(potential, atoms, hops=4)
    assert result.hops is None
    assert mf.sparse_hessian(potential, atoms, hops=3).hops == 3


def test_truncated_matrices_have_the_sum_rule_unless_told_otherwise() -> None:
    potential, atoms = layered_springs(), ribbon()
    translations = np.tile(np.eye(3), (len(atoms), 1))
    result = mf.sparse_hessian(potential, atoms, hops=2)
    assert result.sum_residual > 1e-3
    assert np.abs(result.matrix @ translations).max() < 1e-12
    assert np.abs((result.matrix - result.matrix.T).toarray()).max() < 1e-13
    raw = mf.sparse_hessian(potential, atoms, hops=2, sum_rule=False)
    assert_close([np.abs(raw.matrix @ translations).max()], np.array([raw.sum_residual]))


def test_tolerance_takes_the_fewest_hops_that_suffice() -> None:
    potential, atoms = layered_springs(coupling=0.02), ribbon(20)
    bounds = {}
    for k in (1, 2, 3):
        result = mf.sparse_hessian(potential, atoms, hops=k)
        bounds[k] = result.truncation.heat_capacity(300.0).relative_bound
    assert bounds[1] > bounds[2] > bounds[3] > 0
    for k in (1, 2, 3):
        assert mf.sparse_hessian(potential, atoms, tolerance=1.01 * bounds[k]).hops == k
    assert mf.sparse_hessian(potential, atoms, tolerance=0.9 * bounds[3]).hops is None


def test_the_operator_multiplies_like_that_of_products() -> None:
    potential, atoms = layered_springs(), sheet(3, 3)
    result = mf.sparse_hessian(potential, atoms)
    vectors = np.random.default_rng(0).standard_normal((54, 3))
    for weighted in (True, False):
        exact = mf.HessianOperator.from_potential(potential, atoms, mass_weighted=weighted)
        found = result.to_scipy(mass_weighted=weighted)
        assert_close(found @ vectors, exact.to_scipy() @ vectors)
        assert_close(found @ vectors[:, 0], exact.to_scipy() @ vectors[:, 0])


def test_single_precision_stays_single() -> None:
    potential, atoms = layered_springs().to(dtype="float32"), sheet(3, 3)
    for method in METHODS:
        result = mf.sparse_hessian(potential, atoms, method=method)
        assert result.matrix.dtype == np.float32
        assert_close(result.matrix.toarray(), dense(potential, atoms), 1e-5)


def test_chunks_of_a_small_budget_give_the_same_matrix() -> None:
    potential, atoms = layered_springs(), sheet(4, 3)
    for method in METHODS:
        whole, small = (
            mf.sparse_hessian(potential, atoms, method=method, memory_budget=budget)
            for budget in (None, 2_000_000)
        )
        assert_close(small.matrix.toarray(), whole.matrix.toarray(), 1e-13)
        with pytest.raises(MemoryError, match="memory_budget"):
            mf.sparse_hessian(potential, atoms, method=method, memory_budget=1000)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("hops", [None, 1])
def test_many_workers_give_the_matrix_of_one_process(method: str, hops: int | None) -> None:
    potential, atoms = layered_springs(2), ribbon()
    one = mf.sparse_hessian(potential, atoms, method=method, hops=hops)
    with ThreadPoolExecutor(2) as executor:
        two = mf.sparse_hessian(potential, atoms, method=method, hops=hops, executor=executor)
    np.testing.assert_array_equal(two.matrix.toarray(), one.matrix.toarray())
    if one.truncation is not None and two.truncation is not None:
        errors = (result.heat_capacity(300.0) for result in (one.truncation, two.truncation))
        np.testing.assert_array_equal(*errors)


def test_potentials_without_edges_are_refused_with_what_to_call() -> None:
    with pytest.raises(ValueError, match=r"no edges.*HessianOperator\.from_potential"):
        mf.sparse_hessian(Pairs(), diamond(1, 1, 1))


def test_bad_arguments_are_refused() -> None:
    potential, atoms = layered_springs(), ribbon()
    with pytest.raises(ValueError, match="hops or tolerance, not both"):
        mf.sparse_hessian(potential, atoms, hops=1, tolerance=1e-3)
    with pytest.raises(ValueError, match="hops must be a whole number"):
        mf.sparse_hessian(potential, atoms, hops=0)
    with pytest.raises(ValueError, match="tolerance must be a finite number above zero"):
        mf.sparse_hessian(potential, atoms, tolerance=0.0)
    with pytest.raises(ValueError, match="'products' or 'local'"):
        mf.sparse_hessian(potential, atoms, method="dense")
    with pytest.raises(TypeError, match="they are swapped"):
        mf.sparse_hessian(atoms, potential)
    held = atoms.copy()
    held.set_constraint(FixAtoms([0]))
    with pytest.raises(ValueError, match="all atoms free"):
        mf.sparse_hessian(potential, held)


def test_transforms_are_refused() -> None:
    potential, atoms = layered_springs(), ribbon()

    def entry(k: torch.Tensor) -> torch.Tensor:
        traced = layered_springs()
        traced.params = {"k": k, "c": potential.params["c"]}
        return torch.as_tensor(mf.sparse_hessian(traced, atoms).matrix.data).sum()

    with pytest.raises(ValueError, match="sparse_hessian reads numbers out of tensors"):
        torch.func.grad(entry)(potential.params["k"])


@pytest.mark.parametrize(("columns", "chosen"), [(50.0, "local"), (60.0, "products")])
def test_the_way_with_less_estimated_time_is_chosen(
    columns: float, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """18 atoms in a small cell share no products: 54 of them."""
    monkeypatch.setattr(sparse_hessian_module, "local_cost", lambda *_: columns)
    assert mf.sparse_hessian(layered_springs(), sheet(3, 3)).method == chosen
