"""The energy and its first derivatives against mace-torch, for every setting of a MACE model."""

from __future__ import annotations

import copy
import itertools
from functools import cache

import pytest
import torch
from mace import data
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress
from engine_settings import EVERY_VALUE, MODELS, with_features
from helpers import mostly_slow
from mace.calculators import MACECalculator
from mace.tools import AtomicNumberTable, torch_geometric
from models import ELEMENTS, build, crystal, float64_default, molecule
from torch import Tensor, nn
from torch.func import grad_and_value

import mace_functional as mf
from mace_functional.derivatives import stress

ENERGY = 1e-9
"""Tolerance of energies, eV per atom."""
FORCES = 1e-9
"""Tolerance of forces, eV/Å."""
STRESS = 1e-10
"""Tolerance of stresses, eV/Å³."""


def slab() -> Atoms:
    """Two lattice vectors that do not lie in the xy plane, and atoms outside the cell."""
    atoms = crystal()
    atoms.set_pbc((True, False, True))
    atoms.positions += [0.0, 7.0, 2.0]
    return atoms


def wire() -> Atoms:
    atoms = crystal()
    atoms.set_cell([[0, 0, 0], [0, 0, 0], atoms.cell[2]])
    atoms.set_pbc((False, False, True))
    return atoms


STRUCTURES = {
    "molecule": molecule(),
    "crystal": crystal(),
    "slab": slab(),
    "wire": wire(),
    "primitive cell of one atom": Atoms("Si", cell=[[0, 2, 2], [2, 0, 2], [2, 2, 0]], pbc=True),
    "chain of one element": Atoms("Si5", [[0.0, 0.2 * k * k, 2.1 * k] for k in range(5)]),
    "isolated atom": Atoms("O", [[1.0, 2.0, 3.0]]),
    "isolated atom in a periodic box": Atoms("O", [[1.0, 2.0, 3.0]], cell=[9, 9, 9], pbc=True),
    "two atoms beyond the cutoff": Atoms("CO", [[0, 0, 0], [0, 0, 4.1]]),
    "an atom beyond the cutoff of a molecule": molecule() + Atoms("C", [[20.0, 0, 0]]),
}


def calculator(module: nn.Module, head: str, dtype: str = "float64") -> MACECalculator:
    return MACECalculator(
        models=module,
        device="cpu",
        default_dtype=dtype,
        head=head,
        arrays_keys={"charges": "charges"},
    )


def reference(calc: MACECalculator, atoms: Atoms) -> dict[str, Tensor]:
    """Energy, energies of atoms, forces and stress of mace-torch."""
    with float64_default():
        calc.calculate(atoms)
    results = {key: torch.tensor(value, dtype=torch.float64) for key, value in calc.results.items()}
    results["stress"] = torch.tensor(voigt_6_to_full_3x3_stress(calc.results["stress"]))
    return results


def found(model: mf.MaceModel, atoms: Atoms, skin: float = 0.0) -> dict[str, Tensor]:
    """The same from this package."""
    s = mf.from_ase(atoms, model, skin=skin)
    state = s.positions, s.cell, model.params
    energy = mf.energy_fn(model, s.graph)
    gradient, value = grad_and_value(energy)(*state)
    results = {
        "energy": value,
        "energies": mf.energy_fn(model, s.graph, per_atom=True)(*state),
        "forces": -gradient,
    }
    if atoms.pbc.all():
        results["stress"] = stress(energy)(*state)
    return results


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], pbc: bool) -> None:
    atoms = len(theirs["forces"])
    assert abs(ours["energy"] - theirs["energy"]) < ENERGY * atoms
    assert (ours["forces"] - theirs["forces"]).abs().max() < FORCES
    if pbc:
        assert (ours["stress"] - theirs["stress"]).abs().max() < STRESS


QUICK = (
    *EVERY_VALUE,
    "agnostic then non-linear",
    "narrow edges, attention",
    "oxidation states, total spin",
    "pseudoscalars and pseudovectors",
    "harmonics to l=4, L=2",
    "one agnostic layer",
)


@pytest.mark.parametrize("name", mostly_slow(MODELS, QUICK))
def test_energy_forces_and_stress_equal_mace_torch(name):
    module = build(**MODELS[name])
    for head in module.heads:
        model, calc = mf.load_model(module, head=head), calculator(module, head)
        for atoms in with_features(molecule()), with_features(crystal()):
            ours, theirs = found(model, atoms), reference(calc, atoms)
            assert theirs["forces"].norm() > 1e-3
            assert_same(ours, theirs, pbc=atoms.pbc.all())
            if not hasattr(module, "embedding_readout"):  # which mace-torch gives to no atom
                assert (ours["energies"] - theirs["energies"]).abs().max() < ENERGY
            torch.testing.assert_close(ours["energies"].sum(), ours["energy"])


BLOCKS = "as MACE-MPA-0", "as MACE-MH-1", "attention", "non-linear"
module_of = cache(lambda name: build(**MODELS[name]))


