"""Public names under their old names, for one release."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

RENAMED = {
    "mace_functional": {
        "Model": "MaceModel",
        "compiled": "compile_checked",
        "frequencies_on": "mesh_modes",
    },
    "mace_functional.phonons": {
        "frequencies_on": "mesh_modes",
        "lattice_modes": "modes_at_q",
    },
}
"""Of each package, its old public names and what they are called now."""


def with_old_names(package: str, present: Callable[[str], Any]) -> Callable[[str], Any]:
    """A `__getattr__` of a package that knows its old names too.

    Args:
        package: Its name, a key of `RENAMED`.
        present: Finds its public names, or raises AttributeError.
    """

    def find(name: str) -> Any:
        new = RENAMED[package].get(name)
        if new is None:
            return present(name)
        warn_renamed(f"{package}.{name}", f"{package}.{new}")
        return present(new)

    return find


class OldAttribute:
    """An attribute of a class under its old name.

    Args:
        new: What it is called now.
    """

    def __init__(self, new: str) -> None:
        self._new = new

    def __set_name__(self, owner: type, name: str) -> None:
        self._names = f"{owner.__name__}.{name}", f"{owner.__name__}.{self._new}"

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        warn_renamed(*self._names)
        return getattr(instance, self._new)


def warn_renamed(old: str, new: str) -> None:
    """Warn whoever calls the caller that a name is an old one."""
    warnings.warn(
        f"{old} is now {new}; the old name will go with the next release",
        DeprecationWarning,
        stacklevel=3,
    )
