"""Old public names, for one release."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from inspect import unwrap
from typing import Any, ParamSpec, TypeVar

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
"""New public name for each old one, by package."""


def with_old_names(package: str, present: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a `__getattr__` for a package that also finds its old public names.

    Args:
        package: Name of the package, a key of `RENAMED`.
        present: The `__getattr__` for its present names, which raises AttributeError for others.
    """

    def find(name: str) -> Any:
        new = RENAMED[package].get(name)
        if new is None:
            return present(name)
        warn_renamed(f"{package}.{name}", f"{package}.{new}")
        return present(new)

    return find


class OldAttribute:
    """Descriptor for the old name of an attribute.

    Args:
        new: New name of the attribute.
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


P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")


def positional_for_a_release(*names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that still accepts keyword-only options by position, with a warning.

    Args:
        names: Names of the options, in their former order.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        n_operands = unwrap(function).__code__.co_argcount
        called = function.__qualname__.removesuffix(".__init__")

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            positional = args[n_operands:]
            if not positional or len(positional) > len(names):
                return function(*args, **kwargs)
            options: dict[str, Any] = dict(zip(names, positional, strict=False))
            warnings.warn(
                f"{called} takes {', '.join(options)} by keyword; by position it will be refused "
                "with the next release",
                DeprecationWarning,
                stacklevel=2,
            )
            return function(*args[:n_operands], **options, **kwargs)  # type: ignore[arg-type]

        return call

    return decorate


def renamed_option(old: str, new: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that still accepts an option by its old name, with a warning."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        called = function.__qualname__.removesuffix(".__init__")

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if old in kwargs:
                warn_renamed(f"{called}({old}=)", f"{called}({new}=)")
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate


def renamed_field(old: str, new: str) -> Callable[[type[C]], type[C]]:
    """Return a decorator for dataclasses that keeps the old name of a field, with a warning."""

    def decorate(cls: type[C]) -> type[C]:
        setattr(cls, "__init__", renamed_option(old, new)(cls.__init__))  # noqa: B010
        attribute = OldAttribute(new)
        attribute.__set_name__(cls, old)
        setattr(cls, old, attribute)
        return cls

    return decorate


def warn_renamed(old: str, new: str) -> None:
    """Warn about the use of an old name, at the caller of the calling function."""
    warnings.warn(
        f"{old} is now {new}; the old name will go with the next release",
        DeprecationWarning,
        stacklevel=3,
    )
