"""Groups of atoms for local columns, and what these cost."""

from __future__ import annotations

import numpy as np
import pytest
from layered_springs import diamond, layered_springs

from mace_functional.potential.terms import Part
from mace_functional.sparse.neighbourhood_columns import VECTOR_COST, local_cost, scattered


@pytest.mark.parametrize("n_atoms", [1, 5, 50])
def test_every_atom_is_in_one_group(n_atoms: int) -> None:
    groups = scattered(np.random.default_rng(0).standard_normal((n_atoms, 3)))
    np.testing.assert_array_equal(np.sort(np.concatenate(groups)), np.arange(n_atoms))


def test_neighbours_are_in_different_groups() -> None:
    groups = scattered(np.arange(32.0)[:, None] * [1.0, 0.0, 0.0])
    assert all((np.diff(np.sort(group)) >= 4).all() for group in groups)


def test_the_cost_is_that_of_the_neighbourhoods() -> None:
    """In diamond 5, 17 and 41 atoms are within one, two and three bonds, also as images."""
    potential = layered_springs(2)
    for atoms in (diamond(1, 1, 1), diamond(4, 4, 4)):
        part = Part(potential, potential.structure(atoms).topology, potential.params)
        assert local_cost(part, len(atoms)) == pytest.approx(VECTOR_COST * (5 + 17 + 41))
