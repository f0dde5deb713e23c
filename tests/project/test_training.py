"""The training of the embedded model, on a few small structures."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import spglib
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list
from conftest import ROOT, shared_file

import mace_functional as mf
from mace_functional.training import LabelledStructure, training_run
from mace_functional.units import frequency_factor

sys.path.insert(0, str(ROOT / "training"))
pytest.importorskip("rdkit", reason="the training structures need rdkit")

import distil
import frameworks
import linker_edits
import structures
import teacher
from molecules import held_out_molecules, molecules
from packings import packings
from published_crystals import HELD_OUT, crystals, read_crystals
from student import ELEMENTS

pytestmark = pytest.mark.slow  # of the scripts for training, not of the package

EMBEDDED = ROOT / "mace_functional" / "mace" / "embedded" / "mace-embedded.safetensors"


def small(folder: Path) -> list[tuple[str, Atoms]]:
    return [
        ("water", molecule("H2O")),
        ("zinc oxide", bulk("ZnO", "wurtzite", a=3.25, c=5.2)),
        ("silane", molecule("SiH4")),
        ("methanol", molecule("CH3OH")),
    ]


@pytest.fixture(scope="module")
def labels(tmp_path_factory) -> Path:
    """Results of the embedded model, as the teacher, for a few structures."""
    folder = tmp_path_factory.mktemp("labels")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(structures, "training_structures", small)
        teacher.label_all(EMBEDDED, folder, folder, workers=2, report=lambda line: None)
    return folder


@pytest.fixture(scope="module")
def samples(labels) -> list[LabelledStructure]:
    return teacher.read_all(labels)


def options(folder: Path, epochs: int) -> argparse.Namespace:
    sizes = {"channels": 4, "max_ell": 1, "batch_size": 6}
    steps = {"epochs": epochs, "rate": 0.01, "seed": 0}
    return argparse.Namespace(output=folder, weights=None, **sizes, **steps)


SOFT = ", soft modes"


def test_labels_are_what_the_teacher_says(samples):
    assert {s.name.removesuffix(SOFT) for s in samples} == {name for name, _ in small(ROOT)}
    model = mf.load_model("embedded")
    for sample in samples:
        s = mf.from_ase(sample.atoms, model)
        energy, here = mf.energy_fn(model, s.graph), (s.positions, s.cell, model.params)
        if not sample.name.endswith(SOFT):
            assert sample.energy == pytest.approx(float(energy(*here)), rel=1e-5)
            np.testing.assert_allclose(sample.forces, mf.forces(energy)(*here), atol=1e-3)
        if sample.stress is not None:
            np.testing.assert_allclose(sample.stress, mf.stress(energy)(*here), atol=1e-5)
        if (curvature := sample.curvature) is None:  # with close contacts
            continue
        for v, hv in zip(curvature.directions, curvature.products, strict=True):
            expected = mf.hvp(energy)(*here, torch.as_tensor(v))
            np.testing.assert_allclose(hv, expected, atol=1e-2)


def test_structures_are_relaxed_first_and_then_displaced(samples):
    for name, atoms in small(ROOT):
        own = [s for s in samples if s.name == name]
        most = 1 + 4 + 4 + atoms.pbc.all() * 6 + 1
        assert most - 2 <= len(own) <= most  # those with very large forces are left out
        assert max(abs(s.forces).max() for s in own) < teacher.LARGEST_CLOSE_FORCE
        assert abs(own[0].forces).max() < 0.03
        assert min(abs(s.forces).max() for s in own[1:]) > 0.03
        assert all((s.stress is not None) == atoms.pbc.all() for s in own)


def test_soft_modes_are_among_the_lowest_vibrations_of_the_relaxed_structure(samples):
    model = mf.load_model("embedded")
    assert "water" + SOFT not in {s.name for s in samples}  # its vibrations are stiff
    (soft,) = (s for s in samples if s.name == "methanol" + SOFT)
    (relaxed, *_) = (s for s in samples if s.name == "methanol")
    assert (soft.energy, soft.forces, soft.stress) == (None, None, None)
    assert (soft.atoms.positions == relaxed.atoms.positions).all()
    v, products = soft.curvature.directions, soft.curvature.products
    np.testing.assert_allclose(np.linalg.norm(v, axis=(1, 2)), 1)
    assert np.linalg.norm(products, axis=(1, 2)).max() < teacher.SOFT
    masses = relaxed.atoms.get_masses()[:, None]
    found = frequency_factor("cm-1") * np.sqrt(
        (v * products).sum((1, 2)) / (masses * v**2).sum((1, 2))
    )
    lowest = mf.gamma_modes(model, relaxed.atoms).frequencies[: teacher.SOFT_MODES]
    np.testing.assert_allclose(found, lowest[: len(found)], rtol=0.02)


def test_labels_that_are_there_are_kept(labels, monkeypatch):
    monkeypatch.setattr(structures, "training_structures", small)
    before = {path: path.stat().st_mtime_ns for path in labels.iterdir()}
    lines: list[str] = []
    teacher.label_all(EMBEDDED, labels, labels, 2, lines.append)
    assert lines == []
    assert {path: path.stat().st_mtime_ns for path in labels.iterdir()} == before


def test_training_lowers_the_loss_and_writes_a_model(samples, tmp_path):
    distil.train(options(tmp_path, epochs=40), samples)
    log = [json.loads(line) for line in (tmp_path / "log-1.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in log] == list(range(41))
    assert log[-1]["loss"] < 0.7 * log[1]["loss"]
    model = mf.load_model(tmp_path / "mace-embedded.safetensors")
    assert model.atomic_numbers == ELEMENTS


def test_training_that_was_interrupted_ends_the_same(samples, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    distil.train(options(whole, epochs=3), samples)
    take, calls = training_run.TrainingRun._take, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return take(*args)

    monkeypatch.setattr(training_run.TrainingRun, "_take", interrupted)
    with pytest.raises(KeyboardInterrupt):
        distil.train(options(parts, epochs=3), samples)
    distil.train(options(parts, epochs=3), samples)
    once = mf.load_model(whole / "mace-embedded.safetensors").params
    twice = mf.load_model(parts / "mace-embedded.safetensors").params
    assert all(torch.equal(once[k], twice[k]) for k in once)


@pytest.fixture(scope="module")
def trained() -> list[tuple[str, Atoms]]:
    return list(frameworks.frameworks(shared_file("heatcapacity", "structures")))


@pytest.fixture(scope="module")
def held_out() -> dict[str, Atoms]:
    return dict(frameworks.held_out_frameworks(shared_file("heatcapacity", "structures")))


def test_training_frameworks_are_known_apart_and_not_those_of_the_test(trained, held_out):
    found = dict(trained)
    assert len(found) == len(trained) > 25
    assert sum(len(atoms) for atoms in found.values()) < 2000
    for name, atoms in [*found.items(), *held_out.items()]:
        assert set(atoms.numbers.tolist()) <= set(ELEMENTS), name
        first, second, distances = neighbor_list("ijd", atoms, 2.0)
        assert distances.min() > 0.85, name
        heavy = (atoms.numbers[first] > 1) & (atoms.numbers[second] > 1)
        assert distances[heavy].min() > 1.15, name
        assert _free_of_loose_atoms(atoms), name
    compositions = {a.get_chemical_formula(empirical=True) for a in found.values()}
    for name, atoms in held_out.items():
        assert atoms.get_chemical_formula(empirical=True) not in compositions, name


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("MOF-5 with fumarate", "C24H12O26Zn8"),
        ("MOF-5 with N and OH", "C45H21N3O29Zn8"),
        ("RSM0062 with naphthalate", "C24H14Al2O10"),
        ("DMOF-1", "C22H20N2O8Zn2"),
        ("zinc imidazolate", "C36H36N24Zn6"),
        ("COF-LZU1", "C36H24N6"),
        ("PAF of C and phenylene", "C26H16"),
        ("IRMOF-0", "C24O26Zn8"),
        ("aluminium fumarate", "C8H6Al2O10"),
        ("COF with azo groups", "C12H6N6"),
        ("paddle wheel of naphthalate", "C28H16N2O8Zn2"),
    ],
)
def test_built_frameworks_have_the_composition_of_their_parts(trained, held_out, name, formula):
    assert {**dict(trained), **held_out}[name].get_chemical_formula() == formula


def _free_of_loose_atoms(atoms: Atoms) -> bool:
    """Whether all carbon has two to four neighbours, and all hydrogen one."""
    bonds = linker_edits.Bonds.of(atoms)
    degrees = np.bincount(bonds.first, minlength=len(atoms))
    carbon, hydrogen = degrees[atoms.numbers == 6], degrees[atoms.numbers == 1]
    return bool(np.isin(carbon, (2, 3, 4)).all() and (hydrogen == 1).all())


def test_training_structures_are_known_apart_and_not_those_of_the_test():
    found = [*molecules(), *crystals(), *packings()]
    names = [name for name, _ in found]
    assert len(set(names)) == len(names) > 400
    for name, atoms in found:
        assert set(atoms.numbers.tolist()) <= set(ELEMENTS), name
        distances = atoms.get_all_distances(mic=bool(atoms.pbc.all()))
        assert distances[~np.eye(len(atoms), dtype=bool)].min() > 0.7, name
    _no_crystal_of_the_test(found)
    for name, held in held_out_molecules():
        formula = held.get_chemical_formula()
        same = [a for _, a in found if a.get_chemical_formula() == formula and not a.pbc.any()]
        assert all(sorted(_neighbours(a)) != sorted(_neighbours(held)) for a in same), name
    quartz = mf.example_structure("quartz")
    for name, atoms in found:
        if atoms.get_chemical_formula(empirical=True) == "O2Si":
            difference = atoms.get_volume() / len(atoms) - quartz.get_volume() / len(quartz)
            assert abs(difference) > 0.1, name


def test_molecules_are_packed_to_crystals_of_their_own_bonds():
    alone = dict(molecules())
    packed = dict(packings())
    for name, crystal in packed.items():
        one = alone[name.removesuffix(", packed")]
        copies = len(crystal) // len(one)
        assert copies in (1, 2, 4), name
        assert len(crystal) >= 8, name
        assert _bond_count(crystal) == copies * _bond_count(one), name
    again = dict(packings())
    assert all((again[name].positions == packed[name].positions).all() for name in packed)


def _bond_count(atoms: Atoms) -> int:
    return len(linker_edits.Bonds.of(atoms).first)


def _no_crystal_of_the_test(found: list[tuple[str, Atoms]]) -> None:
    """Fail where a crystal has composition, space group and volume of one of the test."""
    held = list(read_crystals(HELD_OUT))
    assert len(held) == 17
    known = {name: _fingerprint(atoms) for name, atoms in found if atoms.pbc.all()}
    for name, atoms in held:
        assert set(atoms.numbers.tolist()) <= set(ELEMENTS), name
        assert name not in known
        formula, group, volume = _fingerprint(atoms)
        for other, (other_formula, other_group, other_volume) in known.items():
            same = (other_formula, other_group) == (formula, group)
            assert not same or abs(other_volume / volume - 1) > 0.1, (name, other)


def _fingerprint(atoms: Atoms) -> tuple[str, int, float]:
    """The reduced composition, the number of the space group, and the volume per atom."""
    cell = atoms.cell[:], atoms.get_scaled_positions(), atoms.numbers
    group = spglib.get_symmetry_dataset(cell, symprec=0.05).number
    return atoms.get_chemical_formula(empirical=True), group, atoms.get_volume() / len(atoms)


def _neighbours(atoms: Atoms) -> list[tuple[int, tuple[int, ...]]]:
    """Each atom with the elements bonded to it: tells isomers apart."""
    close = (atoms.get_all_distances() < 1.7) & ~np.eye(len(atoms), dtype=bool)
    return [
        (int(z), tuple(sorted(atoms.numbers[row].tolist())))
        for z, row in zip(atoms.numbers, close, strict=True)
    ]
