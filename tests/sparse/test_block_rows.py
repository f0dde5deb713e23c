"""Block matrices on a pattern: symmetric parts, and the smallest change with the sum rule."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_close
from scipy.sparse import csr_array

from mace_functional.sparse.block_rows import BlockRows

N_ATOMS = 7


@pytest.fixture
def rows() -> BlockRows:
    """A ring with random columns, which are not symmetric."""
    ring = np.eye(N_ATOMS) + np.roll(np.eye(N_ATOMS), 1, 0) + np.roll(np.eye(N_ATOMS), -1, 0)
    rows = BlockRows(csr_array(ring.astype(bool)), np.dtype(float))
    random = np.random.default_rng(0)
    for atom in range(N_ATOMS):
        rows.add_column(atom, random.standard_normal((3, N_ATOMS, 3)))
    return rows


def test_a_column_is_stored_in_the_pattern(rows: BlockRows) -> None:
    before = rows.matrix().toarray()
    column = np.random.default_rng(1).standard_normal((3, N_ATOMS, 3))
    rows.add_column(2, column)
    added = rows.matrix().toarray() - before
    stored = rows.pattern.toarray()[2]
    assert_close(added[6:9].reshape(3, N_ATOMS, 3)[:, stored], column[:, stored], 1e-14)
    assert np.count_nonzero(added) == 27


def test_the_symmetric_part_is_stored(rows: BlockRows) -> None:
    before = rows.matrix().toarray()
    asymmetry = rows.symmetrise()
    assert_close(rows.matrix().toarray(), (before + before.T) / 2, 1e-15)
    assert asymmetry == np.abs(before - before.T).max()


def test_the_sum_rule_is_the_smallest_symmetric_change(rows: BlockRows) -> None:
    """The same change by dense least squares over all symmetric matrices of the pattern."""
    rows.symmetrise()
    before = rows.matrix().toarray()
    rows.add_sum_rule()
    change = rows.matrix().toarray() - before

    inside = np.kron(rows.pattern.toarray(), np.ones((3, 3)))
    basis = []
    for i, j in np.argwhere(np.triu(inside)):
        unit = np.zeros_like(before)
        unit[i, j] = unit[j, i] = 1.0 if i == j else 0.5**0.5
        basis.append(unit)
    translations = np.tile(np.eye(3), (N_ATOMS, 1))
    sums = np.stack([(unit @ translations).ravel() for unit in basis], axis=1)
    shares = np.linalg.lstsq(sums, -(before @ translations).ravel(), rcond=1e-12)[0]
    assert_close(change, np.tensordot(shares, np.stack(basis), 1), 1e-12)
    assert rows.largest_sum() < 1e-13
