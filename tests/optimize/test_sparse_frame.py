"""Lowest modes of large cells: the sparse model, forced on small cells, against the dense one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.constraints import FixAtoms, FixCartesian, FixCom
from helpers import mostly_slow
from hessian_operators import CRYSTAL, MOLECULE, dense_spectrum, operator, quadratic
from pair_crystals import relaxed, xenon

import mace_functional as mf
from mace_functional.optimize import lowest_modes as search
from mace_functional.optimize.free_structure import FreeStructure
from mace_functional.optimize.lowest_modes import lowest_modes
from mace_functional.optimize.sparse_frame import SparseFrame, sparse_frame
from mace_functional.optimize.stability import check_stability
from mace_functional.optimize.valence_hessian import valence_hessian
from mace_functional.structure.connectivity import Parts


@pytest.fixture
def sparse(monkeypatch):
    """Search with the sparse model, whatever the size."""

    def called(function, *args, **options):
        with monkeypatch.context() as patch:
            patch.setattr(search, "MAX_DENSE_ATOMS", 0)
            patch.setattr(search, "modal_frame", None)
            return function(*args, **options)

    return called


def crystal(factor=1.0, constraint=None):
    """27 atoms of xenon at their minimum, or stretched by a factor until they are unstable."""
    atoms = relaxed("fcc") * (3, 3, 3)
    atoms.set_cell(factor * atoms.cell.array, scale_atoms=True)
    atoms.set_constraint(constraint)
    return atoms


def turned_ethane():
    ethane = molecule("C2H6")
    half = ethane[[k for k in range(8) if ethane.positions[k, 2] > 0]]
    half.rotate(60, "z")
    return half + ethane[[k for k in range(8) if ethane.positions[k, 2] <= 0]]


@pytest.mark.parametrize(
    ("name", "stable"),
    mostly_slow(
        [("crystal", True), ("stretched", False), ("ethanol", True), ("ethane", False)],
        [("crystal", True), ("stretched", False)],
    ),
)
def test_same_verdict_and_lowest_mode_as_with_the_dense_model(name, stable, model, sparse):
    potential, atoms = {
        "crystal": lambda: (xenon(), crystal()),
        "stretched": lambda: (xenon(), crystal(1.12)),
        "ethanol": lambda: (model, mf.relax(model, mf.example_structure("ethanol")).atoms),
        "ethane": lambda: (model, turned_ethane()),
    }[name]()
    expected = check_stability(potential, atoms)
    found = sparse(check_stability, potential, atoms)
    assert found.stable is expected.stable is stable
    assert found.certain is expected.certain is True
    assert found.outcome is expected.outcome
    assert found.n_hvps <= expected.n_hvps + 8
    assert found.largest_force == pytest.approx(expected.largest_force)
    op = mf.HessianOperator.from_potential(potential, atoms)
    lowest, same = lowest_modes(op, 4), sparse(lowest_modes, op, 4)
    assert same.converged
    torch.testing.assert_close(same.eigenvalues, lowest.eigenvalues, rtol=1e-7, atol=1e-9)
    overlap = torch.linalg.svdvals(same.modes.flatten(1) @ lowest.modes.flatten(1).mT)
    if stable and name != "crystal":  # modes of a crystal are degenerate beyond the fourth
        torch.testing.assert_close(overlap, torch.ones_like(overlap), rtol=1e-4, atol=0)
        assert found.frequency == pytest.approx(float(lowest.frequencies[0]), rel=1e-2)


@pytest.mark.parametrize(
    "constraint",
    [FixAtoms([0, 4]), FixCartesian([1, 2], mask=(True, False, True))],
    ids=lambda c: type(c).__name__,
)
def test_held_atoms_stay(constraint, sparse):
    atoms = crystal(constraint=constraint)
    op = mf.HessianOperator.from_potential(xenon(), atoms)
    expected, found = lowest_modes(op, 3), sparse(lowest_modes, op, 3)
    torch.testing.assert_close(found.eigenvalues, expected.eigenvalues, rtol=1e-7, atol=0)
    moved = atoms.copy()
    moved.set_positions(atoms.positions + found.modes[0].numpy())
    np.testing.assert_allclose(moved.positions - atoms.positions, found.modes[0], atol=1e-12)
    verdict = sparse(check_stability, xenon(), atoms)
    assert verdict.stable
    assert verdict.frequency == pytest.approx(float(expected.frequencies[0]), rel=1e-2)
    assert verdict.largest_force == pytest.approx(
        check_stability(xenon(), atoms).largest_force, abs=1e-12
    )


def test_a_held_centre_of_mass_takes_the_dense_model(monkeypatch):
    free = check_stability(xenon(), crystal()).frequency
    monkeypatch.setattr(search, "MAX_DENSE_ATOMS", 0)
    monkeypatch.setattr(search, "sparse_frame", None)
    held = check_stability(xenon(), crystal(constraint=FixCom())).frequency
    assert held == pytest.approx(free, rel=1e-2)


def test_parts_and_linear_molecules_have_their_rigid_motions(model, sparse):
    far = molecule("H2O")
    far.positions += 20.0
    pair = mf.HessianOperator.from_potential(model, molecule("H2O") + far)
    expected, found = lowest_modes(pair, 6), sparse(lowest_modes, pair, 6)
    torch.testing.assert_close(found.eigenvalues, expected.eigenvalues, rtol=1e-7, atol=0)
    with pytest.raises(ValueError, match="from 1 to 6, not 7"):
        sparse(lowest_modes, pair, 7)
    straight = mf.relax(model, molecule("CO2"), fmax=1e-5).atoms
    op, s = operator(model, straight)
    found = sparse(lowest_modes, op, 4, pbc=MOLECULE, numbers=s.numbers)
    exact = dense_spectrum(op, MOLECULE)
    torch.testing.assert_close(found.eigenvalues, exact, rtol=1e-7, atol=1e-9)
    atom = quadratic(torch.eye(3).double(), torch.zeros(1, 3).double())
    with pytest.raises(ValueError, match="without internal motions"):
        sparse(lowest_modes, atom, 1, pbc=MOLECULE, numbers=[18])


@pytest.mark.parametrize("stiff", [15, 25, 35])
def test_a_stiff_bond_that_is_unstable_is_found(stiff, sparse):
    positions = torch.tensor(molecule("C6H6").positions)
    numbers = [6] * 6 + [1] * 6
    exact = valence_hessian(positions, torch.zeros(3, 3), numbers, MOLECULE)
    values, vectors = torch.linalg.eigh(exact)
    broken = exact - (values[stiff] + 0.01) * torch.outer(vectors[:, stiff], vectors[:, stiff])
    op = quadratic(broken, positions)
    found = sparse(lowest_modes, op, 1, pbc=MOLECULE, numbers=numbers)
    assert found.eigenvalues.item() == pytest.approx(-0.01, rel=1e-8)


@pytest.fixture
def frame_and_model():
    """The frame of a crystal with few lowest eigenvectors, and its model K as a matrix."""
    atoms = crystal()
    op = mf.HessianOperator.from_potential(xenon(), atoms)
    structure = FreeStructure(CRYSTAL, atoms.numbers.tolist(), Parts.whole(27, CRYSTAL), None)
    frame = sparse_frame(op, structure, 1)
    assert isinstance(frame, SparseFrame)
    unit = torch.eye(81, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(frame.stiffen(frame.components(unit)))
    assert values[:3].abs().max() < 1e-12  # translations
    return frame, values[3:], vectors[:, 3:]


def test_model_and_its_inverse_are_those_of_a_matrix_without_rigid_motions(frame_and_model):
    frame, values, vectors = frame_and_model
    assert frame.n_modes == len(values) == 78
    assert values.min() > 0
    v = frame.components(torch.randn(81, 2, generator=torch.Generator().manual_seed(1)).double())
    torch.testing.assert_close(frame.soften(frame.stiffen(v)), v, rtol=1e-9, atol=1e-9)
    expected = vectors @ ((vectors.mT @ v) / values[:, None])
    torch.testing.assert_close(frame.soften(v), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("theta", [-0.5, 0.5, 3.0])
@pytest.mark.parametrize("f", [0.1, 1.0])
def test_errors_are_bounds_of_the_right_size(theta, f, frame_and_model):
    frame, values, vectors = frame_and_model
    r = frame.components(torch.randn(81, 3, generator=torch.Generator().manual_seed(2)).double())
    theta = theta * values[:3]
    gaps = 0.1 * values[:3]
    weights = 1 / (f * values[:, None] - theta).maximum(gaps)
    exact = ((vectors.mT @ r) ** 2 * weights).sum(0)
    found = frame.errors(r, theta, gaps, f)
    assert (found >= exact * (1 - 1e-9)).all()
    assert (found <= 10 * exact).all()


def test_a_cell_of_more_than_300_atoms_takes_no_dense_model(monkeypatch):
    """Its lowest mode is the lowest one of the primitive cell on the mesh that it holds."""
    monkeypatch.setattr(search, "modal_frame", None)
    primitive = relaxed("fcc")
    found = check_stability(xenon(), primitive * (7, 7, 7))
    assert found.stable
    assert found.certain
    mesh = mf.Mesh.of(primitive, (7, 7, 7))
    modes = mf.mesh_modes(mf.phonons_of(xenon(), primitive), mesh)
    frequencies = modes.frequencies_in("cm-1")
    lowest = float(frequencies[frequencies.abs() > 1e-3].min())
    assert found.frequency == pytest.approx(lowest, rel=1e-2)
