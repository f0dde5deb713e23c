"""Links from the pages to the reference: names of the package that a page has in its sentences."""

from __future__ import annotations

import re
from typing import Any

from docstrings import shown

FENCE = re.compile(r"(^```.*?^```|^(?: {4}|#).*?$)", re.DOTALL | re.MULTILINE)
"""Code, and headings, which stay as they are."""

NAME = re.compile(r"(?<![\w`\[])`(?P<prefix>mf\.)?(?P<name>\w+)(?P<rest>\([^`]*\))?`(?![`\]])")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Link names of a page; a word without `mf.` has to look like a name of a program."""
    paths = shown()

    def link(found: re.Match[str]) -> str:
        name = found["name"]
        is_name = found["prefix"] or "_" in name or not name.islower()
        return f"[{found[0]}][{paths[name]}]" if is_name and name in paths else found[0]

    pieces = FENCE.split(markdown)
    return "".join(p if n % 2 else NAME.sub(link, p) for n, p in enumerate(pieces))
