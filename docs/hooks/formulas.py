"""Formulas as MathML, which browsers show by themselves, with the font that they need for it.

The font is STIX Two Math, of which the part with the characters of formulas is copied from an
installed package. Nothing is fetched from elsewhere.
"""

from __future__ import annotations

import html
import logging
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fontTools import subset
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.pages import Page

FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)
FONT = Path(str(find_spec("ziamath").origin)).parent / "fonts" / "STIXTwoMath-Regular.ttf"
CHARACTERS = (
    (0x20, 0x7E),  # basic Latin
    (0xA0, 0xFF),  # Latin, with the Å
    (0x370, 0x3FF),  # Greek
    (0x2010, 0x206F),  # punctuation, primes
    (0x2100, 0x214F),  # letters such as hbar
    (0x2190, 0x22FF),  # arrows, operators
    (0x1D400, 0x1D7FF),  # italic and bold letters
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


def on_post_build(*, config: MkDocsConfig) -> None:
    """Write the font, which `style.css` names."""
    options = subset.Options()
    options.flavor = "woff"
    options.layout_features = ["ssty", "dtls"]  # smaller primes and accents where they are scripts
    font = subset.load_font(str(FONT), options)
    part = subset.Subsetter(options)
    part.populate(unicodes=[u for low, high in CHARACTERS for u in range(low, high + 1)])
    part.subset(font)
    subset.save_font(font, str(Path(config.site_dir) / "math.woff"), options)
