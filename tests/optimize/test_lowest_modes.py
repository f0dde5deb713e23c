"""Lowest modes without the matrix."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import ase.io
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.constraints import FixAtoms
from conftest import shared_file
from helpers import mostly_slow
from hessian_operators import (
    CRYSTAL,
    MOLECULE,
    dense_spectrum,
    operator,
    quadratic,
    relaxed,
    rigid_of,
)
from torch import Tensor

import mace_functional as mf
from mace_functional.optimize.lowest_modes import LowestModes, lowest_modes
from mace_functional.optimize.stability import check_stability
from mace_functional.optimize.valence_hessian import valence_hessian
from mace_functional.vibrations.harmonic_modes import internal_motions, rigid_motions


@pytest.fixture(scope="module")
def embedded() -> mf.MaceModel:
    return mf.load_model("embedded")


def assert_lowest(
    found: LowestModes, op: mf.HessianOperator, pbc: Sequence[bool], spectrum: Tensor
) -> None:
    """Eigenvalues, multiplicities, eigenvectors, errors."""
    k, rigid = len(found.eigenvalues), rigid_of(op, pbc)
    assert found.converged, found.reason
    exact = spectrum[:k]
    assert ((found.eigenvalues - exact).abs() / exact.abs()).max() < 1e-8
    assert (found.eigenvalues - exact <= found.errors + found.rounding).all()
    columns = found.modes.reshape(k, -1).mT
    torch.testing.assert_close(columns.mT @ columns, torch.eye(k, dtype=columns.dtype))
    residuals = op @ columns - columns * found.eigenvalues
    residuals -= rigid @ (rigid.mT @ residuals)
    torch.testing.assert_close(residuals.norm(dim=0), found.residuals, rtol=1e-5, atol=1e-9)
    assert found.residuals.max() < 1e-3 * spectrum[-1]
    assert found.n_hvps <= len(spectrum)


def rattled_ethanol() -> Atoms:
    atoms = mf.example_structure("ethanol")
    atoms.rattle(0.05, seed=2)
    return atoms


@pytest.mark.parametrize(
    ("name", "k", "weighted"),
    mostly_slow(
        [
            *itertools.product(["ethanol", "benzene", "quartz"], [1, 10], [True]),
            ("ethanol", 3, False),
        ],
        [("ethanol", 1, True), ("benzene", 10, True), ("quartz", 10, True), ("ethanol", 3, False)],
    ),
)
def test_lowest_modes_are_those_of_the_matrix(embedded, name, k, weighted):
    atoms = mf.example_structure(name)
    atoms.rattle(0.02, seed=1)  # lifts near-degeneracies of the last mode with the next
    op, s = operator(embedded, atoms, weighted)
    pbc = s.graph.pbc.tolist()
    found = lowest_modes(op, k, pbc=pbc, numbers=s.numbers)
    assert_lowest(found, op, pbc, dense_spectrum(op, pbc))
    assert found.mass_weighted == weighted


def test_frequencies_are_those_of_normal_modes(embedded):
    atoms = rattled_ethanol()
    op, s = operator(embedded, atoms)
    found = lowest_modes(op, 4, pbc=MOLECULE, numbers=s.numbers)
    modes = mf.gamma_modes(embedded, atoms, unit="THz")
    torch.testing.assert_close(found.frequencies_in("THz"), modes.frequencies[:4])
    overlaps = torch.einsum("mka,nka->mn", found.modes, modes.modes[:4]).abs()
    torch.testing.assert_close(overlaps, torch.eye(4, dtype=torch.float64), atol=1e-3, rtol=0)
    plain = lowest_modes(operator(embedded, atoms, False)[0], 1, pbc=MOLECULE, numbers=s.numbers)
    with pytest.raises(ValueError, match="need masses"):
        plain.frequencies  # noqa: B018


def test_rotations_of_a_strained_molecule_are_not_among_its_modes(embedded):
    atoms = rattled_ethanol()
    op, s = operator(embedded, atoms)
    found = lowest_modes(op, 5, pbc=MOLECULE, numbers=s.numbers)
    rigid = rigid_motions(s.positions, s.masses)
    assert (found.modes.flatten(1) @ rigid).abs().max() < 1e-10
    # They have curvature here, which a search that knew nothing of them would find.
    assert (rigid * (op @ rigid)).sum(0).abs().max() > 0.1


@pytest.mark.parametrize("seed", range(5))
def test_all_of_a_degenerate_multiplet_come_out_of_a_model_of_the_same_symmetry(seed):
    """The lowest modes are a triplet of a kind of which the model has none among its softest."""
    size = 20
    positions = torch.randn(size, 3, generator=torch.Generator().manual_seed(9)).double()
    rest = internal_motions(rigid_motions(positions, torch.ones(size), pbc=CRYSTAL))
    stiffness = torch.linspace(1, 50, rest.shape[1]).double()
    exact = 0.5 * stiffness
    exact[30:33] = 0.2
    op = quadratic((rest * exact) @ rest.mT, positions)
    model = (rest * stiffness) @ rest.mT
    found = lowest_modes(op, 4, pbc=CRYSTAL, preconditioner=model, seed=seed)
    assert_lowest(found, op, CRYSTAL, exact.sort().values)
    assert found.n_hvps < rest.shape[1]


def test_a_stiff_bond_that_is_unstable_is_found():
    """What the model takes to be stiff is looked at last, and must be looked at still."""
    positions = torch.tensor(molecule("C6H6").positions)
    exact = valence_hessian(positions, torch.zeros(3, 3), [6] * 6 + [1] * 6, MOLECULE)
    values, vectors = torch.linalg.eigh(exact)
    for stiff in (15, 25, 35):
        broken = exact - (values[stiff] + 0.01) * torch.outer(vectors[:, stiff], vectors[:, stiff])
        found = lowest_modes(quadratic(broken, positions), 1, pbc=MOLECULE, preconditioner=exact)
        assert found.eigenvalues.item() == pytest.approx(-0.01, rel=1e-8)


def test_k_equal_to_all_internal_motions_gives_the_whole_spectrum(embedded):
    op, s = operator(embedded, molecule("H2O"))
    found = lowest_modes(op, 3, pbc=MOLECULE, numbers=s.numbers)
    assert_lowest(found, op, MOLECULE, dense_spectrum(op, MOLECULE))
    assert found.n_hvps == 3
    assert found.outcome is mf.Outcome.CONVERGED
    assert found.detail == "the subspace is complete"


def test_linear_molecule_has_its_bending_modes_twice(embedded):
    atoms = relaxed(embedded, molecule("CO2"), 1e-5)
    op, s = operator(embedded, atoms)
    found = lowest_modes(op, 4, pbc=MOLECULE, numbers=s.numbers)
    assert_lowest(found, op, MOLECULE, dense_spectrum(op, MOLECULE))
    bends = found.frequencies[:2]
    assert bends[0].item() == pytest.approx(bends[1].item(), rel=1e-4)
    with pytest.raises(ValueError, match="from 1 to 4, not 5"):
        lowest_modes(op, 5, pbc=MOLECULE, numbers=s.numbers)


def test_modes_of_a_structure_near_by_save_products(embedded):
    atoms = rattled_ethanol()
    op, s = operator(embedded, atoms)
    first = lowest_modes(op, 2, pbc=MOLECULE, numbers=s.numbers, tolerance=1e-4)
    again = lowest_modes(
        op, 2, pbc=MOLECULE, numbers=s.numbers, tolerance=1e-4, guess=first.modes, seed=3
    )
    assert again.converged
    assert again.n_hvps <= first.n_hvps
    with pytest.raises(ValueError, match="guess must be"):
        lowest_modes(op, 2, pbc=MOLECULE, numbers=s.numbers, guess=first.modes[:, :4])


def test_too_few_products_are_reported_and_never_exceeded(embedded):
    op, s = operator(embedded, mf.example_structure("benzene"))
    found = lowest_modes(op, 4, pbc=MOLECULE, numbers=s.numbers, max_hvps=8)
    assert not found.converged
    assert found.n_hvps == 8
    assert found.outcome is mf.Outcome.MAX_STEPS
    assert "not converged after 8 products" in found.reason
    # Ritz values are never below the eigenvalues.
    assert (found.eigenvalues >= dense_spectrum(op, MOLECULE)[:4] - 1e-10).all()
    with pytest.raises(ValueError, match="at least 4 products"):
        lowest_modes(op, 4, pbc=MOLECULE, numbers=s.numbers, max_hvps=3)


def test_single_precision_is_as_good_as_it_can_be_and_says_so():
    atoms = mf.example_structure("ethanol")
    double, s = operator(mf.load_model("embedded"), atoms)
    single, _ = operator(mf.load_model("embedded", dtype=torch.float32), atoms)
    exact = lowest_modes(double, 3, pbc=MOLECULE, numbers=s.numbers)
    found = lowest_modes(single, 3, pbc=MOLECULE, numbers=s.numbers)
    assert found.converged, found.reason
    torch.testing.assert_close(found.eigenvalues, exact.eigenvalues, rtol=1e-3, atol=0)
    strict = lowest_modes(single, 3, pbc=MOLECULE, numbers=s.numbers, tolerance=1e-8)
    assert strict.outcome is mf.Outcome.NOISE_LIMIT
    assert strict.rounding > 1e-8 * strict.eigenvalues[0]


def test_an_operator_of_a_potential_knows_its_structure(embedded):
    for atoms in (molecule("H2O"), mf.example_structure("quartz")):
        op, s = operator(embedded, atoms)
        pbc = atoms.pbc.tolist()
        told = lowest_modes(op, 3, pbc=pbc, numbers=s.numbers)
        known = lowest_modes(mf.HessianOperator.from_potential(embedded, atoms), 3)
        torch.testing.assert_close(known.eigenvalues, told.eigenvalues, rtol=1e-9, atol=0)
        assert known.n_hvps == told.n_hvps
    with pytest.raises(ValueError, match="does not know the structure"):
        lowest_modes(op, 3)


def test_parts_and_held_atoms_are_known_too(embedded):
    far = molecule("H2O")
    far.positions += 20.0
    pair = mf.HessianOperator.from_potential(embedded, molecule("H2O") + far)
    alone = lowest_modes(mf.HessianOperator.from_potential(embedded, molecule("H2O")), 3)
    both = lowest_modes(pair, 6)
    assert both.converged
    expected = alone.eigenvalues.repeat_interleave(2)
    torch.testing.assert_close(both.eigenvalues, expected, rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match="from 1 to 6, not 7"):
        lowest_modes(pair, 7)
    held = molecule("H2O")
    held.set_constraint(FixAtoms([0]))
    found = lowest_modes(mf.HessianOperator.from_potential(embedded, held), 1)
    assert found.modes[0, 0].abs().max() < 1e-12


def test_the_old_name_of_the_preconditioner_still_works():
    positions = torch.tensor(molecule("H2O").positions)
    exact = valence_hessian(positions, torch.zeros(3, 3), [8, 1, 1], MOLECULE)
    with pytest.warns(DeprecationWarning, match="preconditioner"):
        found = lowest_modes(quadratic(exact, positions), 1, pbc=MOLECULE, model=exact)
    assert found.converged


def test_questions_without_an_answer_are_refused(embedded):
    op, s = operator(embedded, mf.example_structure("ethanol"))
    ask = {"pbc": MOLECULE, "numbers": s.numbers}
    for k in (0, -1, 22):
        with pytest.raises(ValueError, match=f"from 1 to 21, not {k}"):
            lowest_modes(op, k, **ask)
    with pytest.raises(ValueError, match="give the atomic numbers"):
        lowest_modes(op, 1, pbc=MOLECULE)
    with pytest.raises(ValueError, match="tolerance must be a finite number above zero"):
        lowest_modes(op, 1, tolerance=0.0, **ask)
    with pytest.raises(ValueError, match=r"must be \(27, 27\)"):
        lowest_modes(op, 1, pbc=MOLECULE, preconditioner=torch.eye(9))
    with pytest.raises(ValueError, match="not finite"):
        lowest_modes(op, 1, pbc=MOLECULE, preconditioner=torch.full((27, 27), torch.nan))
    atom = quadratic(torch.eye(3).double(), torch.zeros(1, 3).double())
    with pytest.raises(ValueError, match="without internal motions"):
        lowest_modes(atom, 1, pbc=MOLECULE, numbers=[18])


def test_products_that_are_not_finite_are_named():
    positions = torch.tensor(molecule("H2O").positions)
    hessian = torch.eye(9, dtype=torch.float64)
    hessian[0, 4] = torch.nan
    with pytest.raises(ArithmeticError, match="not finite"):
        lowest_modes(quadratic(hessian, positions), 1, pbc=MOLECULE, numbers=[8, 1, 1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "fewer"),
    [(("relaxed", "RSM0011.xyz"), 1.0), (("structures", "13180N3.cif"), 0.55)],
    ids=["RSM0011", "13180N3"],
)
def test_ten_lowest_modes_of_a_framework(file, fewer):
    model = mf.load_model(str(shared_file("weights", "MACE-MP-0_small.model")))
    atoms = ase.io.read(shared_file("heatcapacity", *file))
    op, s = operator(model, atoms)
    found = lowest_modes(op, 10, pbc=CRYSTAL, numbers=s.numbers)
    assert_lowest(found, op, CRYSTAL, dense_spectrum(op, CRYSTAL))
    assert found.n_hvps < fewer * op.shape[0]
    assert check_stability(model, atoms).n_hvps < op.shape[0] / 2
