"""Stochastic thermodynamics of a stored matrix, as of products with the potential."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import assert_close
from layered_springs import diamond, layered_springs, ribbon

import mace_functional as mf


@pytest.mark.filterwarnings("ignore:after .* Hessian-vector products")
def test_the_stored_matrix_gives_what_products_give() -> None:
    potential, atoms = layered_springs(), diamond(4, 4, 3)
    stored = mf.sparse_hessian(potential, atoms).to_scipy()
    exact, found = (
        mf.stochastic_thermo(
            potential,
            atoms,
            [300.0],
            rel_error=0.05,
            entropy_error=None,
            max_products=200,
            operator=operator,
        )
        for operator in (None, stored)
    )
    assert exact.n_vectors > 0
    assert_close(found.heat_capacity, exact.heat_capacity, 1e-9)
    assert_close(found.heat_capacity_error, exact.heat_capacity_error, 1e-6)


@pytest.mark.filterwarnings("ignore:the largest force")
def test_small_matrices_are_diagonalised() -> None:
    potential, atoms = layered_springs(), ribbon(6)
    stored = mf.sparse_hessian(potential, atoms).to_scipy()
    exact = mf.stochastic_thermo(potential, atoms, [300.0])
    found = mf.stochastic_thermo(potential, atoms, [300.0], operator=stored)
    assert exact.n_vectors == found.n_vectors == 0
    assert_close(found.entropy, exact.entropy, 1e-9)


def test_operators_are_checked(tmp_path: Path) -> None:
    potential = layered_springs()
    stored = mf.sparse_hessian(potential, ribbon(6)).to_scipy()
    with pytest.raises(ValueError, match=r"the operator must be \(15, 15\) for 5 atoms"):
        mf.stochastic_thermo(potential, ribbon(5), [300.0], operator=stored)
    with pytest.raises(ValueError, match="leave it out where an operator is given"):
        mf.stochastic_thermo(
            potential, ribbon(6), [300.0], operator=stored, checkpoint=tmp_path / "a.npz"
        )