@pytest.mark.parametrize(
    ("name", "structure"),
    mostly_slow(
        itertools.product(BLOCKS, STRUCTURES),
        [
            *(("as MACE-MPA-0", structure) for structure in STRUCTURES),
            ("as MACE-MH-1", "slab"),
            ("as MACE-MH-1", "isolated atom"),
            ("attention", "wire"),
            ("attention", "two atoms beyond the cutoff"),
            ("non-linear", "primitive cell of one atom"),
            ("non-linear", "isolated atom in a periodic box"),
        ],
    ),
)
def test_energy_forces_and_stress_equal_mace_torch_in_every_periodicity(name, structure):
    module, atoms = module_of(name), STRUCTURES[structure]
    head = module.heads[-1]
    model = mf.load_model(module, head=head)
    theirs = reference(calculator(module, head), atoms)
    for skin in 0.0, 0.7:
        ours = found(model, atoms, skin)
        assert_same(ours, theirs, pbc=atoms.pbc.all())
        assert (ours["energies"] - theirs["energies"]).abs().max() < ENERGY


def test_energy_of_an_atom_follows_charge_and_spin():
    module = build(**MODELS["as MACE-OMOL"])
    model, calc = mf.load_model(module), calculator(module, "omol")
    energies = set()
    for charge in -10, 0, 10:
        for spin in 0, 1, 7:
            atoms = Atoms("O", info={"charge": charge, "spin": spin})
            energy = reference(calc, atoms)["energy"]
            assert abs(found(model, atoms)["energy"] - energy) < ENERGY
            energies.add(round(energy.item(), 4))
    assert len(energies) == 9


def test_charge_and_spin_left_out_are_zero_and_one():
    module = build(**MODELS["total charge and spin"])
    ours = found(mf.load_model(module), molecule())
    assert_same(ours, reference(calculator(module, "Default"), molecule()), pbc=False)


def energies_without_derivatives(module: nn.Module, structures: list[Atoms]) -> Tensor:
    """Energies of mace-torch from a plain forward pass."""
    table = AtomicNumberTable(list(ELEMENTS))
    with float64_default(), torch.no_grad():
        configs = [data.config_from_atoms(atoms) for atoms in structures]
        graphs = [
            data.AtomicData.from_config(c, z_table=table, cutoff=module.r_max.item())
            for c in configs
        ]
        batch = torch_geometric.Batch.from_data_list(graphs)
        return module(batch.to_dict(), compute_force=False)["energy"]


@pytest.mark.parametrize(
    ("distance_transform", "apply_cutoff"),
    mostly_slow(
        itertools.product(["None", "Agnesi", "Soft"], [True, False]),
        [("None", True), ("Agnesi", False), ("Soft", True)],
    ),
)
def test_chebyshev_basis_equals_mace_torch_which_cannot_differentiate_it(
    distance_transform, apply_cutoff
):
    # Polynomials of the length itself: six Å to the fifth power is a large number.
    module = build(
        radial_type="chebyshev",
        num_bessel=4,
        r_max=2.5,
        distance_transform=distance_transform,
        apply_cutoff=apply_cutoff,
    )
    model = mf.load_model(module)
    for atoms in molecule(), crystal():
        ours = found(model, atoms)
        direction = (ours["forces"] / ours["forces"].norm()).numpy()
        displaced = []
        for step in (0.0, 1e-3, -1e-3, 2e-3, -2e-3):
            displaced.append(atoms.copy())
            displaced[-1].positions += step * direction
        here, *beside = energies_without_derivatives(module, displaced)
        assert abs(ours["energy"] - here) < ENERGY * len(atoms)
        downhill = (8 * (beside[1] - beside[0]) - (beside[3] - beside[2])) / 12e-3
        assert downhill > 1e-3
        torch.testing.assert_close(ours["forces"].norm(), downhill, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "settings",
    [
        "as MACE-OMOL",
        pytest.param("as MACE-MPA-0", marks=pytest.mark.slow),
        pytest.param("as MACE-MH-1", marks=pytest.mark.slow),
    ],
)
def test_single_precision_agrees_with_mace_torch_in_single_precision(settings):
    module = build(**MODELS[settings])
    head = module.heads[-1]
    model = mf.load_model(module, dtype=torch.float32, head=head)
    assert {p.dtype for p in model.params.values()} == {torch.float32}
    double = mf.load_model(module, head=head)
    calc = calculator(copy.deepcopy(module), head, dtype="float32")
    for atoms in with_features(molecule()), with_features(crystal()):
        ours, exact = found(model, atoms), found(double, atoms)
        calc.calculate(atoms)
        theirs = {key: torch.tensor(calc.results[key]) for key in ("energy", "forces")}
        assert {v.dtype for v in ours.values()} == {torch.float32}
        for other in theirs, exact:
            energy, forces = other["energy"].double(), other["forces"].double()
            torch.testing.assert_close(ours["energy"].double(), energy, rtol=2e-6, atol=0)
            assert (ours["forces"] - forces).norm() < 1e-4 * forces.norm()
