"""Energy, forces and virial from one gradient, beside derivatives that are taken one by one."""

from __future__ import annotations

import pytest
import torch
from helpers import assert_close, random

import mace_functional as mf
from mace_functional.derivatives.forces_and_virial import energy_forces_virial


@pytest.mark.parametrize("per_atom", [False, True])
def test_forces_and_virial_are_those_of_separate_gradients(model, per_atom):
    atoms = mf.example_structure("quartz")
    atoms.rattle(0.05, seed=0)
    s = mf.from_ase(atoms, model)
    whole = mf.energy_fn(model, s.topology)
    arguments = s.positions, s.cell, model.params
    found = energy_forces_virial(mf.energy_fn(model, s.topology, per_atom=per_atom))(*arguments)
    volume = torch.linalg.det(s.cell).abs()
    assert_close(found.energy, whole(*arguments))
    assert found.energies.shape == ((len(atoms),) if per_atom else ())
    assert_close(found.forces, mf.forces(whole)(*arguments))
    assert_close(found.virial, mf.stress(whole)(*arguments) * volume)


def test_they_can_be_differentiated_again():
    """Of pairs of springs: the derivative of the forces is the Hessian."""

    def energy(x, cell, k):
        return 0.5 * k * ((x[0] - x[1]) ** 2).sum() + 0.1 * k * (cell**2).sum()

    x, v = random(2, 3), random(2, 3, seed=1)
    cell, k = random(3, 3, seed=2), torch.tensor(3.0, dtype=torch.float64)
    derivatives = energy_forces_virial(energy)
    change = torch.func.jvp(lambda x: derivatives(x, cell, k).forces, (x,), (v,))[1]
    assert_close(change, -3.0 * torch.stack([v[0] - v[1], v[1] - v[0]]))
    virial = torch.func.grad(lambda k: derivatives(x, cell, k).virial.trace())(k)
    assert_close(virial, derivatives(x, cell, torch.ones_like(k)).virial.trace())


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_they_are_the_same_where_backward_is_switched_off(model, context):
    s = mf.from_ase(mf.example_structure("ethanol"), model)
    arguments = s.positions, s.cell, model.params
    derivatives = energy_forces_virial(mf.energy_fn(model, s.topology))
    with context():
        found = derivatives(*arguments)
    assert_close(found.forces, derivatives(*arguments).forces)
    assert found.forces.abs().max() > 1e-2


def test_they_depend_on_parameters_that_require_grad():
    def energy(x, cell, k):
        return 0.5 * k * (x**2).sum()

    k = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    x, cell = random(2, 3), random(3, 3, seed=1)
    found = energy_forces_virial(energy)(x, cell, k)
    assert_close(torch.autograd.grad(found.forces.sum(), k)[0], -x.sum())


@pytest.mark.parametrize("constant", [True, False])
def test_energies_that_ignore_positions_or_cell_have_no_forces_or_virial(constant):
    def energy(x, cell):
        return torch.ones((), dtype=x.dtype) if constant else (cell**2).sum()

    x, cell = random(2, 3), random(3, 3, seed=1)
    found = energy_forces_virial(energy)(x, cell)
    assert_close(found.forces, torch.zeros_like(x))
    assert_close(found.virial, (0 if constant else 2) * cell.T @ cell)
    assert not found.energies.requires_grad
