"""Elastic tensors as transforms: closed formulas, differences, nested derivatives."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import keating
import pytest
import torch
from energies import case
from helpers import assert_close, mostly_slow, random
from nestings import direction_like, forward, reverse
from torch import Tensor

import mace_functional as mf
from mace_functional.elasticity import (
    birch_coefficients,
    elastic_tensor,
    from_voigt,
    internal_strain,
    ion_response,
    lagrangian_coefficients,
    to_voigt,
)
from mace_functional.structure.lattice import PERIODIC, periodic_projector

DIAMOND = keating.arguments(keating.diamond())
SQUEEZED = keating.arguments(keating.diamond(5.2))
STRAINS = torch.tensor(
    [[[0.3, 0.1, -0.2], [0.1, -0.4, 0.5], [-0.2, 0.5, 0.2]], [[0.0, 1, 0], [1, 0, 0], [0, 0, 0]]],
    dtype=torch.float64,
)


def double(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def cubic(c11: float, c12: float, c44: float) -> Tensor:
    matrix = torch.full((3, 3), c12, dtype=torch.float64)
    matrix.fill_diagonal_(c11)
    return torch.block_diag(matrix, c44 * torch.eye(3).double())


def central(f: Callable[[float], Tensor], h: float = 1e-3) -> Tensor:
    return (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h)


def relaxed_ions(x: Tensor, cell: Tensor, params: dict[str, Tensor]) -> Tensor:
    """Positions without forces of Keating's crystal, found with the second atom alone."""
    for _ in range(8):
        g = -mf.forces(keating.energy)(x, cell, params)[1]
        h = mf.hessian(keating.energy)(x, cell, params)[1, :, 1]
        x = torch.stack([x[0], x[1] - torch.linalg.solve(h, g)])
    return x


def strained_stress(strain: Tensor, arguments: tuple, relax: bool) -> Tensor:
    x, cell, params = arguments
    x, cell = x + x @ strain, cell + cell @ strain
    if relax:
        x = relaxed_ions(x, cell, params)
    return mf.stress(keating.energy)(x, cell, params)


def test_diamond_has_the_constants_of_keatings_formulas():
    c = keating.constants()
    relaxed = to_voigt(elastic_tensor(keating.energy)(*DIAMOND))
    assert_close(relaxed, cubic(c["C11"], c["C12"], c["C44"]), 1e-12)
    clamped = to_voigt(elastic_tensor(keating.energy, ions="clamped")(*DIAMOND))
    assert clamped[3, 3] > 1.05 * relaxed[3, 3]
    response = ion_response(keating.energy)(*DIAMOND)
    zeta_shift = c["Kleinman"] * keating.LATTICE_CONSTANT / 4
    assert_close((response[1] - response[0])[0, 1, 2], double(-zeta_shift), 1e-12)
    assert response.sum(0).abs().max() < 1e-12


def test_internal_strain_is_minus_the_forces_that_a_strain_gives():
    x, cell, params = SQUEEZED
    found = internal_strain(keating.energy)(x, cell, params)
    for strain in STRAINS:

        def forces(h: float, e: Tensor = strain) -> Tensor:
            return mf.forces(keating.energy)(x + h * x @ e, cell + h * cell @ e, params)

        assert_close(torch.einsum("iajk,jk->ia", found, strain), -central(forces), 1e-8)


@pytest.mark.parametrize("ions", ["relaxed", "clamped"])
def test_birch_coefficients_are_derivatives_of_the_stress(ions):
    """At a pressure of 13 GPa, where C12 and C44 of the tensors differ by a fifth."""
    birch = elastic_tensor(keating.energy, ions=ions)(*SQUEEZED)
    second = elastic_tensor(keating.energy, ions=ions, coefficients="second-derivative")(*SQUEEZED)
    assert (birch - second).abs().max() > 0.08 * birch.abs().max()
    for strain in STRAINS:
        slope = central(lambda h, e=strain: strained_stress(h * e, SQUEEZED, ions == "relaxed"))
        assert_close(torch.einsum("ijkl,kl->ij", birch, strain), slope, 1e-8)


def test_coefficients_of_an_anisotropic_stress():
    """They are those of a crystal whose energy is a polynomial of the Lagrangian strain."""
    stress = random(3, 3)
    stress = stress + stress.T
    lagrangian = random(6, 6, seed=1)
    lagrangian = from_voigt(lagrangian + lagrangian.T)

    def energy(e: Tensor) -> Tensor:
        eta = e + 0.5 * e @ e
        return (stress * eta).sum() + 0.5 * torch.einsum("ij,ijkl,kl", eta, lagrangian, eta)

    def cauchy(e: Tensor) -> Tensor:
        f = torch.eye(3) + e
        second_piola = stress + torch.einsum("ijkl,kl->ij", lagrangian, e + 0.5 * e @ e)
        return f @ second_piola @ f.T / torch.linalg.det(f)

    symmetric = lambda f: lambda e: f(0.5 * (e + e.T))  # noqa: E731
    second = torch.func.hessian(symmetric(energy))(torch.zeros(3, 3).double())
    assert_close(lagrangian_coefficients(second, stress), lagrangian, 1e-13)
    birch = torch.func.jacfwd(symmetric(cauchy))(torch.zeros(3, 3).double())
    assert_close(birch_coefficients(second, stress), birch, 1e-13)


def test_voigt_matrix_and_tensor_are_inverse():
    matrix = random(6, 6)
    tensor = from_voigt(matrix)
    assert_close(to_voigt(tensor), matrix, 0)
    assert_close(tensor, tensor.transpose(0, 1), 0)
    assert_close(tensor, tensor.transpose(2, 3), 0)
    assert tensor[1, 2, 0, 1] == matrix[3, 5]
    assert_close(expanded_energy(tensor), expanded_energy(matrix), 1e-13)


