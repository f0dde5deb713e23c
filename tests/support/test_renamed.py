"""Public names under their old names."""

from __future__ import annotations

import importlib
import inspect
import re
from dataclasses import replace
from functools import cache

import pytest
import torch
from ase import Atoms
from ase.build import bulk
from springs import chain

import mace_functional as mf
from mace_functional.figures import thermo_figure
from mace_functional.interop.ase import MaceCalculator, PotentialCalculator
from mace_functional.interop.pysisyphus import PysisyphusCalculator
from mace_functional.interop.vibrations_data import from_vibrations_data, to_vibrations_data
from mace_functional.phonons import (
    AcousticBranches,
    Mesh,
    band_structure,
    converged_mesh_thermo,
    mesh_modes,
    mesh_thermo,
)
from mace_functional.support.renamed import RENAMED, positional_for_a_release
from mace_functional.vibrations import rigid_motions

NAMES = [(package, old, new) for package, names in RENAMED.items() for old, new in names.items()]


@pytest.mark.parametrize(("package", "old", "new"), NAMES)
def test_old_name_is_the_new_one_and_says_so(package, old, new):
    module = importlib.import_module(package)
    with pytest.warns(DeprecationWarning, match=rf"{package}\.{old} is now {package}\.{new}"):
        found = getattr(module, old)
    assert found is getattr(module, new)
    assert old not in dir(module)


def test_names_that_never_were_are_not_found():
    for package in RENAMED:
        with pytest.raises(AttributeError, match="never_was"):
            importlib.import_module(package).never_was  # noqa: B018


@cache
def unstable():
    """A chain of one atom whose waves all lower the energy."""
    return chain((1.0,), spring=-1.0)


@cache
def mesh():
    return mesh_modes(unstable(), Mesh.of(unstable().atoms, (4, 1, 1)))


def bands():
    return band_structure(unstable(), torch.tensor([[0.5, 0.0, 0.0], [0.25, 0.0, 0.0]]))


def normal_modes():
    return unstable_pair().gamma_modes()


def unstable_pair():
    return chain((1.0, 2.0), spring=-1.0)


def operator():
    spring = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    hessian = torch.kron(spring, torch.eye(3, dtype=torch.float64))
    x = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)

    def energy(positions, *_):
        return positions.reshape(-1) @ hessian @ positions.reshape(-1) / 2

    masses = torch.tensor([1.0, 2.0], dtype=torch.float64)
    return mf.HessianOperator(energy, x, torch.eye(3, dtype=torch.float64), None, masses)


def lowest():
    return mf.lowest_modes(operator(), 1, pbc=(False, False, False), preconditioner=torch.eye(6))


def told(modes):
    """Imaginary modes as values."""
    return [(mode.q.tolist(), mode.frequency) for mode in modes]


@pytest.mark.filterwarnings("ignore:.*imaginary modes:UserWarning")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (lambda: told(bands().imaginary), lambda: told(bands().imaginary_modes)),
        (lambda: told(mesh().imaginary()), lambda: told(mesh().imaginary_modes)),
        (
            lambda: [mode.frequency for mode in mesh().imaginary("THz")],
            lambda: sorted(f for f in mesh().frequencies_in("THz").flatten().tolist() if f < 0),
        ),
        (
            lambda: told(mesh_thermo(mesh(), 300.0).imaginary),
            lambda: told(mesh_thermo(mesh(), 300.0).imaginary_modes),
        ),
        (
            lambda: normal_modes().imaginary.tolist(),
            lambda: [mode.frequency for mode in normal_modes().imaginary_modes],
        ),
        (lambda: mesh().rigid.tolist(), lambda: mesh().n_rigid.tolist()),
        (lambda: AcousticBranches(3, None).count, lambda: AcousticBranches(3, None).n_branches),
        (lambda: mesh().frequencies().tolist(), lambda: mesh().frequencies.tolist()),
        (lambda: mesh().frequencies("THz").tolist(), lambda: mesh().frequencies_in("THz").tolist()),
        (lambda: lowest().frequencies().tolist(), lambda: lowest().frequencies.tolist()),
        (
            lambda: lowest().frequencies("meV").tolist(),
            lambda: lowest().frequencies_in("meV").tolist(),
        ),
    ],
)
def test_old_attribute_gives_the_same_and_warns(old, new, recwarn):
    with pytest.warns(DeprecationWarning, match=" is now ") as caught:
        before = old()
    assert [w.filename for w in caught if " is now " in str(w.message)] == [__file__]
    recwarn.clear()
    assert before == new()
    assert before
    assert not [w for w in recwarn if " is now " in str(w.message)]


