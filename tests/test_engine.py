"""The energy and its first derivatives against mace-torch, for every setting of a MACE model."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress
from mace import data
from mace.calculators import MACECalculator
from mace.modules import NonLinearBiasReadoutBlock
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

L2 = "6x0e + 6x1o + 6x2e"


def blocks(first: str, later: str | None = None) -> dict[str, str]:
    """Interaction blocks of the first and of the later layers."""
    return {"interaction_cls_first": first, "interaction_cls": later or first}


def embedding(**specs: dict[str, object]) -> dict[str, object]:
    return {"embedding_specs": {name: {"emb_dim": 3, **spec} for name, spec in specs.items()}}


CHARGE = {"type": "categorical", "per": "graph", "num_classes": 21, "offset": 10}
SPIN = {"type": "categorical", "per": "graph", "num_classes": 8}
CONTINUOUS = {"type": "continuous", "per": "graph", "in_dim": 1}
PARTIAL_CHARGES = {"type": "continuous", "per": "node", "in_dim": 1, "use_bias": False}
OXIDATION_STATES = {"type": "categorical", "per": "node", "num_classes": 9, "offset": 4}

MODELS = {
    # Interaction blocks, first and later.
    "residual": {},
    "unscaled": {"scale_shift": False},
    "agnostic": blocks("RealAgnostic"),
    "agnostic then residual": blocks("RealAgnostic", "RealAgnosticResidual"),
    "density": blocks("RealAgnosticDensity"),
    "density then density residual": blocks("RealAgnosticDensity", "RealAgnosticDensityResidual"),
    "density residual": blocks("RealAgnosticDensityResidual"),
    "attention": blocks("RealAgnosticAttResidual"),
    "density then attention": blocks("RealAgnosticDensity", "RealAgnosticAttResidual"),
    "non-linear": blocks("RealAgnosticResidualNonLinear"),
    "agnostic then non-linear": blocks("RealAgnostic", "RealAgnosticResidualNonLinear"),
    "non-linear, L=0": blocks("RealAgnosticResidualNonLinear") | {"hidden_irreps": "6x0e"},
    # Envelope on the radial weights and not on the basis.
    "late cutoff, residual": {"apply_cutoff": False},
    "late cutoff, agnostic": {"apply_cutoff": False, **blocks("RealAgnostic")},
    "late cutoff, density": {
        "apply_cutoff": False,
        **blocks("RealAgnosticDensity", "RealAgnosticDensityResidual"),
    },
    "late cutoff, attention": {"apply_cutoff": False, **blocks("RealAgnosticAttResidual")},
    "late cutoff, non-linear": {"apply_cutoff": False, **blocks("RealAgnosticResidualNonLinear")},
    # Radial functions.
    "sixth-power cutoff": {"num_polynomial_cutoff": 6},
    "Gaussian basis": {"radial_type": "gaussian"},
    "Agnesi": {"distance_transform": "Agnesi"},
    "Soft": {"distance_transform": "Soft"},
    "Gaussian basis, Soft, late cutoff": {
        "radial_type": "gaussian",
        "distance_transform": "Soft",
        "apply_cutoff": False,
    },
    "Agnesi, density, late cutoff": {
        "distance_transform": "Agnesi",
        "apply_cutoff": False,
        **blocks("RealAgnosticDensity", "RealAgnosticDensityResidual"),
    },
    "linear radial network": {"radial_MLP": []},
    "deep radial network": {"radial_MLP": [4, 6, 5, 3]},
    # Screened nuclear repulsion.
    "ZBL": {"pair_repulsion": True},
    "ZBL, unscaled": {"pair_repulsion": True, "scale_shift": False},
    "ZBL, Agnesi, sixth-power cutoff": {
        "pair_repulsion": True,
        "distance_transform": "Agnesi",
        "num_polynomial_cutoff": 6,
    },
    "ZBL, two heads": {"pair_repulsion": True, "heads": ["PBE", "r2SCAN"]},
    # Heads, with their own atomic energies, scale and shift.
    "two heads, linear readout": {"heads": ["PBE", "r2SCAN"], "num_interactions": 1},
    "two heads, non-linear readout": {"heads": ["PBE", "r2SCAN"]},
    "two heads, readout with biases": {
        "heads": ["PBE", "r2SCAN"],
        "readout_cls": NonLinearBiasReadoutBlock,
    },
    "three heads, unscaled": {"heads": ["a", "b", "c"], "scale_shift": False},
    "two heads, density, all irreps kept": {
        "heads": ["PBE", "r2SCAN"],
        "keep_last_layer_irreps": True,
        **blocks("RealAgnosticDensity", "RealAgnosticDensityResidual"),
    },
    # Layers, body order and irreps.
    "one layer": {"num_interactions": 1},
    "one agnostic layer": {"num_interactions": 1, **blocks("RealAgnostic"), "correlation": 3},
    "three layers": {"num_interactions": 3},
    "three layers, density, L=2": {
        "num_interactions": 3,
        "hidden_irreps": L2,
        **blocks("RealAgnosticDensity", "RealAgnosticDensityResidual"),
    },
    "two-body products": {"correlation": 1},
    "four-body products": {"correlation": 3},
    "body order by layer": {"correlation": [3, 1]},
    "body order by layer, three layers": {"correlation": [1, 3, 2], "num_interactions": 3},
    "harmonics to l=1": {"max_ell": 1},
    "harmonics to l=3, L=0": {"max_ell": 3, "correlation": 3, "hidden_irreps": "6x0e"},
    "harmonics to l=3, L=1": {"max_ell": 3, "correlation": 3},
    "harmonics to l=3, L=2": {"max_ell": 3, "hidden_irreps": L2},
    "harmonics to l=4, L=2": {"max_ell": 4, "hidden_irreps": L2},
    "L=0": {"hidden_irreps": "6x0e"},
    "L=1 without vectors of odd parity": {"hidden_irreps": "6x0e + 6x1e"},
    "pseudoscalars and pseudovectors": {"hidden_irreps": "6x0e + 6x0o + 6x1o + 6x1e"},
    "SO(3)": {"use_so3": True, "hidden_irreps": "6x0e + 6x1e"},
    "SO(3), L=2, four-body products": {
        "use_so3": True,
        "hidden_irreps": "6x0e + 6x1e + 6x2e",
        "correlation": 3,
    },
    "reduced Clebsch-Gordan basis": {
        "use_reduced_cg": True,
        "correlation": 3,
        "max_ell": 3,
        "hidden_irreps": L2,
    },
    "narrow edges": {"edge_irreps": "4x0e + 4x1o"},
    "narrow edges from the first layer": {
        "edge_irreps": "4x0e + 4x1o",
        "use_edge_irreps_first": True,
    },
    "narrow edges, attention": {
        "edge_irreps": "4x0e + 4x1o",
        "use_edge_irreps_first": True,
        **blocks("RealAgnosticAttResidual"),
    },
    "narrow edges, non-linear, late cutoff": {
        "edge_irreps": "4x0e + 4x1o",
        "use_edge_irreps_first": True,
        "apply_cutoff": False,
        **blocks("RealAgnosticResidualNonLinear"),
    },
    # Products and readouts.
    "element-agnostic product": {"use_agnostic_product": True},
    "element-agnostic product, agnostic block": {
        "use_agnostic_product": True,
        **blocks("RealAgnostic", "RealAgnosticResidual"),
    },
    "last readout only": {"use_last_readout_only": True},
    "last readout only, three layers, unscaled": {
        "use_last_readout_only": True,
        "num_interactions": 3,
        "scale_shift": False,
    },
    "all irreps kept in the last layer": {"keep_last_layer_irreps": True, "hidden_irreps": L2},
    "readout with biases": {"readout_cls": NonLinearBiasReadoutBlock},
    "readout with biases, all irreps kept": {
        "readout_cls": NonLinearBiasReadoutBlock,
        "keep_last_layer_irreps": True,
    },
    "tanh in the readout": {"gate": torch.tanh},
    "abs in the readout": {"gate": torch.abs},
    "no activation in the readout": {"gate": None},
    # Extra features.
    "total charge and spin": embedding(total_charge=CHARGE, total_spin=SPIN),
    "total charge as a real number": embedding(total_charge=CONTINUOUS),
    "atomic charges": embedding(charges=PARTIAL_CHARGES),
    "oxidation states, total spin": embedding(charges=OXIDATION_STATES, total_spin=SPIN),
    "readout of the embedding": {
        "use_embedding_readout": True,
        **embedding(total_charge=CHARGE, total_spin=SPIN),
    },
    "readout of the embedding, two heads": {
        "use_embedding_readout": True,
        "heads": ["PBE", "r2SCAN"],
        **embedding(total_charge=CHARGE, charges=PARTIAL_CHARGES),
    },
    "readout of the embedding, unscaled": {
        "use_embedding_readout": True,
        "scale_shift": False,
        **embedding(total_charge=CONTINUOUS, total_spin=SPIN),
    },
    # As foundation models combine them.
    "as MACE-MPA-0": {
        "distance_transform": "Agnesi",
        "pair_repulsion": True,
        "correlation": 3,
        "max_ell": 3,
        **blocks("RealAgnosticDensity", "RealAgnosticDensityResidual"),
    },
    "as MACE-MH-1": {
        "heads": ["omat", "omol"],
        "apply_cutoff": False,
        "distance_transform": "Agnesi",
        "correlation": 3,
        "max_ell": 3,
        "use_agnostic_product": True,
        "use_last_readout_only": True,
        "readout_cls": NonLinearBiasReadoutBlock,
        "edge_irreps": "4x0e + 4x1o + 4x2e",
        "hidden_irreps": L2,
        **blocks("RealAgnosticResidualNonLinear"),
    },
    "as MACE-OMOL": {
        "heads": ["omol"],
        "apply_cutoff": False,
        "edge_irreps": "4x0e + 4x1o",
        "use_embedding_readout": True,
        "use_last_readout_only": True,
        "readout_cls": NonLinearBiasReadoutBlock,
        **embedding(total_charge=CHARGE, total_spin=SPIN),
        **blocks("RealAgnosticResidualNonLinear"),
    },
}


def with_features(atoms: Atoms) -> Atoms:
    """The atoms with values for all features that the models above embed."""
    atoms.info.update(charge=-2, spin=3)
    charges = [(-1.0) ** k * (k % 4) for k in range(len(atoms))]
    atoms.set_array("charges", np.array(charges))
    return atoms


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


def found(model: mf.Model, atoms: Atoms, skin: float = 0.0) -> dict[str, Tensor]:
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


@pytest.mark.parametrize("settings", MODELS.values(), ids=MODELS)
def test_energy_forces_and_stress_equal_mace_torch(settings):
    module = build(scripted=False, **settings)
    for head in module.heads:
        model, calc = mf.load_model(module, head=head), calculator(module, head)
        for atoms in with_features(molecule()), with_features(crystal()):
            ours, theirs = found(model, atoms), reference(calc, atoms)
            assert theirs["forces"].norm() > 1e-3
            assert_same(ours, theirs, pbc=atoms.pbc.all())
            if not hasattr(module, "embedding_readout"):  # which mace-torch gives to no atom
                assert (ours["energies"] - theirs["energies"]).abs().max() < ENERGY
            torch.testing.assert_close(ours["energies"].sum(), ours["energy"])


@pytest.fixture(scope="module", params=["as MACE-MPA-0", "as MACE-MH-1", "attention", "non-linear"])
def module(request):
    return build(scripted=False, **MODELS[request.param])


@pytest.mark.parametrize("atoms", STRUCTURES.values(), ids=STRUCTURES)
def test_energy_forces_and_stress_equal_mace_torch_in_every_periodicity(module, atoms):
    head = module.heads[-1]
    model = mf.load_model(module, head=head)
    theirs = reference(calculator(module, head), atoms)
    for skin in 0.0, 0.7:
        ours = found(model, atoms, skin)
        assert_same(ours, theirs, pbc=atoms.pbc.all())
        assert (ours["energies"] - theirs["energies"]).abs().max() < ENERGY


def test_energy_of_an_atom_follows_charge_and_spin():
    module = build(scripted=False, **MODELS["as MACE-OMOL"])
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
    module = build(scripted=False, **MODELS["total charge and spin"])
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


@pytest.mark.parametrize("distance_transform", ["None", "Agnesi", "Soft"])
@pytest.mark.parametrize("apply_cutoff", [True, False], ids=["early cutoff", "late cutoff"])
def test_chebyshev_basis_equals_mace_torch_which_cannot_differentiate_it(
    distance_transform, apply_cutoff
):
    # Polynomials of the length itself: six Å to the fifth power is a large number.
    module = build(
        scripted=False,
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


@pytest.mark.parametrize("settings", ["as MACE-MPA-0", "as MACE-MH-1", "as MACE-OMOL"])
def test_single_precision_agrees_with_mace_torch_in_single_precision(settings):
    module = build(scripted=False, **MODELS[settings])
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
