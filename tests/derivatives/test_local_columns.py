"""Columns of a crystal in their neighbourhoods, against Hessians of supercells."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import make_supercell
from crystals import carbide, slab
from engine_settings import MODELS
from helpers import mostly_slow
from models import build

import mace_functional as mf
from mace_functional.derivatives import local_columns as local_columns_module
from mace_functional.derivatives.local_columns import Column, LocalColumns

UNIT = torch.eye(3, dtype=torch.float64)
SETTINGS = ("residual", "as MACE-OMOL", "as MACE-MPA-0", "density then attention")


def local_columns(model: mf.MaceModel, atoms: object, **options: object) -> LocalColumns:
    s = mf.from_ase(atoms, model)
    return LocalColumns(model, s.graph, s.positions, s.cell, model.params, **options)


def column_of(
    model: mf.MaceModel,
    atoms: object,
    atom: int,
    displacements: torch.Tensor = UNIT,
    **options: object,
) -> Column:
    (column,) = local_columns(model, atoms, **options).columns([atom], displacements[None])
    return column


def stiff(name: str, **settings: object) -> mf.MaceModel:
    """A model of short range whose force constants from afar exceed rounding errors."""
    settings = MODELS[name] | {"r_max": 2.8, "atomic_inter_scale": 80.0} | settings
    module = build(**settings)
    return mf.load_model(module, head=module.heads[-1])


def folded(column: Column, repeats: tuple[int, int, int], n_atoms: int) -> np.ndarray:
    """Sum the images of a column that are one atom of a supercell, (displacements, cells, N, 3)."""
    cells = np.ravel_multi_index((column.cells % repeats).T, repeats)
    total = np.zeros((len(column.values), int(np.prod(repeats)), n_atoms, 3))
    for row, values in zip(total, column.values, strict=True):
        np.add.at(row, (cells, column.atom), values)
    return total


@pytest.mark.parametrize("name", mostly_slow(SETTINGS, {"residual", "as MACE-OMOL"}))
def test_folded_column_is_that_of_a_supercell(name):
    """Whatever the supercell's size: columns longer than it overlap with themselves."""
    model, atoms, repeats = stiff(name), slab(), (2, 3, 1)
    column = column_of(model, atoms, 1)
    large = make_supercell(atoms, np.diag(repeats), order="cell-major")
    s = mf.from_ase(large, model)
    hessian = mf.hessian(mf.energy_fn(model, s.graph))(s.positions, s.cell, model.params)
    shifts = large.positions[::2] - atoms.positions[0]
    cells = np.rint(shifts @ np.linalg.inv(atoms.cell.complete())).astype(int) % repeats
    order = np.ravel_multi_index(cells.T, repeats).argsort()
    expected = hessian[1].reshape(3, 6, 2, 3)[:, order]
    assert np.abs(column.cells).max() > 2
    assert expected.abs().min() > 1e-8
    np.testing.assert_allclose(folded(column, repeats, 2), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("options", [{"chunk_size": 1}, {"chunk_size": None}])
def test_chunks_and_combinations_of_displacements_do_not_matter(options):
    model = stiff("residual")
    displacements = torch.tensor([[0.3, -0.2, 0.9], [1.0, 0.5, 0.0]], dtype=torch.float64)
    found = column_of(model, carbide(), 0, displacements, **options)
    units = column_of(model, carbide(), 0)
    expected = np.tensordot(displacements.numpy(), units.values, 1)
    np.testing.assert_allclose(found.values, expected, rtol=0, atol=1e-12)


def test_atoms_that_share_vectors_have_their_own_columns(monkeypatch):
    model = stiff("residual")
    single = [column_of(model, carbide(), atom) for atom in (1, 0, 1)]
    for together in (local_columns_module.TOGETHER, 1):
        monkeypatch.setattr(local_columns_module, "TOGETHER", together)
        columns = local_columns(model, carbide()).columns([1, 0, 1], UNIT.expand(3, 3, 3))
        for found, expected in zip(columns, single, strict=True):
            np.testing.assert_array_equal(found.atom, expected.atom)
            np.testing.assert_array_equal(found.cells, expected.cells)
            np.testing.assert_allclose(found.values, expected.values, rtol=0, atol=1e-12)


def test_a_budget_that_is_too_small_is_told():
    with pytest.raises(MemoryError, match="memory_budget"):
        local_columns(stiff("residual"), carbide(), memory_budget=2**10)


def test_without_autograd_they_are_the_same():
    model = stiff("one layer")
    expected = column_of(model, slab(), 0)
    with torch.inference_mode():
        found = column_of(model, slab(), 0)
    np.testing.assert_array_equal(found.values, expected.values)


def test_columns_reach_as_many_edges_as_messages_do():
    """Layers are found from what depends on what, also of several irreps and of attention."""
    for name, layers in (("one layer", 1), ("residual", 2), ("density then attention", 2)):
        assert local_columns(stiff(name), slab(), chunk_size=1).n_layers == layers
