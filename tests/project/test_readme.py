"""What the README says is true."""

from __future__ import annotations

import json
import re
import shlex

import pytest
import torch
from conftest import ROOT

from mace_functional.cli import main

README = (ROOT / "README.md").read_text()


def test_the_ten_lines_run():
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names: dict = {}
    exec(block, names)
    assert names["H"].shape == (2, 3, 2, 3)
    assert names["F"].abs().max() < 1e-10  # rock salt
    assert set(names["d_omega"]) == set(names["model"].params)
    assert torch.stack([d.abs().sum() for d in names["d_omega"].values()]).sum() > 0


def test_it_fits_a_screen_or_two_and_every_link_leads_somewhere():
    assert len(README.splitlines()) <= 110
    links = re.findall(r"\]\(([^)#]+)", README)
    local = [link for link in links if not link.startswith("http")]
    assert len(local) > 15
    assert [link for link in local if not (ROOT / link).exists()] == []


@pytest.mark.parametrize(
    ("structure", "formula"),
    [
        pytest.param("mof-5", "C48H24O26Zn8", marks=pytest.mark.slow),
        ("quartz", "O6Si3"),  # the same options, in seconds
    ],
)
def test_the_first_line_runs_and_writes_what_it_names(
    structure, formula, tmp_path, monkeypatch, capsys
):
    (line,) = re.findall(r"^pip install \. && mace-functional (.*)$", README, flags=re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(line.replace("thermo mof-5", f"thermo {structure}"))) == 0
    assert formula in capsys.readouterr().out
    results = json.loads((tmp_path / "mof-5.json").read_text())
    assert results["relaxation"]["converged"]
    assert results["imaginary_modes"] == 0
    assert (tmp_path / "mof-5.png").read_bytes().startswith(b"\x89PNG")