# Options under their old names.


def relaxed(**options):
    return mf.relax(embedded(), bulk("NaCl", "rocksalt", a=5.7), fmax=0.05, **options).atoms.cell[:]


def lowest_with(**preconditioner):
    return mf.lowest_modes(operator(), 1, pbc=(False, False, False), **preconditioner).n_hvps


@pytest.mark.parametrize(
    ("renamed", "old", "new"),
    [
        (
            r"relax(cell=) is now relax(relax_cell=)",
            lambda: relaxed(cell=False),
            lambda: relaxed(relax_cell=False),
        ),
        (
            r"lowest_modes(model=) is now lowest_modes(preconditioner=)",
            lambda: lowest_with(model=torch.eye(6)),
            lambda: lowest_with(preconditioner=torch.eye(6)),
        ),
        (
            r"ScreenSettings(cell=) is now ScreenSettings(relax_cell=)",
            lambda: mf.ScreenSettings("embedded", cell=False).relax_cell,
            lambda: mf.ScreenSettings("embedded", relax_cell=False).relax_cell,
        ),
        (
            r"ScreenSettings(cell=) is now ScreenSettings(relax_cell=)",
            lambda: replace(mf.ScreenSettings("embedded"), cell=False).relax_cell,
            lambda: replace(mf.ScreenSettings("embedded"), relax_cell=False).relax_cell,
        ),
        (
            r"ScreenSettings.cell is now ScreenSettings.relax_cell",
            lambda: mf.ScreenSettings("embedded", relax_cell=False).cell,
            lambda: mf.ScreenSettings("embedded", relax_cell=False).relax_cell,
        ),
    ],
)
def test_old_option_does_the_same_and_warns(renamed, old, new, recwarn):
    with pytest.warns(DeprecationWarning, match=f"^{re.escape(renamed)}; "):
        before = old()
    recwarn.clear()
    torch.testing.assert_close(torch.as_tensor(before), torch.as_tensor(new()), rtol=0, atol=0)
    assert not [w for w in recwarn if " is now " in str(w.message)]


def test_old_option_of_a_screening_goes_where_the_new_one_goes(tmp_path):
    settings = mf.ScreenSettings("embedded")
    with (
        pytest.warns(DeprecationWarning, match=r"screen\(memory=\) is now screen\(memory_bud"),
        pytest.raises(ValueError, match="memory_budget must be a whole number"),
    ):
        mf.screen({"water": Atoms("H")}, tmp_path, settings, memory=-1)


# Options that were given by position.

FREQUENCIES = torch.tensor([[100.0, 200.0, 300.0], [50.0, 60.0, 70.0]], dtype=torch.float64)
POSITIONS = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.1, 0.0], [0.0, 1.0, 0.2]], dtype=torch.float64)
MATRIX = torch.eye(9, dtype=torch.float64)
MASSES = [1.0, 2.0, 3.0]


@cache
def embedded():
    return mf.load_model("embedded")


def axis(**options):
    return {"pbc": (True, False, False), "cell": torch.eye(3, dtype=torch.float64), **options}


def data():
    return to_vibrations_data(MATRIX, Atoms("H3", POSITIONS))


