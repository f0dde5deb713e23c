"""Colouring of a pattern: no row has two columns of one colour."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from mace_functional.sparse.colouring import coloured


def pattern_of(size: int, pairs: list[tuple[int, int]]) -> csr_array:
    dense = np.eye(size, dtype=bool)
    for i, j in pairs:
        dense[i % size, j % size] = dense[j % size, i % size] = True
    return csr_array(dense)


@given(st.integers(1, 12), st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=40))
def test_no_row_has_a_colour_twice(size: int, pairs: list[tuple[int, int]]) -> None:
    pattern = pattern_of(size, pairs)
    colours = coloured(pattern)
    for row in pattern.toarray():
        assert len(set(colours[row])) == row.sum()
    assert set(colours) == set(range(colours.max() + 1))


def test_a_ring_takes_three_or_four_colours() -> None:
    for size, fewest in ((9, 3), (10, 4)):  # three suffice where they divide the ring
        colours = coloured(pattern_of(size, [(i, i + 1) for i in range(size)]))
        assert fewest <= colours.max() + 1 <= 5


@pytest.mark.parametrize("size", [1, 7])
def test_a_full_pattern_takes_all_columns(size: int) -> None:
    assert sorted(coloured(csr_array(np.ones((size, size), dtype=bool)))) == list(range(size))
