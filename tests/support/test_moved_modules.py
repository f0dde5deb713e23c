"""Modules under the names that they had before."""

from __future__ import annotations

import importlib
import sys
import warnings

import pytest

import mace_functional as mf
from mace_functional.support.moved_modules import MOVED


@pytest.fixture
def never_imported():
    """No old name has been imported in this process yet."""
    for old in MOVED:
        sys.modules.pop(f"mace_functional.{old}", None)


@pytest.mark.parametrize("old", MOVED)
def test_old_names_work_and_say_where_the_module_is(never_imported, old):
    new = importlib.import_module(f"mace_functional.{MOVED[old][0]}")
    with pytest.warns(DeprecationWarning, match=rf"{old} has moved .* {new.__name__}"):
        module = importlib.import_module(f"mace_functional.{old}")
    public = next(name for name, value in vars(new).items() if value is not None and name[0] != "_")
    assert getattr(module, public) is getattr(new, public)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = module.nothing


def test_old_imports_of_functions_give_the_functions_of_today(never_imported):
    with pytest.warns(DeprecationWarning, match=r"mace_functional\.thermo has moved") as caught:
        from mace_functional.thermo import harmonic_thermo
    with pytest.warns(DeprecationWarning, match=r"mace_functional\.graph has moved"):
        from mace_functional.graph import Graph
    assert caught[0].filename == __file__  # the warning is of the line that imports
    assert harmonic_thermo is mf.harmonic_thermo
    assert Graph is mf.Graph


def test_modules_that_never_were_are_not_found():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("mace_functional.never")


def test_modules_that_stayed_give_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("phonons", "units", "optimize.saddle", "interop.phonopy", "figures"):
            importlib.import_module(f"mace_functional.{name}")
