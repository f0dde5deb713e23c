"""Modules under their old names, for one release.

An import of an old name gives a DeprecationWarning that says where the module is now, and a module
that finds there what is asked of it.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PACKAGE = "mace_functional."

MOVED = {
    "atomic_write": ("support.atomic_write",),
    "batching": ("structure.batching",),
    "columns": ("autodiff.columns",),
    "compilation": ("autodiff.compilation",),
    "connectivity": ("structure.connectivity",),
    "contacts": ("structure.contacts",),
    "dispersion.graph": ("dispersion.pairs",),
    "energy": ("potential.energy",),
    "gamma": ("vibrations.gamma",),
    "graph": ("structure.graph", "structure.species"),
    "hessian_operator": ("derivatives.hessian_operator",),
    "lattice": ("structure.lattice",),
    "memory": ("autodiff.memory",),
    "model": ("mace.model",),
    "model_file": ("mace.model_file",),
    "neighbours": ("structure.neighbours",),
    "phonons.symmetry": ("structure.symmetry",),
    "phonons.thermo": ("phonons.mesh_sums",),
    "primitive": ("autodiff.primitive",),
    "reading": ("structure.reading",),
    "rigid": ("vibrations.rigid",),
    "screening.settings": ("screening.screen_settings",),
    "selection": ("structure.selection",),
    "structures": ("structure.examples",),
    "subnormal": ("mace.subnormal",),
    "thermo": ("vibrations.thermodynamics",),
    "validation": ("support.validation",),
}
"""Old names of modules and where their contents are now, the likeliest first."""


class _MovedModules(MetaPathFinder, Loader):
    """Finds and loads modules under their old names, where nothing else finds them."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The old module; None if no module was ever there."""
        if name.startswith(PACKAGE) and name.removeprefix(PACKAGE) in MOVED:
            return ModuleSpec(name, self)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """An empty module."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Warn, and let the module look up its contents where they are now."""
        old = module.__name__
        homes = [PACKAGE + home for home in MOVED[old.removeprefix(PACKAGE)]]
        warnings.warn(
            f"{old} has moved and goes with the next release: import from "
            f"{' or '.join(homes)}; public names are in mace_functional itself",
            DeprecationWarning,
            stacklevel=2,
        )

        def found(name: str) -> Any:
            if not name.startswith("__"):
                for home in map(importlib.import_module, (*homes, PACKAGE.rstrip("."))):
                    if hasattr(home, name):
                        return getattr(home, name)
            raise AttributeError(f"module {old!r} has no attribute {name!r}")

        vars(module)["__getattr__"] = found


def find_moved_modules() -> None:
    """From now on, modules are found under their old names too."""
    if not any(isinstance(finder, _MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(_MovedModules())
