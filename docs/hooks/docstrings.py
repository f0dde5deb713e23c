"""Docstrings as Markdown: doctests become blocks of code, and public names links."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe

DOCTEST = re.compile(r"^(?P<indent> *)>>> .*(?:\n(?P=indent)\S.*)*", re.MULTILINE)
"""From a prompt to the next empty line, or the next that is indented less."""

NAME = re.compile(r"(?<![\w`\[])`(?P<name>\w+)`(?![`\]])")
REFERENCE = Path(__file__).resolve().parents[1] / "reference"


def shown() -> dict[str, str]:
    """The path of every name that the reference shows, by the name alone."""
    pages = "".join(page.read_text() for page in sorted(REFERENCE.glob("*.md")))
    paths = re.findall(r"^::: (\S+)", pages, flags=re.MULTILINE)
    return {path.rpartition(".")[2]: path for path in reversed(paths)}


class Docstrings(griffe.Extension):
    """Rewrites docstrings before they are parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Fence doctests, and take `Example:` for the section that it is."""
        if obj.docstring is not None:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
            text = re.sub(r" +# doctest:.*$", "", text, flags=re.MULTILINE)
            obj.docstring.value = DOCTEST.sub(fenced, text)

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Link the names that the reference shows, wherever a docstring has them."""
        link_names(pkg, shown())


def fenced(found: re.Match[str]) -> str:
    """A doctest between fences."""
    indent = found["indent"]
    return f"{indent}```pycon\n{found[0]}\n{indent}```"


def link_names(obj: griffe.Object, names: dict[str, str]) -> None:
    """Link names in the docstrings of an object and of its members.

    What is named like an argument, or like the object itself, is that.
    """
    own = {obj.name}
    if isinstance(obj, griffe.Function):
        own |= {parameter.name for parameter in obj.parameters}
    elif isinstance(obj, griffe.Class):
        own |= set(obj.members)
    if obj.docstring is not None:

        def link(found: re.Match[str]) -> str:
            name = found["name"]
            known = name in names and name not in own
            return f"[`{name}`][{names[name]}]" if known else found[0]

        obj.docstring.value = NAME.sub(link, obj.docstring.value)
    for member in obj.members.values():
        if not member.is_alias:
            link_names(member, names)
