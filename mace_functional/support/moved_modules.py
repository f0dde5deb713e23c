"""Old names of modules, for one release.

An import of an old name gives a DeprecationWarning with the new name. The imported module looks up
its attributes in the new one.
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
    "screening.dask_workers": ("parallel.dask_workers",),
    "screening.settings": ("screening.screen_settings",),
    "selection": ("structure.selection",),
    "structures": ("structure.examples",),
    "subnormal": ("mace.subnormal",),
    "thermo": ("vibrations.thermodynamics",),
    "validation": ("support.validation",),
}
"""New modules for each old name of a module, in the order of look-up."""


class _MovedModules(MetaPathFinder, Loader):
    """Import hook that finds modules by their old names, after all other finders."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the import specification of an old name; None for other names."""
        if name.startswith(PACKAGE) and name.removeprefix(PACKAGE) in MOVED:
            return ModuleSpec(name, self)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Let Python create an empty module."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Warn, and make the module look up its attributes in the new ones."""
        old = module.__name__
        new_modules = [PACKAGE + new for new in MOVED[old.removeprefix(PACKAGE)]]
        warnings.warn(
            f"{old} has moved and goes with the next release: import from "
            f"{' or '.join(new_modules)}; public names are in mace_functional itself",
            DeprecationWarning,
            stacklevel=2,
        )

        def look_up(name: str) -> Any:
            if not name.startswith("__"):
                for new in map(importlib.import_module, (*new_modules, PACKAGE.rstrip("."))):
                    if hasattr(new, name):
                        return getattr(new, name)
            raise AttributeError(f"module {old!r} has no attribute {name!r}")

        vars(module)["__getattr__"] = look_up


def find_moved_modules() -> None:
    """Install the import hook for old names of modules."""
    if not any(isinstance(finder, _MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(_MovedModules())
