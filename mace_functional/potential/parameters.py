"""Parameters of a potential by name: the leaves of a pytree, and replacements of some of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mace_functional.autodiff.torch_internals import pytree


def named_leaves(params: Any) -> dict[str, Tensor]:
    """Return the leaves of a pytree by their paths, joined by dots.

    Example:
        >>> list(named_leaves({"a": 1.0, "b": (2.0, 3.0)}))
        ['a', 'b.0', 'b.1']
    """
    pairs, _ = pytree.tree_flatten_with_path(params)
    return {".".join(map(_name, path)): leaf for path, leaf in pairs}


def with_leaves(params: Any, changed: Mapping[str, Tensor]) -> Any:
    """Return a pytree with some of its leaves replaced, by name.

    Args:
        params: Pytree of tensors.
        changed: New leaves, by the names of `named_leaves`.

    Raises:
        KeyError: If a name is not that of a leaf.
    """
    pairs, spec = pytree.tree_flatten_with_path(params)
    names = [".".join(map(_name, path)) for path, _ in pairs]
    unknown = changed.keys() - set(names)
    if unknown:
        raise KeyError(f"there are no parameters {', '.join(sorted(unknown))}")
    leaves = [changed.get(name, leaf) for name, (_, leaf) in zip(names, pairs, strict=True)]
    return pytree.tree_unflatten(leaves, spec)


def _name(entry: Any) -> str:
    """Return the key, index or attribute of one step of a path."""
    for attribute in ("key", "idx", "name"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)
