"""Lowest modes without the matrix, and the model Hessian that makes them cheap."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import ase.io
import numpy as np
import pytest
import scipy.linalg
import torch
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.data import covalent_radii
from ase.optimize import BFGS
from conftest import shared_file
from torch import Tensor

import mace_functional as mf
from mace_functional.optimize import model_hessian as module
from mace_functional.optimize.lowest_modes import LowestModes, check_stability, lowest_modes
from mace_functional.optimize.model_hessian import model_hessian
from mace_functional.vibrations.harmonic_modes import internal_motions, rigid_motions

MOLECULE, CRYSTAL = (False, False, False), (True, True, True)


@pytest.fixture(scope="module")
def embedded() -> mf.MaceModel:
    return mf.load_model("embedded")


def relaxed(model: mf.MaceModel, atoms: Atoms, force: float = 0.002) -> Atoms:
    atoms = atoms.copy()
    atoms.calc = mf.MaceCalculator(model)
    assert BFGS(atoms, logfile=None).run(force, 300)
    atoms.calc = None
    return atoms


def operator(
    model: mf.MaceModel, atoms: Atoms, weighted: bool = True
) -> tuple[mf.HessianOperator, mf.Structure]:
    s = mf.from_ase(atoms, model)
    energy = mf.energy_fn(model, s.graph)
    masses = s.masses if weighted else None
    return mf.HessianOperator(energy, s.positions, s.cell, model.params, masses), s


def quadratic(
    hessian: Tensor, positions: Tensor, masses: Tensor | None = None, cell: Tensor | None = None
) -> mf.HessianOperator:
    """The operator of a given Hessian (3N, 3N)."""

    def energy(x: Tensor, *_: Any) -> Tensor:
        moved = (x - positions).reshape(-1)
        return 0.5 * moved @ hessian @ moved

    cell = torch.eye(3).to(positions) if cell is None else cell
    return mf.HessianOperator(energy, positions, cell, None, masses)


def rigid_of(op: mf.HessianOperator, pbc: Sequence[bool]) -> Tensor:
    masses = torch.ones(len(op.positions)) if op.masses is None else op.masses
    return rigid_motions(op.positions, masses, pbc, op.cell)


def dense_spectrum(op: mf.HessianOperator, pbc: Sequence[bool]) -> Tensor:
    """All eigenvalues of the matrix, rigid motions projected out."""
    rest = internal_motions(rigid_of(op, pbc))
    matrix = rest.mT @ op.dense() @ rest
    return torch.linalg.eigvalsh((matrix + matrix.mT) / 2)


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
    [
        *itertools.product(["ethanol", "benzene", "quartz"], [1, 10], [True]),
        ("ethanol", 3, False),
    ],
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
    torch.testing.assert_close(found.frequencies("THz"), modes.frequencies[:4])
    overlaps = torch.einsum("mka,nka->mn", found.modes, modes.modes[:4]).abs()
    torch.testing.assert_close(overlaps, torch.eye(4, dtype=torch.float64), atol=1e-3, rtol=0)
    plain = lowest_modes(operator(embedded, atoms, False)[0], 1, pbc=MOLECULE, numbers=s.numbers)
    with pytest.raises(ValueError, match="need masses"):
        plain.frequencies()


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
    rest = internal_motions(rigid_motions(positions, torch.ones(size), CRYSTAL))
    stiffness = torch.linspace(1, 50, rest.shape[1]).double()
    exact = 0.5 * stiffness
    exact[30:33] = 0.2
    op = quadratic((rest * exact) @ rest.mT, positions)
    model = (rest * stiffness) @ rest.mT
    found = lowest_modes(op, 4, pbc=CRYSTAL, model=model, seed=seed)
    assert_lowest(found, op, CRYSTAL, exact.sort().values)
    assert found.n_hvps < rest.shape[1]


def test_a_stiff_bond_that_is_unstable_is_found():
    """What the model takes to be stiff is looked at last, and must be looked at still."""
    positions = torch.tensor(molecule("C6H6").positions)
    exact = model_hessian(positions, torch.zeros(3, 3), [6] * 6 + [1] * 6, MOLECULE)
    values, vectors = torch.linalg.eigh(exact)
    for stiff in (15, 25, 35):
        broken = exact - (values[stiff] + 0.01) * torch.outer(vectors[:, stiff], vectors[:, stiff])
        found = lowest_modes(quadratic(broken, positions), 1, pbc=MOLECULE, model=exact)
        assert found.eigenvalues.item() == pytest.approx(-0.01, rel=1e-8)


def test_k_equal_to_all_internal_motions_gives_the_whole_spectrum(embedded):
    op, s = operator(embedded, molecule("H2O"))
    found = lowest_modes(op, 3, pbc=MOLECULE, numbers=s.numbers)
    assert_lowest(found, op, MOLECULE, dense_spectrum(op, MOLECULE))
    assert found.n_hvps == 3
    assert found.reason == "all products were taken"


def test_linear_molecule_has_its_bending_modes_twice(embedded):
    atoms = relaxed(embedded, molecule("CO2"), 1e-5)
    op, s = operator(embedded, atoms)
    found = lowest_modes(op, 4, pbc=MOLECULE, numbers=s.numbers)
    assert_lowest(found, op, MOLECULE, dense_spectrum(op, MOLECULE))
    bends = found.frequencies()[:2]
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
    assert "not done after 8 products" in found.reason
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
    assert not strict.converged
    assert strict.rounding > 1e-8 * strict.eigenvalues[0]


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
        lowest_modes(op, 1, pbc=MOLECULE, model=torch.eye(9))
    with pytest.raises(ValueError, match="not finite"):
        lowest_modes(op, 1, pbc=MOLECULE, model=torch.full((27, 27), torch.nan))
    atom = quadratic(torch.eye(3).double(), torch.zeros(1, 3).double())
    with pytest.raises(ValueError, match="without internal motions"):
        lowest_modes(atom, 1, pbc=MOLECULE, numbers=[18])


def test_products_that_are_not_finite_are_named():
    positions = torch.tensor(molecule("H2O").positions)
    hessian = torch.eye(9, dtype=torch.float64)
    hessian[0, 4] = torch.nan
    with pytest.raises(ArithmeticError, match="not finite"):
        lowest_modes(quadratic(hessian, positions), 1, pbc=MOLECULE, numbers=[8, 1, 1])


def test_ethanol_is_a_minimum_and_its_eclipsed_methyl_group_a_saddle(embedded):
    atoms = relaxed(embedded, mf.example_structure("ethanol"))
    minimum = check_stability(embedded, atoms)
    lowest = mf.gamma_modes(embedded, atoms).frequencies[0].item()
    assert minimum.stable
    assert minimum.certain
    assert minimum.largest_force < 0.002
    assert minimum.frequency == pytest.approx(lowest, rel=0.01)
    assert minimum.n_hvps < 3 * len(atoms) - 6

    ethane = relaxed(embedded, molecule("C2H6"))
    eclipsed = ethane.copy()
    turned = eclipsed[[k for k in range(8) if eclipsed.positions[k, 2] > 0]]
    turned.rotate(60, "z")
    rest = eclipsed[[k for k in range(8) if eclipsed.positions[k, 2] <= 0]]
    saddle = check_stability(embedded, turned + rest, unit="THz")
    assert check_stability(embedded, ethane).stable
    assert not saddle.stable
    assert saddle.certain
    assert saddle.frequency < 0
    assert saddle.mode.norm().item() == pytest.approx(1)
    # The displacement of the exact mode, and a direction along which the saddle point is left.
    exact = mf.gamma_modes(embedded, turned + rest).displacements[0]
    assert abs((saddle.mode * exact).sum().item()) > 0.99 * exact.norm().item()
    down = mf.follow_mode(embedded, turned + rest, saddle.mode, fmax=1e-2)
    assert down.energy < mf.MaceCalculator(embedded).get_potential_energy(turned + rest) - 0.02


def test_quartz_is_stable_and_three_products_leave_doubt(embedded):
    atoms = relaxed(embedded, mf.example_structure("quartz"), 0.01)
    assert check_stability(embedded, atoms).stable
    limited = check_stability(embedded, atoms, max_hvps=3)
    assert limited.stable
    assert not limited.certain
    assert "after 3 products" in limited.reason


# The model Hessian


def water() -> Atoms:
    return molecule("H2O")


def methanol_on_aluminium() -> Atoms:
    slab = fcc111("Al", (2, 2, 2), vacuum=8.0)
    add_adsorbate(slab, molecule("CH3OH"), 2.5)
    return slab


def polymer() -> Atoms:
    return Atoms(
        "C2H4", [[0, 0.45, 0], [1.3, -0.45, 0], *_hydrogens()], cell=[2.6, 9, 9], pbc=[1, 0, 0]
    )


def _hydrogens() -> list[list[float]]:
    return [[0, 1.1, 0.87], [0, 1.1, -0.87], [1.3, -1.1, 0.87], [1.3, -1.1, -0.87]]


STRUCTURES = {
    "water": water,
    "carbon dioxide": lambda: molecule("CO2"),
    "acetylene": lambda: molecule("C2H2"),
    "benzene": lambda: molecule("C6H6"),
    "polymer": polymer,
    "slab": methanol_on_aluminium,
    "copper": lambda: bulk("Cu"),
    "salt": lambda: bulk("NaCl", "rocksalt", a=5.64),
    "quartz": lambda: mf.example_structure("quartz"),
    "MOF-5": lambda: mf.example_structure("mof-5"),
}


def model_of(atoms: Atoms) -> Tensor:
    cell = torch.tensor(atoms.cell.array)
    return model_hessian(torch.tensor(atoms.positions), cell, atoms.numbers, atoms.pbc.tolist())


@pytest.mark.parametrize("name", STRUCTURES)
def test_model_costs_energy_in_every_motion_but_the_rigid_ones(name):
    atoms = STRUCTURES[name]()
    k = model_of(atoms)
    cell = torch.tensor(atoms.cell.array)
    rigid = rigid_motions(
        torch.tensor(atoms.positions), torch.ones(len(atoms)), atoms.pbc.tolist(), cell
    )
    values = torch.linalg.eigvalsh(k)
    assert torch.equal(k, k.mT)
    assert (k @ rigid).abs().max() < 1e-10 * max(1.0, float(k.abs().max()))
    assert values[0] > -1e-10
    assert (values > 1e-6).sum() == len(values) - rigid.shape[1]


def test_model_turns_with_the_molecule_and_follows_the_order_of_atoms():
    atoms = molecule("CH3CH2OH")
    k = model_of(atoms)
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator).double()).Q
    turned = atoms.copy()
    turned.positions = atoms.positions @ rotation.numpy().T + [1.0, -2.0, 3.0]
    every = torch.block_diag(*[rotation] * len(atoms))
    torch.testing.assert_close(model_of(turned), every @ k @ every.mT)
    order = np.random.default_rng(0).permutation(len(atoms))
    shuffled = k.view(9, 3, 9, 3)[order][:, :, order].reshape(27, 27)
    torch.testing.assert_close(model_of(atoms[order]), shuffled)


def test_model_does_not_know_which_image_of_an_atom_is_named():
    atoms = mf.example_structure("quartz")
    moved = atoms.copy()
    moved.positions[[1, 4, 7]] += atoms.cell.array[[0, 1, 2]]
    torch.testing.assert_close(model_of(moved), model_of(atoms))


def test_model_of_a_supercell_repeats_that_of_the_cell():
    atoms = mf.example_structure("quartz")
    repeated = model_of(atoms.repeat((1, 1, 2))).view(2, 27, 2, 27)
    torch.testing.assert_close(repeated.sum(2), model_of(atoms).expand(2, 27, 27))


@pytest.mark.parametrize(
    ("name", "measured"),
    [
        # Shimanouchi, Tables of Molecular Vibrational Frequencies (1972), cm-1.
        ("H2O", [1595, 3657, 3756]),
        ("C2H6", [289, 822, 822, 995, 1190, 1190, 1379, 1388, 1468, 1468, 1469, 1469]),
    ],
)
def test_model_gives_frequencies_of_measured_size(name, measured):
    atoms = molecule(name)
    found = mf.normal_modes(
        model_of(atoms), atoms.get_masses(), torch.tensor(atoms.positions), pbc=MOLECULE
    ).frequencies[: len(measured)]
    ratio = found / torch.tensor(measured)
    assert ratio.min() > 0.6
    assert ratio.max() < 1.7


@pytest.mark.parametrize(("name", "spread"), [("ethanol", 20), ("benzene", 6), ("quartz", 8)])
def test_model_takes_the_spread_out_of_the_exact_spectrum(embedded, name, spread):
    atoms = relaxed(embedded, mf.example_structure(name), 0.01)
    op, s = operator(embedded, atoms, weighted=False)
    pbc = s.graph.pbc.tolist()
    rest = internal_motions(rigid_motions(s.positions, torch.ones(len(atoms)), pbc, s.cell))
    exact, model = rest.mT @ op.dense() @ rest, rest.mT @ model_of(atoms) @ rest
    values = scipy.linalg.eigh((exact + exact.mT) / 2, model, eigvals_only=True)
    assert values[-1] / values[0] < spread
    assert 0.5 < np.median(values) < 2


def test_model_refuses_what_is_no_structure():
    x = torch.tensor(molecule("H2O").positions)
    with pytest.raises(ValueError, match="numbers"):
        model_hessian(x, torch.zeros(3, 3), [8, 1], MOLECULE)
    with pytest.raises(ValueError, match="not finite"):
        model_hessian(x * torch.nan, torch.zeros(3, 3), [8, 1, 1], MOLECULE)
    with pytest.raises(ValueError, match="apart"):
        model_hessian(0 * x, torch.zeros(3, 3), [8, 1, 1], MOLECULE)


def assembled_without_end(positions, numbers):
    """How many torsions a molecule would have without a limit: those about every bond."""
    far = np.linalg.norm(positions[:, None] - positions, axis=2)
    radii = covalent_radii[numbers]
    bonded = (far < 1.2 * (radii[:, None] + radii)) & (far > 0)
    degree = bonded.sum(1)
    return int((bonded * (degree[:, None] - 1) * (degree - 1)).sum())


def test_atoms_on_top_of_each_other_take_a_bounded_number_of_torsions_and_bends(monkeypatch):
    positions = np.random.default_rng(0).uniform(0, 2.2, (70, 3))
    assert assembled_without_end(positions, np.full(70, 6)) > 5_000_000
    assembled = []

    def counted(kind, size):
        assembled.append(len(kind.constants))
        return original(kind, size)

    original = module._assembled
    monkeypatch.setattr(module, "_assembled", counted)
    model = model_hessian(torch.tensor(positions), torch.zeros(3, 3), [6] * 70, MOLECULE)
    assert sum(assembled) < 70 * 70 * 5
    assert max(assembled) < 2 * module.PIECE
    values = torch.linalg.eigvalsh(model)
    assert int((values > 1e-6 * values[-1]).sum()) >= 3 * 70 - 6 - 30
    assert values[0] > -1e-8 * values[-1]


def test_pieces_change_nothing(monkeypatch):
    whole = model_of(mf.example_structure("benzene"))
    monkeypatch.setattr(module, "PIECE", 7)
    torch.testing.assert_close(model_of(mf.example_structure("benzene")), whole)


@pytest.mark.parametrize(
    "atoms",
    [
        mf.example_structure("MOF-5"),
        mf.example_structure("quartz"),
        bulk("Li2O", "fluorite", a=4.62),  # lithium has ten bonds
        bulk("Be"),
        bulk("MgO", "rocksalt", a=4.21),
    ],
    ids=lambda atoms: atoms.get_chemical_formula(),
)
def test_sound_structures_have_all_their_torsions_and_bends(atoms, monkeypatch):
    limited = model_of(atoms)
    monkeypatch.setattr(module, "CLOSEST", 10**6)
    monkeypatch.setattr(module, "CROWDED", 10**6)
    torch.testing.assert_close(limited, model_of(atoms), rtol=0, atol=1e-12)


# A foundation model on frameworks


@pytest.mark.parametrize(
    ("file", "fewer"),
    [
        (("relaxed", "RSM0011.xyz"), 1.0),
        pytest.param(("structures", "13180N3.cif"), 0.55, marks=pytest.mark.slow),
    ],
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
