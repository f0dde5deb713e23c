"""Conventional cells of lattices."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk

from mace_functional.structure.symmetry import conventional_multiples


@pytest.mark.parametrize(
    ("primitive", "conventional"),
    [
        (bulk("NaCl", "rocksalt", a=5.64), [5.64] * 3 + [90] * 3),
        (bulk("Fe", "bcc", a=2.87), [2.87] * 3 + [90] * 3),
        (bulk("As", "rhombohedral", a=4.13, alpha=54.1), [3.756, 3.756, 10.547, 90, 90, 120]),
        (bulk("Sn", "bct", a=5.83, c=3.18), [5.83, 5.83, 3.18, 90, 90, 90]),
    ],
    ids=lambda value: getattr(value, "symbols", None) and str(value.symbols),
)
def test_a_primitive_cell_of_a_centred_lattice_has_a_conventional_cell(primitive, conventional):
    cell = primitive.cell.copy()
    cell[:] = conventional_multiples(cell.array) @ cell.array
    np.testing.assert_allclose(cell.cellpar(), conventional, rtol=2e-3)


@pytest.mark.parametrize(
    "atoms", [bulk("NaCl", "rocksalt", a=5.64, cubic=True), bulk("Ti", "hcp", a=2.95, c=4.68)]
)
def test_other_cells_are_left_as_they_are(atoms):
    np.testing.assert_array_equal(conventional_multiples(atoms.cell.array), np.eye(3))
