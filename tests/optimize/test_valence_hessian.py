"""The Hessian of a valence force field: rigid motions, symmetry, and measured frequencies."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.data import covalent_radii
from hessian_operators import (
    MOLECULE,
    operator,
    relaxed,
)
from torch import Tensor

import mace_functional as mf
from mace_functional.optimize import valence_hessian as module
from mace_functional.optimize.valence_hessian import valence_hessian
from mace_functional.vibrations.harmonic_modes import internal_motions, rigid_motions


@pytest.fixture(scope="module")
def embedded() -> mf.MaceModel:
    return mf.load_model("embedded")


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
    return valence_hessian(torch.tensor(atoms.positions), cell, atoms.numbers, atoms.pbc.tolist())


@pytest.mark.parametrize("name", STRUCTURES)
def test_model_costs_energy_in_every_motion_but_the_rigid_ones(name):
    atoms = STRUCTURES[name]()
    k = model_of(atoms)
    cell = torch.tensor(atoms.cell.array)
    rigid = rigid_motions(
        torch.tensor(atoms.positions), torch.ones(len(atoms)), pbc=atoms.pbc.tolist(), cell=cell
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
    rest = internal_motions(
        rigid_motions(s.positions, torch.ones(len(atoms)), pbc=pbc, cell=s.cell)
    )
    exact, model = rest.mT @ op.dense() @ rest, rest.mT @ model_of(atoms) @ rest
    values = scipy.linalg.eigh((exact + exact.mT) / 2, model, eigvals_only=True)
    assert values[-1] / values[0] < spread
    assert 0.5 < np.median(values) < 2


def test_model_refuses_what_is_no_structure():
    x = torch.tensor(molecule("H2O").positions)
    with pytest.raises(ValueError, match="numbers"):
        valence_hessian(x, torch.zeros(3, 3), [8, 1], MOLECULE)
    with pytest.raises(ValueError, match="not finite"):
        valence_hessian(x * torch.nan, torch.zeros(3, 3), [8, 1, 1], MOLECULE)
    with pytest.raises(ValueError, match="apart"):
        valence_hessian(0 * x, torch.zeros(3, 3), [8, 1, 1], MOLECULE)


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
    model = valence_hessian(torch.tensor(positions), torch.zeros(3, 3), [6] * 70, MOLECULE)
    assert sum(assembled) < 70 * 70 * 5
    assert max(assembled) < 2 * module.PIECE_SIZE
    values = torch.linalg.eigvalsh(model)
    assert int((values > 1e-6 * values[-1]).sum()) >= 3 * 70 - 6 - 30
    assert values[0] > -1e-8 * values[-1]


def test_pieces_change_nothing(monkeypatch):
    whole = model_of(mf.example_structure("benzene"))
    monkeypatch.setattr(module, "PIECE_SIZE", 7)
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
    monkeypatch.setattr(module, "MAX_BONDS_TORSION", 10**6)
    monkeypatch.setattr(module, "MAX_BONDS_BEND", 10**6)
    torch.testing.assert_close(limited, model_of(atoms), rtol=0, atol=1e-12)
