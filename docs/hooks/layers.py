"""The layers of the package as a figure: the import contract of pyproject.toml, and who uses whom.

A row is a folder, in the order of the contract. A dot says that it imports from the folder of that
column; all dots lie to the left of the diagonal because imports go downwards only.
"""

from __future__ import annotations

import ast
import html
import textwrap
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "mace_functional"
MARK = "<!-- layers -->"

ROW, NAMES, DOTS, WORDS, TOP = 40, 106, 21, 18, 88
"""Height of a row, widths of names and dots, gap before sentences, height of the head: pixels."""

WIDTH, LETTERS = 920, 64
"""Width of the figure, pixels, and of a line of a sentence."""


def on_page_content(content: str, **_: Any) -> str:
    """Put the figure where a page asks for it."""
    return content.replace(MARK, figure()) if MARK in content else content


def layers() -> list[str]:
    """Folders and modules of the contract, from the top to the ground."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = settings["tool"]["importlinter"]["contracts"]
    (contract,) = (c for c in contracts if c["type"] == "layers")
    return list(contract["layers"])


def sources(layer: str) -> list[Path]:
    """The files of a layer."""
    folder = PACKAGE / layer
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{layer}.py"]


def first_line(layer: str) -> str:
    """The first line of a layer's docstring."""
    folder = PACKAGE / layer
    path = folder / "__init__.py" if folder.is_dir() else PACKAGE / f"{layer}.py"
    return (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()[0].replace("`", "")


def imported(layer: str) -> set[str]:
    """The layers that the files of one import from, at the top of a file or in a function."""
    names: set[str] = set()
    for path in sources(layer):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                if node.module == PACKAGE.name:
                    names |= {alias.name for alias in node.names}
                elif node.module.startswith(f"{PACKAGE.name}."):
                    names.add(node.module.split(".")[1])
    return names - {layer}


def figure() -> str:
    """The figure, in the colours of the page."""
    rows = layers()
    columns = rows[::-1]
    height = TOP + ROW * len(rows) + 8
    lines = [
        f'<div class="layers-frame"><svg class="layers" viewBox="0 0 {WIDTH} {height}" role="img" '
        'xmlns="http://www.w3.org/2000/svg" aria-label="Layers of the package and their imports">'
    ]
    for column, name in enumerate(columns):
        x = NAMES + DOTS * (column + 0.5)
        place = f"translate({x + 4},{TOP - 10}) rotate(-60)"
        lines.append(f'<text class="head" transform="{place}">{name}</text>')
    for row, name in enumerate(rows):
        y = TOP + ROW * row
        used = imported(name)
        lines.append(f'<rect class="row" x="0" y="{y}" width="{WIDTH}" height="{ROW - 3}" rx="3"/>')
        lines.append(f'<text class="name" x="8" y="{y + 23}">{name}</text>')
        for column, below in enumerate(columns):
            x = NAMES + DOTS * (column + 0.5)
            kind = "self" if below == name else "uses" if below in used else ""
            if kind:
                lines.append(f'<circle class="{kind}" cx="{x}" cy="{y + 18.5}" r="5"/>')
        x = NAMES + DOTS * len(columns) + WORDS
        words = textwrap.wrap(first_line(name), LETTERS)
        for line, text in enumerate(words):
            below = y + 23 + 16 * (line - (len(words) - 1) / 2)
            lines.append(f'<text class="words" x="{x}" y="{below}">{html.escape(text)}</text>')
    return "\n".join([*lines, "</svg></div>"])
