"""Public names under their old names."""

from __future__ import annotations

import importlib
from functools import cache

import pytest
import torch
from springs import chain

import mace_functional as mf
from mace_functional.phonons import AcousticBranches, Mesh, band_structure, mesh_modes, mesh_thermo
from mace_functional.support.renamed import RENAMED

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


def lowest():
    spring = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    hessian = torch.kron(spring, torch.eye(3, dtype=torch.float64))
    x = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)

    def energy(positions, *_):
        return positions.reshape(-1) @ hessian @ positions.reshape(-1) / 2

    masses = torch.tensor([1.0, 2.0], dtype=torch.float64)
    op = mf.HessianOperator(energy, x, torch.eye(3, dtype=torch.float64), None, masses)
    return mf.lowest_modes(op, 1, pbc=(False, False, False), preconditioner=hessian + torch.eye(6))


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
