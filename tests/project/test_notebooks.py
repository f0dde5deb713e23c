"""Every notebook runs from top to bottom, and is stored with the outputs of such a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT

nbclient = pytest.importorskip("nbclient", reason="running notebooks needs nbclient")
nbformat = pytest.importorskip("nbformat", reason="running notebooks needs nbformat")

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

over_notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.slow
@over_notebooks
def test_notebook_runs_from_top_to_bottom(path, monkeypatch):
    monkeypatch.delenv("MACE_FUNCTIONAL_MODEL", raising=False)
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    assert all(cell.execution_count for cell in code_cells(notebook))


@over_notebooks
def test_stored_notebook_is_valid_and_has_clean_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    stored = path.read_text()
    for folder in {str(ROOT.parent), str(Path.home()), "site-packages"}:
        assert folder not in stored, f"{path.name} names a place on the machine it was run on"
