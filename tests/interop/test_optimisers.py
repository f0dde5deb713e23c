"""Optimisers of other packages: scipy, Sella, pysisyphus, and what their page says of them."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from ase import units
from ase.constraints import FixAtoms
from ase.optimize import BFGS
from conftest import ROOT
from helpers import mostly_slow
from models import TOTAL_CHARGE, build, molecule
from scipy.optimize import minimize

import mace_functional as mf
from mace_functional.interop.pysisyphus import PysisyphusCalculator
from mace_functional.interop.scipy import minimize_arguments

BEGINNING, *SECTIONS = (ROOT / "docs" / "howto" / "optimisers.md").read_text().split("\n## ")


@pytest.fixture(scope="module")
def ethanol():
    atoms = mf.example_structure("ethanol")
    atoms.rattle(0.05, seed=1)
    return atoms


@pytest.fixture(scope="module")
def lowest(model, ethanol):
    """Energy of the minimum that ASE's BFGS finds."""
    atoms = ethanol.copy()
    atoms.calc = mf.MaceCalculator(model)
    assert BFGS(atoms, logfile=None).run(fmax=1e-4, steps=200)
    return atoms.get_potential_energy()


def blocks(text):
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def title(section):
    return section.split("\n")[0]


@pytest.mark.parametrize("section", SECTIONS, ids=title)
def test_the_page_runs(section, lowest, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # pysisyphus writes files
    name = title(section)
    if name in ("Sella", "pysisyphus"):
        pytest.importorskip(name.lower())
    names: dict = {}
    for block in blocks(BEGINNING) + blocks(section):
        exec(block, names)
    atoms, model = names["atoms"], names["model"]
    if name == "scipy":
        assert names["E"](names["s"].positions, names["s"].cell, model.params) == pytest.approx(
            lowest, abs=1e-6
        )
        x = names["found"].x.reshape(-1, 3)
        assert 1.0 < np.linalg.norm(x[2] - x[3]) < 1.1
        assert names["found"].success
    elif name in ("Sella", "pysisyphus"):
        assert mf.gamma_modes(model, atoms).largest_force < 5e-3


@pytest.mark.parametrize(
    "method",
    [
        "trust-krylov",
        *(pytest.param(m, marks=pytest.mark.slow) for m in ("trust-ncg", "Newton-CG")),
    ],
)
def test_scipy_finds_the_minimum_of_bfgs(model, ethanol, lowest, method):
    found = minimize(**minimize_arguments(model, ethanol), method=method)
    assert found.success
    assert found.fun == pytest.approx(lowest, abs=1e-6)
    assert mf.MaceCalculator(model).get_potential_energy(ethanol) > lowest + 0.1


def test_scipy_gets_gradient_and_products_of_the_hessian(model):
    atoms = mf.example_structure("quartz")
    atoms.rattle(0.05, seed=2)
    calculator = mf.MaceCalculator(model)
    arguments = minimize_arguments(model, atoms)
    energy, gradient = arguments["fun"](arguments["x0"])
    np.testing.assert_array_equal(arguments["x0"], atoms.positions.ravel())
    assert energy == pytest.approx(calculator.get_potential_energy(atoms), abs=1e-10)
    np.testing.assert_allclose(gradient, -calculator.get_forces(atoms).ravel(), atol=1e-11)
    vectors = np.random.default_rng(0).normal(size=(2, 27))
    hessian = calculator.get_hessian(atoms)
    for vector in vectors:
        product = arguments["hessp"](arguments["x0"], vector)
        np.testing.assert_allclose(product, hessian @ vector, atol=1e-10)


@pytest.mark.parametrize("skin", mostly_slow([0.0, 0.3], [0.3]))
def test_neighbours_of_scipy_follow_the_atoms(model, skin):
    atoms = mf.example_structure("quartz")
    arguments = minimize_arguments(model, atoms, skin=skin)
    calculator = mf.MaceCalculator(model, skin=0.0)
    for size, seed in ((0.02, 1), (0.5, 2), (0.02, 3)):
        moved = atoms.copy()
        moved.rattle(size, seed=seed)
        x = moved.positions.ravel()
        energy, gradient = arguments["fun"](x)
        assert energy == pytest.approx(calculator.get_potential_energy(moved), abs=1e-9)
        np.testing.assert_allclose(gradient, -calculator.get_forces(moved).ravel(), atol=1e-9)
        product = arguments["hessp"](x, np.ones_like(x))
        np.testing.assert_allclose(product, 0, atol=1e-9)
        product = arguments["hessp"](x, np.eye(27)[4])
        np.testing.assert_allclose(product, calculator.get_hessian(moved)[4], atol=1e-9)


def test_products_at_one_geometry_share_one_linearisation(model, ethanol, monkeypatch):
    made = []

    class Counting(mf.HessianOperator):
        def __init__(self, *args, **kwargs):
            made.append(args[1])
            super().__init__(*args, **kwargs)

    monkeypatch.setattr("mace_functional.interop.scipy.HessianOperator", Counting)
    found = minimize(**minimize_arguments(model, ethanol), method="trust-krylov")
    assert 1 < len(made) <= found.nit + 1
    assert found.nhev > 2 * len(made)


def test_scipy_leaves_fixed_atoms_where_they_are(model, ethanol):
    atoms = ethanol.copy()
    atoms.set_constraint(FixAtoms([0, 1]))
    arguments = minimize_arguments(model, atoms)
    assert arguments["x0"].shape == (21,)
    found = minimize(**arguments, method="trust-ncg")
    np.testing.assert_array_equal(atoms.positions, ethanol.positions)
    atoms.positions[2:] = found.x.reshape(7, 3)
    atoms.calc = mf.MaceCalculator(model)
    assert found.fun == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    forces = np.linalg.norm(atoms.get_forces(apply_constraint=False), axis=1)
    assert forces[2:].max() < 1e-3 < forces[:2].min()


def test_scipy_works_in_float64_on_a_model_in_float32(ethanol):
    model = mf.load_model("embedded", dtype=torch.float32)
    arguments = minimize_arguments(model, ethanol)
    x = arguments["x0"]
    energy, gradient = arguments["fun"](x)
    product = arguments["hessp"](x, np.ones_like(x))
    assert isinstance(energy, float)
    assert x.dtype == gradient.dtype == product.dtype == np.float64


def test_pysisyphus_gets_atomic_units(model, ethanol):
    ours, theirs = PysisyphusCalculator(model), mf.MaceCalculator(model)
    symbols = tuple(ethanol.get_chemical_symbols())
    coords = ethanol.positions.ravel() / units.Bohr
    results = ours.get_hessian(symbols, coords)
    energy = theirs.get_potential_energy(ethanol)
    forces, hessian = theirs.get_forces(ethanol).ravel(), theirs.get_hessian(ethanol)
    assert set(results) == {"energy", "forces", "hessian"}
    assert results["energy"] == pytest.approx(energy / units.Hartree, rel=1e-7)
    scale = units.Bohr / units.Hartree
    np.testing.assert_allclose(results["forces"], forces * scale, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(
        results["hessian"], hessian * scale * units.Bohr, rtol=1e-5, atol=1e-8
    )
    assert ours.get_energy(symbols, coords) == {"energy": results["energy"]}
    lowered = ours.get_forces([symbol.lower() for symbol in symbols], coords)
    np.testing.assert_array_equal(lowered["forces"], results["forces"])


def test_forces_and_hessian_of_pysisyphus_are_derivatives_of_its_energy(model, ethanol):
    calculator = PysisyphusCalculator(model)
    symbols, coords = ethanol.get_chemical_symbols(), ethanol.positions.ravel() / units.Bohr
    results, step = calculator.get_hessian(symbols, coords), 1e-4
    direction = np.random.default_rng(1).normal(size=coords.shape)
    up, down = (
        calculator.get_forces(symbols, coords + sign * step * direction) for sign in (1, -1)
    )
    slope = (up["energy"] - down["energy"]) / (2 * step)
    assert slope == pytest.approx(-results["forces"] @ direction, rel=1e-6)
    change = (down["forces"] - up["forces"]) / (2 * step)
    np.testing.assert_allclose(results["hessian"] @ direction, change, atol=1e-6)


def test_pysisyphus_passes_on_the_charge():
    model = mf.load_model(build(seed=1, embedding_specs=TOTAL_CHARGE))
    atoms = molecule()
    coords = atoms.positions.ravel() / units.Bohr
    atoms.info["charge"] = 1
    expected = mf.MaceCalculator(model).get_potential_energy(atoms) / units.Hartree
    symbols = atoms.get_chemical_symbols()
    charged, neutral = (
        PysisyphusCalculator(model, charge=charge).get_energy(symbols, coords)["energy"]
        for charge in (1, 0)
    )
    assert charged == pytest.approx(expected, rel=1e-7)
    assert abs(charged - neutral) > 1e-6
