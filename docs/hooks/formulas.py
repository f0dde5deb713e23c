"""Formulas as MathML, which browsers show by themselves: no script, no font from elsewhere."""

from __future__ import annotations

import html
import logging
import re
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.pages import Page

FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)
log = logging.getLogger("mkdocs.hooks.formulas")


def on_page_content(content: str, *, page: Page, **_: Any) -> str:
    """Replace the formulas of a page."""

    def mathml(found: re.Match[str]) -> str:
        tex = html.unescape(found["tex"]).strip()
        display = "block" if found["tag"] == "div" else "inline"
        result = convert(tex, display=display)
        if "\\" in result:
            log.warning("%s: a command in this formula is not known: %s", page.file.src_uri, tex)
        return f'<{found["tag"]} class="formula">{result}</{found["tag"]}>'

    return FORMULA.sub(mathml, content)
