"""Moduli of elastic tensors against the formulas of each crystal class."""

from __future__ import annotations

import math

import pytest
import torch
from elastic_tensors import C11, C12, C44, cubic, quartz
from helpers import assert_close, random
from scipy.spatial.transform import Rotation
from torch import Tensor

from mace_functional.elasticity import from_voigt, to_voigt
from mace_functional.elasticity.moduli import (
    compliance,
    hill_moduli,
    poisson_ratio,
    reuss_moduli,
    shear_modulus,
    universal_anisotropy,
    voigt_moduli,
    young_modulus,
)


def turned(c: Tensor) -> Tensor:
    q = torch.as_tensor(Rotation.from_euler("xyz", [0.3, 1.1, -0.7]).as_matrix())
    return torch.einsum("ai,bj,ck,dl,ijkl", q, q, q, q, c)


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def test_cubic_moduli_are_those_of_the_formulas():
    bulk, voigt = (C11 + 2 * C12) / 3, (C11 - C12 + 3 * C44) / 5
    reuss = 5 * (C11 - C12) * C44 / (4 * C44 + 3 * (C11 - C12))
    for c in (cubic(), turned(cubic())):
        assert_close(voigt_moduli(c).bulk, number(bulk), 1e-13)
        assert_close(reuss_moduli(c).bulk, number(bulk), 1e-13)
        assert_close(voigt_moduli(c).shear, number(voigt), 1e-6)
        assert_close(reuss_moduli(c).shear, number(reuss), 1e-6)
        hill = hill_moduli(c)
        g = (voigt + reuss) / 2
        assert_close(hill.young, number(9 * bulk * g / (3 * bulk + g)), 1e-6)
        assert_close(hill.poisson, number((3 * bulk - 2 * g) / (6 * bulk + 2 * g)), 1e-6)
        assert_close(universal_anisotropy(c), number(5 * voigt / reuss - 5), 1e-6)


def test_reuss_moduli_are_those_of_the_compliance_matrix():
    s = torch.linalg.inv(to_voigt(turned(quartz())))
    a, b, c = s.diagonal()[:3].sum(), s[0, 1] + s[0, 2] + s[1, 2], s.diagonal()[3:].sum()
    found = reuss_moduli(turned(quartz()))
    assert_close(found.bulk, 1 / (a + 2 * b), 1e-12)
    assert_close(found.shear, 15 / (4 * a - 4 * b + 3 * c), 1e-12)


def test_compliance_is_the_inverse():
    s = compliance(quartz())
    identity = torch.einsum("ijkl,klmn->ijmn", quartz(), s)
    e = random(3, 3)
    assert_close(torch.einsum("ijkl,kl->ij", identity, e), (e + e.T) / 2, 1e-13)


def test_young_modulus_of_a_cubic_crystal_along_directions():
    s11, s12, s44 = (to_voigt(compliance(cubic()))[i] for i in ((0, 0), (0, 1), (3, 3)))
    s44 = 4 * s44
    n = random(20, 3)
    l2 = (n / n.norm(dim=1, keepdim=True)).square()
    mixed = l2[:, 0] * l2[:, 1] + l2[:, 1] * l2[:, 2] + l2[:, 0] * l2[:, 2]
    expected = 1 / (s11 - 2 * (s11 - s12 - s44 / 2) * mixed)
    assert_close(young_modulus(cubic(), n), expected, 1e-12)
    assert_close(
        poisson_ratio(cubic(), torch.tensor([1.0, 0, 0], dtype=torch.float64), n[0]), -s12 / s11
    )
    assert_close(
        shear_modulus(cubic(), torch.eye(3).double()[0], torch.eye(3).double()[1]), 1 / s44
    )


def test_tension_test_of_a_rotated_crystal():
    """A bar along n and m under a stress of 1 along n: its strains are the two moduli."""
    n, m = (
        torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64),
        torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64),
    )
    unit = n / n.norm()
    stress = torch.outer(unit, unit)
    strain = torch.einsum("ijkl,kl->ij", compliance(quartz()), stress)
    across = m / m.norm()
    assert_close(young_modulus(quartz(), n), 1 / (unit @ strain @ unit), 1e-13)
    ratio = -(across @ strain @ across) / (unit @ strain @ unit)
    assert_close(poisson_ratio(quartz(), n, m + 0.3 * n), ratio, 1e-13)


@pytest.mark.parametrize("d", [2, 3])
def test_isotropic_material_has_one_modulus_of_each_kind(d):
    k, g = 70.0, 26.0
    identity = torch.eye(d).double()
    same = torch.einsum("ij,kl->ijkl", identity, identity)
    crossed = torch.einsum("ik,jl->ijkl", identity, identity)
    c = k * same + g * (crossed + crossed.transpose(2, 3) - 2 / d * same)
    for found in (voigt_moduli(c), reuss_moduli(c), hill_moduli(c)):
        assert_close(found.bulk, number(k), 1e-12)
        assert_close(found.shear, number(g), 1e-12)
    n, m = random(7, d), random(7, d, seed=1)
    assert_close(young_modulus(c, n), hill_moduli(c).young.expand(7), 1e-12)
    assert_close(poisson_ratio(c, n, m), hill_moduli(c).poisson.expand(7), 1e-12)
    assert_close(shear_modulus(c, n, m), number(g).expand(7), 1e-12)
    assert abs(universal_anisotropy(c)) < 1e-12
    if d == 3:
        assert math.isclose(hill_moduli(c).young, 9 * k * g / (3 * k + g))


def test_moduli_have_derivatives():
    c = quartz()
    direction = from_voigt(random(6, 6, seed=2) + random(6, 6, seed=2).T)

    def shear(h: Tensor) -> Tensor:
        return hill_moduli(c + h * direction).shear

    h = 1e-4
    slope = torch.func.grad(shear)(number(0.0))
    assert_close(slope, (shear(number(h)) - shear(number(-h))) / (2 * h), 1e-8)
