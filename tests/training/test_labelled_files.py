"""Labelled structures from files: mace-torch's own numbers, Hessians beside them, clear errors."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from free_hessian import free_hessian
from mace.data import AtomicData
from mace.data.utils import KeySpecification, load_from_xyz
from mace.tools import AtomicNumberTable
from models import float64_default

from mace_functional.structure.reading import StructureError
from mace_functional.training import isolated_atom_energies, read_labelled

rng = np.random.default_rng(1)


def crystals(count: int = 4) -> list[Atoms]:
    """Rattled and strained crystals with EMT's labels under mace-torch's keys."""
    frames = []
    for seed in range(count):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.1, seed=seed)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.02 * rng.normal(size=(3, 3))), True)
        atoms.calc = EMT()
        atoms.info["REF_energy"] = atoms.get_potential_energy()
        atoms.info["REF_stress"] = atoms.get_stress(voigt=False)
        atoms.arrays["REF_forces"] = atoms.get_forces()
        atoms.calc = None
        frames.append(atoms)
    return frames


def written(folder, frames, name: str = "train.extxyz"):
    ase.io.write(folder / name, frames, format="extxyz")
    return folder / name


def test_energies_forces_stresses_and_weights_are_those_of_mace_torch(tmp_path):
    frames = crystals()
    frames[0].info |= {"config_weight": 2.5, "config_type": "hot"}
    frames[1].info |= {"config_forces_weight": 0.0, "config_type": "cold"}
    frames[1].info["REF_stress"] = frames[1].info["REF_stress"].ravel()[[0, 4, 8, 5, 2, 1]]
    frames[2].info["REF_virials"] = rng.normal(size=6)
    del frames[2].info["REF_stress"]
    del frames[3].info["REF_energy"]
    lone = Atoms("Cu", info={"config_type": "IsolatedAtom", "REF_energy": -1.25})
    path = written(tmp_path, [*frames[:2], lone, *frames[2:]])

    weights = {"hot": 3.0, "Default": 0.5}
    references, configs = load_from_xyz(
        str(path),
        KeySpecification.from_defaults(),
        config_type_weights=weights,
        extract_atomic_energies=True,
    )
    labelled = read_labelled(path, config_type_weights=weights)
    assert isolated_atom_energies(path) == references == {29: -1.25}
    assert len(labelled) == len(configs) == 4
    assert [s.weight for s in labelled] == [c.weight for c in configs] == [7.5, 1.0, 0.5, 0.5]
    assert [s.name for s in labelled] == [f"train.extxyz@{k}" for k in (0, 1, 3, 4)]
    with float64_default():
        theirs = [AtomicData.from_config(c, AtomicNumberTable([29]), cutoff=3.0) for c in configs]
    for ours, data, config in zip(labelled, theirs, configs, strict=True):
        np.testing.assert_array_equal(ours.atoms.positions, data.positions)
        volume = ours.atoms.get_volume()
        for label, value, weight in (
            (ours.energy, data.energy, data.energy_weight),
            (ours.forces, data.forces, data.forces_weight),
            (ours.stress, data.stress[0], data.stress_weight),
        ):
            if config.property_weights["virials"] and label is ours.stress:
                value, weight = -data.virials[0] / volume, data.virials_weight
            assert (label is None) == (weight == 0)
            if label is not None:
                np.testing.assert_allclose(label, value, rtol=1e-14, atol=1e-16)


def test_virials_have_the_sign_of_mace_torch_s_model():
    from mace.modules.utils import compute_forces_virials

    strain = torch.zeros(1, 3, 3, dtype=torch.float64, requires_grad=True)
    positions = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    cell = 2 * torch.eye(3, dtype=torch.float64)
    energy = (strain**2 + 3 * strain).sum() + positions.sum()
    _, virials, stress = compute_forces_virials(
        energy, positions, strain, cell, compute_stress=True
    )
    torch.testing.assert_close(virials, -8 * stress)


def test_results_of_a_calculator_are_labels_only_on_request(tmp_path):
    frames = crystals(2)
    for atoms in frames:
        info, forces = atoms.info, atoms.arrays.pop("REF_forces")
        atoms.calc = SinglePointCalculator(
            atoms, energy=info.pop("REF_energy"), forces=forces, stress=info.pop("REF_stress")
        )
    path = written(tmp_path, frames)
    with pytest.raises(StructureError, match=r"pass energy_key='energy' .* energy_key=None"):
        read_labelled(path)
    keys = {"energy_key": "energy", "forces_key": "forces"}
    with pytest.raises(StructureError, match="stress_key='stress'"):
        read_labelled(path, **keys)
    for stress_key in ("stress", None):
        (labelled, _) = read_labelled(path, stress_key=stress_key, **keys)
        assert labelled.energy == pytest.approx(frames[0].get_potential_energy(), abs=1e-7)
        np.testing.assert_allclose(labelled.forces, frames[0].get_forces(), atol=1e-7)
        assert (labelled.stress is None) == (stress_key is None)
    np.testing.assert_allclose(
        read_labelled(path, stress_key="stress", **keys)[1].stress,
        frames[1].get_stress(voigt=False),
        atol=1e-7,
    )


def test_labels_beside_results_of_a_calculator_are_taken(tmp_path):
    frames = crystals(1)
    frames[0].calc = SinglePointCalculator(frames[0], energy=99.0, forces=np.ones((4, 3)))
    (labelled,) = read_labelled(written(tmp_path, frames))
    assert labelled.energy == pytest.approx(frames[0].info["REF_energy"], abs=1e-7)
    assert labelled.atoms.calc is None


@pytest.mark.parametrize("by", ["number", "name"])
def test_hessians_are_found_beside_the_file_or_where_they_are_said_to_be(tmp_path, by):
    frames = crystals(3)
    for atoms, name in zip(frames, "abc", strict=True):
        atoms.info["name"] = name
    H = [free_hessian(4), free_hessian(4).reshape(4, 3, 4, 3)]
    names = {"number": ("0", "2"), "name": ("a", "c")}[by]
    path = written(tmp_path, frames)
    np.savez(tmp_path / "train.hessians.npz", **dict(zip(names, H, strict=True)))
    np.savez(tmp_path / "other.npz", **{names[0]: H[0]})
    first, second, third = read_labelled(path)
    assert (first.name, second.curvature, third.name) == ("a", None, "c")
    np.testing.assert_allclose(first.curvature.products.reshape(12, 12), H[0])
    np.testing.assert_allclose(third.curvature.products.reshape(12, 12), H[1].reshape(12, 12))
    first, _, third = read_labelled(path, hessians=tmp_path / "other.npz")
    assert first.curvature is not None
    assert third.curvature is None


@pytest.mark.parametrize("place", ["info", "arrays"])
def test_hessian_of_a_frame_is_read_from_it(tmp_path, place):
    atoms, H = crystals(1)[0], free_hessian(4)
    values = H if place == "info" else H.reshape(4, -1)
    getattr(atoms, place)["REF_hessian"] = values
    (labelled,) = read_labelled(written(tmp_path, atoms))
    np.testing.assert_allclose(labelled.curvature.products.reshape(12, 12), H, atol=1e-7)


def test_trajectories_are_read_too(tmp_path):
    frames = crystals(2)
    for atoms in frames:
        atoms.calc = SinglePointCalculator(atoms, forces=atoms.arrays.pop("REF_forces"))
    ase.io.write(tmp_path / "md.traj", frames)
    first, _ = read_labelled(tmp_path / "md.traj", forces_key="forces")
    np.testing.assert_array_equal(first.forces, frames[0].get_forces())
    assert first.energy == frames[0].info["REF_energy"]


def test_other_keys_are_named_where_labels_are_missing(tmp_path):
    atoms = bulk("Cu", cubic=True)
    atoms.info["dft_energy"] = -1.0
    path = written(tmp_path, atoms)
    with pytest.raises(StructureError, match=r"structure 0: it has no label.*dft_energy"):
        read_labelled(path)
    assert read_labelled(path, energy_key="dft_energy")[0].energy == -1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config_energy_weight": 0.5}, "0 or 1"),
        ({"config_weight": -1.0}, "must not be negative"),
        ({"REF_energy": np.inf}, "energy must be a finite number"),
        ({"REF_stress": np.ones(4)}, r"nine numbers or six, not an array of \(4,\)"),
        ({"REF_virials": np.eye(3)}, "virials disagree"),
        ({"REF_hessian": np.ones(5)}, "has 5 numbers"),
    ],
)
def test_wrong_labels_are_refused_with_file_and_number(tmp_path, change, message):
    frames = crystals(2)
    frames[1].info |= change
    with pytest.raises(StructureError, match=rf"train.extxyz, structure 1: .*{message}"):
        read_labelled(written(tmp_path, frames))


def test_virials_of_a_molecule_are_refused(tmp_path):
    atoms = molecule("H2O", info={"REF_virials": np.eye(3), "REF_energy": 0.0})
    with pytest.raises(StructureError, match="no cell"):
        read_labelled(written(tmp_path, atoms))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"5": np.zeros((12, 12))}, "'5' is neither"),
        ({"0": np.zeros((12, 12)), "a": np.zeros((12, 12))}, "two Hessians"),
        ({"twin": np.zeros((12, 12))}, "2 structures are named 'twin'"),
        ({"0": np.zeros((9, 9))}, "that of 3 atoms, but it has 4"),
    ],
)
def test_hessians_that_fit_no_structure_are_refused(tmp_path, arrays, message):
    frames = crystals(3)
    for atoms, name in zip(frames, ["a", "twin", "twin"], strict=True):
        atoms.info["name"] = name
    path = written(tmp_path, frames)
    np.savez(tmp_path / "train.hessians.npz", **arrays)
    with pytest.raises(StructureError, match=message):
        read_labelled(path)


def test_files_that_cannot_be_read_are_named(tmp_path):
    for name, text in (("empty.xyz", ""), ("cut.extxyz", "5\n\nH 0 0 0\n"), ("odd.cif", "?")):
        (tmp_path / name).write_text(text)
        with pytest.raises(StructureError, match=name):
            read_labelled(tmp_path / name)
    with pytest.raises(StructureError, match="there is no file"):
        read_labelled(tmp_path / "none.xyz")
    path = written(tmp_path, crystals(1))
    (tmp_path / "bad.npz").write_text("text")
    np.save(tmp_path / "one.npy", np.zeros(3))
    for name, message in (("bad.npz", "npz"), ("one.npy", "savez"), ("no.npz", "there is no")):
        with pytest.raises(StructureError, match=message):
            read_labelled(path, hessians=tmp_path / name)


def test_isolated_atoms_are_kept_on_request_and_need_an_energy(tmp_path):
    lone = Atoms("Cu", info={"config_type": "IsolatedAtom", "REF_energy": -1.25})
    path = written(tmp_path, lone)
    with pytest.raises(StructureError, match="keep_isolated_atoms=True"):
        read_labelled(path)
    assert read_labelled(path, keep_isolated_atoms=True)[0].energy == -1.25
    with pytest.raises(StructureError, match="no 'other'"):
        isolated_atom_energies(path, energy_key="other")
    with pytest.raises(StructureError, match="second"):
        isolated_atom_energies(written(tmp_path, [lone, lone]))
