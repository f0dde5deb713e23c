"""Sums of irreps against e3nn's."""

from __future__ import annotations

from itertools import product

import pytest
from e3nn import o3

from mace_functional.mace.irreps import SCALAR, Irrep, Irreps

TEXTS = ["0e", "128x0e", "128x0e+64x1o", " 3x2e + 1o+0x1e ", "1x0e+1x1o+1x2e+1x3o", "", "2x1o+5x1o"]
IRREPS = [Irrep(degree, parity) for degree in range(4) for parity in (1, -1)]


@pytest.mark.parametrize("text", TEXTS)
def test_sums_are_read_counted_and_written_as_e3nn_does(text):
    found, expected = Irreps(text), o3.Irreps(text)
    assert str(found) == str(expected)
    assert [(mul, ir.l, ir.p, ir.dim) for mul, ir in found] == [
        (mul, ir.l, ir.p, ir.dim) for mul, ir in expected
    ]
    assert found.dim == expected.dim
    assert found == Irreps(str(found)) == Irreps(found)
    if text:
        assert found.lmax == expected.lmax
    for ir in IRREPS:
        assert found.count(ir) == expected.count(str(ir))


def test_products_scalars_and_order_are_those_of_e3nn():
    for a, b in product(IRREPS, repeat=2):
        theirs = o3.Irrep(str(a)), o3.Irrep(str(b))
        assert list(map(str, a * b)) == list(map(str, theirs[0] * theirs[1]))
        assert (a < b) == (theirs[0] < theirs[1])
    assert [ir for ir in IRREPS if ir.is_scalar()] == [SCALAR]


@pytest.mark.parametrize("text", ["water", "0", "1x", "2x0e+", "x0e", "-1x0e", "1.5x0e", "2x0f"])
def test_what_is_no_sum_of_irreps_is_refused_as_e3nn_refuses_it(text):
    with pytest.raises(ValueError, match="is not a sum of irreps"):
        Irreps(text)
    with pytest.raises(ValueError, match="Unable to convert"):
        o3.Irreps(text)
