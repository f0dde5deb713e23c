"""No gradient is silently zero: public functions carry derivatives, or refuse to be transformed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from ase.build import bulk, molecule
from springs import salt, spring_phonons
from torch import Tensor
from torch.autograd.forward_ad import dual_level, make_dual
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

import mace_functional as mf
from mace_functional.autodiff.concrete import refuse_transforms
from mace_functional.interop.vibrations_data import to_vibrations_data
from mace_functional.phonons.modes import modes_at_q
from mace_functional.vibrations.harmonic_modes import (
    internal_motions,
    normal_modes,
    rigid_motions,
    vibrational_frequencies,
)

WATER = molecule("H2O")
MASSES = torch.tensor(WATER.get_masses())
BENT = torch.tensor(WATER.positions)
LINEAR = torch.tensor([[0.1, 0.2, -1.1], [0.1, 0.2, 0.0], [0.1, 0.2, 1.1]], dtype=torch.float64)
MOLECULE = (False, False, False)


def springs(positions: Tensor, scale: Tensor | float = 1.0) -> Tensor:
    """An energy that knows distances and the angle."""
    left, right = positions[1] - positions[0], positions[2] - positions[0]
    lengths = torch.stack([(left**2).sum().sqrt(), (right**2).sum().sqrt()])
    cosine = left @ right / lengths.prod()
    return scale * (20 * ((lengths - 0.97) ** 2).sum() + 2 * (cosine + 0.25) ** 2)


def vibrations(positions: Tensor, scale: Tensor | float = 1.0, rotations: int = 3) -> Tensor:
    matrix = hessian(springs)(positions, scale).reshape(9, 9)
    return vibrational_frequencies(matrix, MASSES, positions, rotations=rotations)


# What carries derivatives


def test_vibrational_frequencies_are_those_of_the_projected_hessian():
    matrix = hessian(springs)(BENT)
    found = vibrational_frequencies(matrix, MASSES, BENT)
    expected = normal_modes(matrix, MASSES, BENT, pbc=MOLECULE)
    torch.testing.assert_close(found, expected.frequencies)
    apart = torch.randn(9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    apart = apart @ apart.mT  # of nothing that is at rest
    for positions, rotations, options in (
        (BENT, 3, {"pbc": MOLECULE}),
        (LINEAR, 2, {"pbc": MOLECULE}),
        (BENT, 0, {"pbc": (True, True, True)}),
        (
            BENT,
            1,
            {
                "pbc": (False, True, False),
                "cell": torch.tensor([[0, 0, 0], [1.0, 2, 3], [0, 0, 0]]),
            },
        ),
    ):
        axis = options["cell"][1].double() if rotations == 1 else None
        found = vibrational_frequencies(apart, MASSES, positions, rotations=rotations, axis=axis)
        expected = normal_modes(apart, MASSES, positions, **options).frequencies
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("positions", "rotations"), [(BENT, 3), (LINEAR, 2), (BENT, 0)])
def test_vibrational_frequencies_have_the_derivatives_of_finite_differences(positions, rotations):
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(3, 3, dtype=torch.float64, generator=generator)
    general = torch.randn(9, 9, dtype=torch.float64, generator=generator)
    general = general @ general.mT + torch.eye(9)

    def at(step: Tensor) -> Tensor:
        # Off the line, a rotation about it would come into being: turn and stretch alone there.
        moved = (
            positions * (1 + step * direction.diagonal())
            if rotations == 2
            else (positions + step * direction)
        )
        matrix = general + step * general**2
        return vibrational_frequencies(matrix, MASSES * (1 + step), moved, rotations=rotations)

    step = torch.tensor(0.0, dtype=torch.float64)
    exact = jacrev(at)(step)
    torch.testing.assert_close(jacfwd(at)(step), exact)
    differences = (at(step + 1e-5) - at(step - 1e-5)) / 2e-5
    torch.testing.assert_close(exact, differences, rtol=1e-6, atol=1e-6)
    second = jacfwd(jacrev(at))(step)
    assert second.isfinite().all()
    differences = (jacrev(at)(step + 1e-5) - jacrev(at)(step - 1e-5)) / 2e-5
    torch.testing.assert_close(second, differences, rtol=1e-5, atol=1e-4)
    steps = torch.linspace(0, 0.1, 3, dtype=torch.float64)
    torch.testing.assert_close(vmap(at)(steps), torch.stack([at(s) for s in steps]))


def test_a_gradient_through_a_model_passes_vibrational_frequencies():
    model = mf.load_model("embedded")
    s = mf.from_ase(WATER, model)
    energy = mf.energy_fn(model, s.graph)
    matrix = mf.hessian(energy)

    def zero_point(scale: Tensor) -> Tensor:
        found = matrix(scale * s.positions, s.cell, model.params)
        return vibrational_frequencies(found, s.masses, scale * s.positions).sum()

    one = torch.tensor(1.0, dtype=torch.float64)
    slope = jvp(zero_point, (one,), (one,))[1]
    differences = (zero_point(one + 1e-4) - zero_point(one - 1e-4)) / 2e-4
    torch.testing.assert_close(slope, differences, rtol=1e-5, atol=0)
    assert slope.abs() > 100


def test_smeared_densities_of_states_on_a_given_grid_have_derivatives():
    modes = mf.mesh_modes(spring_phonons(salt()), mf.Mesh.of(salt(), (2, 2, 2)))

    def density(step: Tensor) -> Tensor:
        there = replace(modes, eigenvalues=modes.eigenvalues * (1 + step))
        return mf.density_of_states(
            there, method="gaussian", width=5.0, grid=torch.linspace(1.0, 400.0, 9)
        ).total

    step = torch.tensor(0.0, dtype=torch.float64)
    exact = jacfwd(density)(step)
    torch.testing.assert_close(jacrev(density)(step), exact)
    differences = (density(step + 1e-6) - density(step - 1e-6)) / 2e-6
    torch.testing.assert_close(exact, differences, rtol=1e-5, atol=1e-7)
    with pytest.raises(ValueError, match=r"density_of_states .* no derivatives"):
        grad(
            lambda t: mf.density_of_states(
                replace(modes, eigenvalues=modes.eigenvalues * (1 + t))
            ).total.sum()
        )(step)


def test_a_number_of_dropped_modes_can_be_mapped_over():
    frequencies = torch.tensor([[-1.0, 2.0, 300.0], [1.0, 200.0, 300.0]], dtype=torch.float64)
    drop = torch.tensor([2, 1])
    found = vmap(lambda f, d: mf.harmonic_thermo(f, 300.0, drop=d, unit="cm-1").entropy)(
        frequencies, drop
    )
    expected = [
        mf.harmonic_thermo(f, 300.0, drop=d, unit="cm-1").entropy
        for f, d in zip(frequencies, drop, strict=True)
    ]
    torch.testing.assert_close(found, torch.stack(expected))


# What refuses

MODEL = mf.load_model("embedded")
CRYSTAL = bulk("NaCl", "rocksalt", a=5.6)
PHONONS = spring_phonons(salt())
MESH = mf.Mesh.of(salt(), (1, 1, 1))
STRUCTURE = mf.from_ase(WATER, MODEL)
HESSIAN = hessian(springs)(BENT).reshape(9, 9)


def scaled_model(scale: Tensor) -> mf.MaceModel:
    return replace(MODEL, params={name: scale * value for name, value in MODEL.params.items()})


def scaled_phonons(scale: Tensor) -> mf.Phonons:
    return replace(PHONONS, masses=scale * PHONONS.masses)


def operator(scale: Tensor) -> mf.HessianOperator:
    return mf.HessianOperator(lambda x, _, k: springs(x, k), BENT, torch.eye(3), scale)


REFUSED: dict[str, Callable[[Tensor], Any]] = {
    "normal_modes": lambda t: normal_modes(t * HESSIAN, MASSES, BENT, pbc=MOLECULE).frequencies,
    "normal_modes of positions": lambda t: (
        normal_modes(HESSIAN, MASSES, t * BENT, pbc=MOLECULE).frequencies
    ),
    "rigid_motions": lambda t: rigid_motions(t * BENT, MASSES),
    "internal_motions": lambda t: internal_motions(t * torch.eye(9, 3, dtype=torch.float64)),
    "gamma_modes": lambda t: mf.gamma_modes(scaled_model(t), WATER).frequencies,
    "phonons_of": lambda t: mf.phonons_of(scaled_model(t), CRYSTAL).masses,
    "force_constants": lambda t: mf.force_constants(scaled_model(t), CRYSTAL).values,
    "relax": lambda t: mf.relax(scaled_model(t), WATER).atoms,
    "find_saddle": lambda t: mf.find_saddle(scaled_model(t), WATER).atoms,
    "follow_mode": lambda t: mf.follow_mode(MODEL, WATER, t * BENT).atoms,
    "check_stability": lambda t: mf.check_stability(scaled_model(t), WATER).mode,
    "lowest_modes": lambda t: (
        mf.lowest_modes(operator(t), 1, pbc=MOLECULE, preconditioner=HESSIAN).eigenvalues
    ),
    "band_structure": lambda t: mf.band_structure(PHONONS, t * torch.ones(1, 3)).frequencies,
    "modes_at_q": lambda t: modes_at_q(PHONONS, t * torch.ones(3))[0],
    "group_velocities": lambda t: mf.group_velocities(PHONONS, t * torch.ones(3)),
    "mesh_modes": lambda t: mf.mesh_modes(scaled_phonons(t), MESH).eigenvalues,
    "to_vibrations_data": lambda t: to_vibrations_data(t * HESSIAN, WATER),
    "Structure.rebuild": lambda t: STRUCTURE.rebuild(t * STRUCTURE.positions).positions,
}

TRANSFORMS: dict[str, Callable[[Callable[[Tensor], Any], Tensor], Any]] = {
    "grad": lambda f, t: grad(f)(t),
    "jvp": lambda f, t: jvp(f, (t,), (t,)),
    "vmap": lambda f, t: vmap(f)(t[None]),
    "requires_grad": lambda f, t: f(t.clone().requires_grad_()),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", REFUSED)
def test_functions_that_read_numbers_refuse_transforms_and_say_what_to_use(name, transform):
    one = torch.tensor(1.0, dtype=torch.float64)
    with pytest.raises(ValueError, match=rf"{name.split(' ')[0]} reads numbers .* Use \w+"):
        TRANSFORMS[transform](REFUSED[name], one)


def test_plain_tensors_and_no_grad_are_accepted():
    one = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        assert len(REFUSED["normal_modes"](one)) == 3
    assert len(REFUSED["normal_modes"](one.detach())) == 3
    with dual_level(), pytest.raises(ValueError, match="forward-mode"):
        refuse_transforms("f", "g", [make_dual(one.detach(), one.detach())])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vibrational_frequencies(HESSIAN, MASSES, BENT, rotations=4), "0, 1, 2 or 3"),
        (lambda: vibrational_frequencies(HESSIAN, MASSES, BENT, rotations=1), "give an axis"),
        (lambda: vibrational_frequencies(HESSIAN, MASSES[:2], BENT), "do not fit"),
        (lambda: vibrational_frequencies(HESSIAN, MASSES, BENT, unit="Hz"), "unknown unit"),
    ],
)
def test_bad_input_of_vibrational_frequencies_is_explained(call, message):
    with pytest.raises(ValueError, match=message):
        call()
