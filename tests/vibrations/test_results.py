"""Results are printed in a line, compare and hash; swapped arguments are told their order."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import ase.thermochemistry
import ase.units
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

import mace_functional as mf
from mace_functional.optimize.relaxation import RelaxStep
from mace_functional.optimize.saddle_search import SaddleStep
from mace_functional.phonons.mesh_sums import ConvergenceRow, MeshStep
from mace_functional.vibrations.imaginary import ImaginaryMode

LONGEST = 400
"""Characters of a printed result."""


@cache
def model() -> mf.MaceModel:
    return mf.load_model("embedded")


@cache
def salt() -> mf.Phonons:
    return mf.phonons_of(model(), bulk("NaCl", "rocksalt", a=5.6))


def modes() -> Any:
    return mf.mesh_modes(salt(), mf.Mesh.of(salt().atoms, (2, 2, 2)))


def operator(masses: Any = None) -> mf.HessianOperator:
    s = mf.from_ase(molecule("H2O"), model())
    energy = mf.energy_fn(model(), s.graph)
    weights = s.masses if masses else None
    return mf.HessianOperator(energy, s.positions, s.cell, model().params, weights)


def lowest() -> Any:
    s = mf.from_ase(molecule("H2O"), model())
    return mf.lowest_modes(operator(True), 2, pbc=[False] * 3, numbers=s.numbers)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "shown"),
    [
        (model, "MaceModel(2 interactions"),
        (lambda: mf.from_ase(molecule("H2O"), model()), "Structure(positions (3, 3)"),
        (lambda: mf.relax(model(), molecule("H2O")), "RelaxResult(converged"),
        (
            lambda: mf.find_saddle(model(), molecule("NH3"), max_steps=1, connect=False),
            "SaddleResult(not converged",
        ),
        (lambda: mf.gamma_modes(model(), molecule("CH4")), "NormalModes(9 modes of 5 atoms; "),
        (lowest, "LowestModes(lowest 2 of 9 modes: "),
        (lambda: mf.check_stability(model(), molecule("H2O")), "Stability(a"),
        (salt, "Phonons(ClNa, 2 atoms; D(q) from ForceConstants(2 atoms"),
        (lambda: modes().mesh, "Mesh(2 x 2 x 2, 8 wave vectors, 3 inequivalent)"),
        (modes, "MeshModes(2 x 2 x 2, 8 wave vectors, 3 inequivalent; 6 modes each; "),
        (lambda: mf.band_structure(salt(), points=4), "BandStructure(Γ-X-U|K-Γ-L-W-X; "),
        (lambda: mf.density_of_states(modes()), "DensityOfStates(0.0 to "),
        (
            lambda: mf.harmonic_thermo(torch.tensor([100.0, 200.0]), 300.0, unit="cm-1"),
            "HarmonicThermo(300 K: heat capacity ",
        ),
        (lambda: salt().force_constants, "ForceConstants(2 atoms"),
        (operator, "HessianOperator((9, 9), torch.float64, cpu)"),
        (
            lambda: ImaginaryMode(torch.zeros(3), -10.0, torch.zeros(9, 3)),
            "ImaginaryMode(frequency -10.0; q = 0, 0, 0)",
        ),
    ],
    ids=lambda x: x.partition("(")[0] if isinstance(x, str) else "",
)
def test_results_are_printed_in_a_line(make, shown):
    result = make()
    text = repr(result)
    assert text.startswith(shown)
    assert len(text) < LONGEST
    assert "\n" not in text
    assert str(result) == text
    assert result == result
    assert hash(result) == hash(result)


def test_a_notebook_shows_thermodynamics_as_a_table_in_units_of_chemists():
    """Water: three modes of known frequency, and 18.015 amu."""
    modes = mf.gamma_modes(model(), mf.relax(model(), molecule("H2O")).atoms)
    thermo = mf.harmonic_thermo(modes, [300.0, 1000.0])
    rows = re.findall(r"<tr>(.*?)</tr>", thermo._repr_html_())
    head, *body = (re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in rows)
    assert head[:4] == ["T (K)", "Cv (J/(mol K))", "Cv (J/(g K))", "S (J/(mol K))"]
    ours = ase.thermochemistry.HarmonicThermo(modes.frequencies.numpy() * ase.units.invcm)
    for kelvin, row in zip([300.0, 1000.0], body, strict=True):
        per_mole = ase.units.mol / ase.units.J
        assert float(row[0]) == kelvin
        entropy = ours.get_entropy(kelvin, verbose=False) * per_mole
        assert float(row[3]) == pytest.approx(entropy, abs=2e-3)
        assert float(row[2]) == pytest.approx(float(row[1]) / 18.015, abs=2e-4)


def test_results_are_shown_by_shape_under_a_transform():
    def heat(frequencies):
        thermo = mf.harmonic_thermo(frequencies, 300.0, unit="cm-1")
        shown.extend([repr(thermo), thermo._repr_html_()])
        return thermo.heat_capacity

    shown: list[str] = []
    torch.func.grad(heat)(torch.tensor([100.0, 200.0]).double())
    assert all("under a transform" in text for text in shown)


def test_specific_heat_capacity_needs_a_mass():
    thermo = mf.harmonic_thermo([100.0], 300.0, unit="cm-1")
    assert thermo.specific_heat_capacity([2.0]) == thermo.molar_heat_capacity / 2
    with pytest.raises(ValueError, match="give specific_heat_capacity the masses"):
        thermo.specific_heat_capacity()
    assert "g K" not in thermo._repr_html_()


@pytest.mark.parametrize(
    "make", [model, lambda: mf.from_ase(molecule("H2O"), model())], ids=["Model", "Structure"]
)
def test_two_results_of_tensors_are_compared_as_objects(make):
    other = make()
    other = dataclasses.replace(other)
    assert (make() == other) is False
    assert len({make(), other}) == 2


def test_no_class_with_tensors_compares_them_entry_by_entry():
    found = []
    for info in pkgutil.walk_packages(mf.__path__, "mace_functional."):
        if "mace_torch" in info.name or "__main__" in info.name:
            continue
        module = importlib.import_module(info.name)
        for name, cls in vars(module).items():
            if not (dataclasses.is_dataclass(cls) and isinstance(cls, type)):
                continue
            arrays = [f for f in dataclasses.fields(cls) if holds_arrays(str(f.type))]
            if arrays and cls.__eq__ is not object.__eq__:
                found.append(f"{cls.__module__}.{name}")
    assert sorted(set(found)) == []


def test_results_are_frozen_dataclasses_but_for_what_transforms_return():
    packages = mf, mf.phonons, mf.vibrations, mf.derivatives, mf.potential
    classes = {
        cls for p in packages for name in p.__all__ if isinstance(cls := getattr(p, name), type)
    }
    classes |= {RelaxStep, SaddleStep, ConvergenceRow, MeshStep}
    assert {cls for cls in classes if issubclass(cls, tuple)} == {
        mf.HarmonicThermo,
        mf.IdealGasThermo,
    }
    results = {cls for cls in classes if dataclasses.is_dataclass(cls)}
    assert {RelaxStep, SaddleStep, ConvergenceRow, MeshStep, mf.RelaxResult} < results
    assert not [cls for cls in results if not cls.__dataclass_params__.frozen]


def holds_arrays(annotation: str) -> bool:
    return any(part in annotation for part in ("Tensor", "ndarray", "NDArray", "Graph"))


# Arguments in the wrong order, or of the wrong kind.

SWAPPED: dict[str, Callable[[mf.MaceModel, Atoms], Any]] = {
    "from_ase": lambda m, a: mf.from_ase(m, a),
    "energy_fn": lambda m, a: mf.energy_fn(mf.from_ase(a, m).graph, m),
    "dynamical_matrix_fn": lambda m, a: mf.dynamical_matrix_fn(mf.from_ase(a, m).graph, m),
    "relax": lambda m, a: mf.relax(a, m),
    "gamma_modes": lambda m, a: mf.gamma_modes(a, m),
    "phonons_of": lambda m, a: mf.phonons_of(a, m),
    "force_constants": lambda m, a: mf.force_constants(a, m),
    "find_saddle": lambda m, a: mf.find_saddle(a, m),
    "check_stability": lambda m, a: mf.check_stability(a, m),
    "follow_mode": lambda m, a: mf.follow_mode(a, m, np.ones((3, 3))),
}


@pytest.mark.parametrize("name", SWAPPED)
def test_swapped_arguments_are_told_their_order(name):
    with pytest.raises(TypeError, match=rf"^{name}\(.*\) takes an? .*: they are swapped$"):
        SWAPPED[name](model(), molecule("H2O"))


@pytest.mark.parametrize("call", [mf.relax, mf.gamma_modes, mf.phonons_of, mf.find_saddle])
def test_a_name_is_no_model(call):
    with pytest.raises(
        TypeError, match=r"takes a Potential and an Atoms in this order, not str and"
    ):
        call("small", molecule("H2O"))


def test_masses_and_positions_in_the_wrong_order_are_refused():
    s = mf.from_ase(molecule("H2O"), model())
    hessian = torch.eye(9).double()
    with pytest.raises(ValueError, match=r"masses \(N,\), not \(3,\) and \(3, 3\)"):
        mf.normal_modes(hessian, s.positions, s.masses, pbc=[False] * 3)
