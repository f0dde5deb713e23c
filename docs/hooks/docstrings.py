"""Docstrings and signatures as readers want them.

Doctests become blocks of code, names that the reference shows become links, and constants that are
the default of an argument become their values.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe

DOCTEST = re.compile(r"^(?P<indent> *)>>> .*(?:\n(?P=indent)\S.*)*", re.MULTILINE)
"""From a prompt to the next empty line, or the next that is indented less."""

NAME = re.compile(r"(?<![\w`\[])`(?P<name>\w+)`(?![`\]])")
REFERENCE = Path(__file__).resolve().parents[1] / "reference"


class Docstrings(griffe.Extension):
    """Rewrites docstrings before they are parsed, and defaults before they are shown."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Fence doctests, and take `Example:` for the section that it is."""
        if obj.docstring is not None:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
            text = re.sub(r" +# doctest:.*$", "", text, flags=re.MULTILINE)
            obj.docstring.value = DOCTEST.sub(fenced, text)

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Link names and fill in defaults, once the whole package is known."""
        paths = shown()
        for obj in within(pkg):
            link_names(obj, paths)
            fill_in_defaults(obj, pkg)


def shown() -> dict[str, str]:
    """The path of every name that the reference shows, by the name alone."""
    pages = "".join(page.read_text() for page in sorted(REFERENCE.glob("*.md")))
    paths = re.findall(r"^::: (\S+)", pages, flags=re.MULTILINE)
    return {path.rpartition(".")[2]: path for path in reversed(paths)}


def within(obj: griffe.Object) -> Iterator[griffe.Object]:
    """An object, and all that is defined in it."""
    yield obj
    for member in obj.members.values():
        if not member.is_alias:
            yield from within(member)


def fenced(found: re.Match[str]) -> str:
    """A doctest between fences."""
    indent = found["indent"]
    return f"{indent}```pycon\n{found[0]}\n{indent}```"


def link_names(obj: griffe.Object, paths: dict[str, str]) -> None:
    """Link names in a docstring; what is named like an argument, or like the object, is that."""
    if obj.docstring is None:
        return
    own = {obj.name}
    if isinstance(obj, griffe.Function):
        own |= {parameter.name for parameter in obj.parameters}
    elif isinstance(obj, griffe.Class):
        own |= set(obj.members)

    def link(found: re.Match[str]) -> str:
        name = found["name"]
        return found[0] if name in own or name not in paths else f"[`{name}`][{paths[name]}]"

    obj.docstring.value = NAME.sub(link, obj.docstring.value)


def fill_in_defaults(obj: griffe.Object, pkg: griffe.Module) -> None:
    """Put values in place of constants of the package."""
    if isinstance(obj, griffe.Function):
        for parameter in obj.parameters:
            parameter.default = value_of(parameter.default, pkg)
    elif isinstance(obj, griffe.Attribute) and isinstance(obj.parent, griffe.Class):
        obj.value = value_of(obj.value, pkg)


def value_of(default: Any, pkg: griffe.Module) -> Any:
    """What a name of a constant stands for, if that is a literal; else the default as it is."""
    if not isinstance(default, griffe.ExprName):
        return default
    path = default.canonical_path.removeprefix(f"{pkg.name}.")
    try:
        value = str(pkg[path].value)
        ast.literal_eval(value)
    except (KeyError, AttributeError, ValueError, SyntaxError):
        return default
    return value
