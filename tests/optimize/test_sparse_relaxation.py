"""Relaxation of large cells: its sparse method, forced on small cells, against the dense one."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import molecule
from ase.constraints import FixAtoms, FixCartesian, FixCom
from helpers import mostly_slow

import mace_functional as mf
from mace_functional.optimize import relaxation
from mace_functional.optimize.limited_hessian import LimitedHessian


@pytest.fixture
def dense(model):
    """Function that relaxes by the dense method."""
    return lambda atoms, **options: mf.relax(model, atoms, **options)


@pytest.fixture
def sparse(model, monkeypatch):
    """Function that relaxes by the sparse method, whatever the size."""

    def relax(atoms, **options):
        with monkeypatch.context() as patch:
            patch.setattr(relaxation, "MAX_DENSE_ATOMS", 0)
            return mf.relax(model, atoms, **options)

    return relax


def rattled(seed=0):
    quartz = mf.example_structure("quartz")
    quartz.rattle(0.1, seed=seed)
    return quartz


@pytest.mark.parametrize(
    "options",
    mostly_slow(
        [
            {},
            {"relax_cell": False},
            {"relax_cell": "isotropic"},
            {"relax_cell": [0, 0, 1, 0, 0, 0]},
            {"pressure": 5.0},
        ],
        [{}, {"relax_cell": [0, 0, 1, 0, 0, 0]}],
    ),
    ids=str,
)
def test_same_minimum_as_the_dense_method(options, dense, sparse):
    start = rattled()
    expected, found = dense(start, fmax=1e-6, **options), sparse(start, fmax=1e-6, **options)
    assert found.converged, found.reason
    assert found.last.residual <= 1e-6
    assert abs(found.energy - expected.energy) < 1e-8
    np.testing.assert_allclose(found.atoms.cell.array, expected.atoms.cell.array, atol=1e-4)
    assert found.n_gradients <= expected.n_gradients + 8


@pytest.mark.parametrize(
    "constraint",
    [
        pytest.param(FixAtoms([2, 5]), marks=pytest.mark.slow),
        FixCartesian([1, 2], mask=(True, False, True)),
    ],
    ids=lambda c: type(c).__name__,
)
def test_constraints_hold(constraint, dense, sparse):
    start = rattled()
    start.set_constraint(constraint)
    found = sparse(start, relax_cell=False, fmax=1e-5)
    assert found.converged, found.reason
    expected = start.copy()
    expected.set_positions(found.atoms.positions)
    np.testing.assert_allclose(found.atoms.positions, expected.positions, atol=1e-12)
    energy = dense(start, relax_cell=False, fmax=1e-5).energy
    assert abs(found.energy - energy) < 1e-7


def test_centre_of_mass_and_symmetry_take_the_dense_method(model, monkeypatch):
    monkeypatch.setattr(relaxation, "MAX_DENSE_ATOMS", 0)
    ethanol = mf.example_structure("ethanol")
    ethanol.set_constraint(FixCom())
    for atoms, symprec in ((ethanol, None), (mf.example_structure("quartz"), 1e-3)):
        search = relaxation.Relaxation(model, atoms, True, 0.0, symprec)
        search.begin()
        assert not isinstance(search.state.hessian, LimitedHessian)
    search = relaxation.Relaxation(model, mf.example_structure("quartz"), True, 0.0, None)
    search.begin()
    assert isinstance(search.state.hessian, LimitedHessian)


@pytest.mark.parametrize("method", ["dense", "sparse"])
def test_squeezed_bonds_take_few_gradients(method, request):
    """Forces are 12 to 33 eV/Å at first; a Hessian that is only updated takes 57 and 60."""
    count = 0
    for seed in range(3):
        start = mf.example_structure("benzene")
        start.rattle(0.1, seed=seed)
        found = request.getfixturevalue(method)(start, fmax=1e-3)
        assert found.converged, found.reason
        count += found.n_gradients
    assert count <= 45


def test_leaves_a_saddle_point(model, sparse):
    planar = molecule("NH3")
    planar.positions[:, 2] = 0.0
    found = sparse(planar, fmax=1e-5)
    assert found.converged, found.reason
    assert np.ptp(found.atoms.positions[:, 2]) > 0.1
    assert mf.gamma_modes(model, found.atoms).n_imaginary == 0


class InterruptedByUserError(Exception):
    """The user has stopped the relaxation."""


def test_interrupted_relaxation_continues_as_if_it_had_not_been(sparse, tmp_path):
    path, start = tmp_path / "state.npz", rattled()
    whole = sparse(start, fmax=1e-6)
    seen = []

    def stop(_, step):
        seen.append(step)
        if len(seen) == 6:
            raise InterruptedByUserError

    with pytest.raises(InterruptedByUserError):
        sparse(start, fmax=1e-6, checkpoint=path, callback=stop)
    second = sparse(start, fmax=1e-6, checkpoint=path)
    assert second.converged
    before = [step.energy for step in whole.history[:7]]
    assert [step.energy for step in second.history[:7]] == before  # then rounding differs
    assert abs(second.n_gradients - whole.n_gradients) <= 3
    assert abs(second.energy - whole.energy) < 1e-9
    np.testing.assert_allclose(second.atoms.cell.array, whole.atoms.cell.array, atol=1e-5)
    held = start.copy()
    held.set_constraint(FixAtoms([0]))
    with pytest.raises(ValueError, match="differs in constraints"):
        sparse(held, fmax=1e-6, checkpoint=path)
