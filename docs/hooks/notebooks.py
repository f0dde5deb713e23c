"""Notebooks as pages of the site, with the outputs and figures that they are stored with.

Nothing is executed: the tests run every notebook, and see that it is stored with its outputs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add a page for every notebook, and its figures."""
    exporter = MarkdownExporter()
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        resources: dict[str, Any] = {"output_files_dir": path.stem}
        text, resources = exporter.from_filename(str(path), resources=resources)
        page = f"tutorials/{path.stem}.md"
        files.append(File.generated(config, page, content=text))
        for name, content in resources["outputs"].items():
            files.append(File.generated(config, f"tutorials/{name}", content=content))
    return files