def expanded_energy(c: Tensor) -> Tensor:
    e = STRAINS[0]
    if c.ndim == 4:
        return torch.einsum("ij,ijkl,kl", e, c, e)
    v = torch.stack([e[0, 0], e[1, 1], e[2, 2], 2 * e[1, 2], 2 * e[0, 2], 2 * e[0, 1]])
    return v @ c @ v


# ---- Derivatives of the tensor


def of_tensors(energy: Callable[..., Tensor], names: list[str]) -> Callable[..., Tensor]:
    """A number from the elastic tensor as a function of positions, cell and parameters."""

    def function(x: Tensor, cell: Tensor, *values: Tensor) -> Tensor:
        c = elastic_tensor(energy)(x, cell, dict(zip(names, values, strict=True)))
        return (c * direction_like(c, 5)).sum()

    return function


def check_derivative(f: Callable[..., Tensor], t: list[Tensor], k: int, tolerance: float) -> None:
    """Forward and reverse derivatives by argument k equal central differences."""
    d = direction_like(t[k], k)
    expected = central(lambda h: f(*t[:k], t[k] + h * d, *t[k + 1 :]), 1e-3)
    assert_close(forward(k)(f)(*t), expected, tolerance)
    assert_close(reverse(k)(f)(*t), expected, tolerance)


@pytest.mark.parametrize("k", range(4), ids=["positions", "cell", "alpha", "beta"])
def test_derivatives_of_the_tensor_are_differences(k):
    x, cell, params = SQUEEZED
    t = [x + 0.02 * random(2, 3), cell + 0.05 * random(3, 3, seed=1), *params.values()]
    check_derivative(of_tensors(keating.energy, list(params)), t, k, 1e-8)


NESTED = list(itertools.product((forward, reverse), range(3), range(4)))


@pytest.mark.parametrize(
    ("inner", "first", "second"), mostly_slow(NESTED, [(forward, 1, 0), (reverse, 0, 3)])
)
def test_nested_derivatives_of_the_tensor_are_differences(inner, first, second):
    x, cell, params = SQUEEZED
    t = [x + 0.02 * random(2, 3), cell + 0.05 * random(3, 3, seed=1), *params.values()]
    f = of_tensors(keating.energy, list(params))
    check_derivative(inner(first)(f), t, second, 1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("k", range(2), ids=["positions", "cell"])
def test_derivatives_of_the_tensor_of_a_mace_are_differences(k):
    energy, x, cell, params = case()
    name = next(name for name in params if "readout" in name)
    f = of_tensors(lambda x, h, p: energy(x, h, params | p), [name])
    t = [x, cell, params[name]]
    check_derivative(f, t, k, 1e-6)
    check_derivative(f, t, 2, 1e-6)
    check_derivative(reverse(k)(f), t, 2, 1e-6)


def test_derivative_by_pressure():
    """Of C11 of diamond: along the volume both the strain and the pressure change."""

    def c11_and_pressure(a: Tensor) -> tuple[Tensor, Tensor]:
        x, cell, params = DIAMOND
        scaled = a / keating.LATTICE_CONSTANT * x, a / keating.LATTICE_CONSTANT * cell, params
        stress = mf.stress(keating.energy)(*scaled)
        return elastic_tensor(keating.energy)(*scaled)[0, 0, 0, 0], -stress.trace() / 3

    a = double(keating.LATTICE_CONSTANT)
    _, (dc, dp) = torch.func.jvp(c11_and_pressure, (a,), (torch.ones_like(a),))
    bulk_modulus = (keating.constants()["C11"] + 2 * keating.constants()["C12"]) / 3
    assert_close(dp, double(-3 * bulk_modulus / keating.LATTICE_CONSTANT), 1e-12)
    h = 1e-3
    (c, p), (c_before, p_before) = c11_and_pressure(a + h), c11_and_pressure(a - h)
    assert_close(dc / dp, (c - c_before) / (p - p_before), 1e-5)


# ---- What is refused, slabs


def with_pbc(*pbc: bool) -> Callable[..., Tensor]:
    def energy(x: Tensor, cell: Tensor, params: dict[str, Tensor]) -> Tensor:
        return keating.energy(x, cell, params)

    setattr(energy, PERIODIC, pbc)
    return energy


def test_a_slab_has_constants_along_its_plane_only():
    pbc = True, True, False
    crystal = elastic_tensor(keating.energy, ions="clamped")(*DIAMOND)
    slab = elastic_tensor(with_pbc(*pbc), ions="clamped")(*DIAMOND)
    p = periodic_projector(DIAMOND[1], pbc)
    assert_close(slab, torch.einsum("ai,bj,ck,dl,ijkl", p, p, p, p, crystal), 1e-12)


def test_a_molecule_has_no_elastic_constants():
    for transform in (elastic_tensor, internal_strain, ion_response):
        with pytest.raises(ValueError, match="no direction: a molecule has no strain"):
            transform(with_pbc(False, False, False))


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="ions must be 'relaxed' or 'clamped', not 'free'"):
        elastic_tensor(keating.energy, ions="free")
    with pytest.raises(ValueError, match="coefficients must be one of 'birch', 'lagrangian'"):
        elastic_tensor(keating.energy, coefficients="wallace")
    x, cell, params = DIAMOND
    with pytest.raises(ValueError, match="the cell has no volume"):
        elastic_tensor(keating.energy)(x, torch.zeros_like(cell), params)
