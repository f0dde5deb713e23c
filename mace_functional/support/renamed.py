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
        warnings.warn(
            f"{package}.{name} is now {package}.{new}; the old name will go with the next release",
            DeprecationWarning,
            stacklevel=2,
        )
        return present(new)

    return find
