"""Public names under their old names."""

from __future__ import annotations

import importlib

import pytest

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
