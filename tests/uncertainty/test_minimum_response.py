"""The minimum as a function of the parameters moves as repeated relaxations do."""

from __future__ import annotations

import pytest
import torch
from ase.build import bulk, molecule
from helpers import assert_close

import mace_functional as mf
from mace_functional.uncertainty import minimum_fn

NAME = "readouts.1.linear_2.weight"


@pytest.fixture(scope="module")
def model() -> mf.MaceModel:
    return mf.load_model("embedded")


def moved(model: mf.MaceModel, step: float) -> mf.MaceModel:
    w = model.params[NAME]
    direction = torch.sin(torch.arange(w.numel(), dtype=w.dtype)).view_as(w) * w.abs().mean()
    return model.with_params({**model.params, NAME: w + step * direction})


@pytest.mark.parametrize("name", ["water", "silicon carbide"])
def test_it_moves_as_relaxations_with_other_weights_do(model, name):
    crystal = name != "water"
    atoms = bulk("SiC", "zincblende", 4.36) if crystal else molecule("H2O")
    atoms.rattle(0.02, seed=1)
    options = {"relax_cell": True} if crystal else {}
    rest = mf.relax(model, atoms, fmax=1e-8, **options).atoms
    rest.calc = None
    s = mf.from_ase(rest, model)
    minimum = minimum_fn(model, s, cell=crystal)
    x, cell = minimum(model.params)
    assert_close(x, s.positions)
    assert_close(cell, s.cell)
    step, ends, predicted = 0.02, [], []
    for sign in (1, -1):
        changed = moved(model, sign * step)
        again = mf.relax(changed, rest, fmax=1e-8, **options).atoms
        ends.append(torch.as_tensor(again.get_all_distances(mic=crystal)))
        y, lattice = minimum(changed.params)
        atoms = rest.copy()
        atoms.set_cell(lattice.numpy())
        atoms.positions = y.numpy()
        predicted.append(torch.as_tensor(atoms.get_all_distances(mic=crystal)))
    change = ends[0] - ends[1]
    assert change.abs().max() > 1e-5
    assert_close(predicted[0] - predicted[1], change, 1e-3)


def test_a_saddle_point_is_said_and_cells_of_molecules_are_refused(model):
    straight = molecule("H2O")
    straight.positions[:, 1] = 0.0
    straight.positions[:, 2] = 0.0
    straight.positions[:, 0] = [0.0, 0.95, -0.95]
    s = mf.from_ase(straight, model)
    with pytest.warns(UserWarning, match="no minimum"):
        minimum_fn(model, s)
    with pytest.raises(ValueError, match="periodic in three directions"):
        minimum_fn(model, s, cell=True)