@pytest.mark.filterwarnings("ignore:.*imaginary modes:UserWarning")
@pytest.mark.parametrize(
    ("called", "old", "new"),
    [
        (
            "frequencies takes unit",
            lambda: mf.frequencies(MATRIX, MASSES, "THz"),
            lambda: mf.frequencies(MATRIX, MASSES, unit="THz"),
        ),
        (
            "harmonic_thermo takes weights, drop, unit",
            lambda: mf.harmonic_thermo(FREQUENCIES, 300.0, [1.0, 3.0], [1, 0], "THz").entropy,
            lambda: (
                mf.harmonic_thermo(
                    FREQUENCIES, 300.0, weights=[1.0, 3.0], drop=[1, 0], unit="THz"
                ).entropy
            ),
        ),
        (
            "rigid_motions takes pbc, cell",
            lambda: rigid_motions(POSITIONS, MASSES, *axis().values()),
            lambda: rigid_motions(POSITIONS, MASSES, **axis()),
        ),
        (
            "converged_mesh_thermo takes tolerance",
            lambda: converged_mesh_thermo(chain((1.0,)), 300.0, 0.2).tolerance,
            lambda: converged_mesh_thermo(chain((1.0,)), 300.0, tolerance=0.2).tolerance,
        ),
        (
            "Phonons.gamma_modes takes unit",
            lambda: unstable_pair().gamma_modes("THz").frequencies,
            lambda: unstable_pair().gamma_modes(unit="THz").frequencies,
        ),
        (
            "from_ase takes skin",
            lambda: mf.from_ase(bulk("Al"), embedded(), 0.7).graph.senders,
            lambda: mf.from_ase(bulk("Al"), embedded(), skin=0.7).graph.senders,
        ),
        (
            "from_vibrations_data takes unit",
            lambda: from_vibrations_data(data(), "meV").frequencies,
            lambda: from_vibrations_data(data(), unit="meV").frequencies,
        ),
        (
            "PotentialCalculator takes skin",
            lambda: PotentialCalculator(embedded(), 0.4).skin,
            lambda: PotentialCalculator(embedded(), skin=0.4).skin,
        ),
        (
            "MaceCalculator takes skin",
            lambda: MaceCalculator(embedded(), 0.4).skin,
            lambda: MaceCalculator(embedded(), skin=0.4).skin,
        ),
        (
            "PysisyphusCalculator takes charge, mult",
            lambda: PysisyphusCalculator(embedded(), 1, 2).mult,
            lambda: PysisyphusCalculator(embedded(), charge=1, mult=2).mult,
        ),
        (
            "thermo_figure takes weights",
            lambda: len(thermo_figure(FREQUENCIES, [300.0], 60.0, torch.ones(2) / 2).axes),
            lambda: len(thermo_figure(FREQUENCIES, [300.0], 60.0, weights=torch.ones(2) / 2).axes),
        ),
        (
            "HessianOperator.dense takes progress",
            lambda: operator().dense(False),
            lambda: operator().dense(progress=False),
        ),
    ],
    ids=lambda value: value.partition(" ")[0] if isinstance(value, str) else "",
)
def test_options_by_position_give_the_same_and_warn(called, old, new, recwarn):
    with pytest.warns(DeprecationWarning, match=f"^{called} by keyword;") as caught:
        before = old()
    assert [w.filename for w in caught if " by keyword" in str(w.message)] == [__file__]
    recwarn.clear()
    torch.testing.assert_close(torch.as_tensor(before), torch.as_tensor(new()), rtol=0, atol=0)
    assert not [w for w in recwarn if " by keyword" in str(w.message)]


def test_what_never_was_positional_is_refused():
    @positional_for_a_release("first")
    def function(operand, *, first=1, second=2):
        return operand, first, second

    assert function(0, first=3) == (0, 3, 2)
    with pytest.warns(DeprecationWarning, match="takes first by keyword"):
        assert function(0, 3) == (0, 3, 2)
    with pytest.raises(TypeError, match="positional"):
        function(0, 3, 4)
    with (
        pytest.warns(DeprecationWarning, match="takes first by keyword"),
        pytest.raises(TypeError, match="multiple values"),
    ):
        function(0, 3, first=4)


def operands_with_defaults(function):
    """Parameters of a function that may be given by position, and need not be given."""
    parameters = inspect.signature(function).parameters.values()
    return {
        p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is not p.empty
    }


OPERANDS = {"masses", "path", "spacing", "settings", "structure", "positions", "cell", "atoms"}
"""What a function computes from, though it may be left out; all else are options."""


def test_options_of_public_functions_are_given_by_keyword():
    found = {
        f"{package.__name__}.{name}": options
        for package in (mf, mf.phonons, mf.vibrations, mf.potential, mf.derivatives)
        for name in package.__all__
        if inspect.isfunction(value := getattr(package, name))
        and (options := operands_with_defaults(value) - OPERANDS)
    }
    assert not found
