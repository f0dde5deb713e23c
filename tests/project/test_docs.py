"""What the pages of docs/ show is true: names, python examples, command lines."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
import tomllib
import types
from functools import reduce
from pathlib import Path

import pytest
import torch
from conftest import ROOT

import mace_functional as mf
from mace_functional.cli import main

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
OPTIONAL = ("dask", "phono3py", "phonopy", "pysisyphus", "sella", "tad_dftd3")
"""Packages that an example may need and that need not be installed."""


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def fenced(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.S | re.M)


def missing_package(code: str) -> str | None:
    """An optional package that a piece of code imports and that is not installed."""
    for node in ast.walk(ast.parse(code)):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for package in (name.partition(".")[0] for name in names):
            if package in OPTIONAL and importlib.util.find_spec(package) is None:
                return package
    return None


TESTED_ELSEWHERE = ("optimisers", "potentials")
"""Pages whose tests look at their numbers, in tests/interop and tests/potential."""

PYTHON_PAGES = [p for p in PAGES if fenced(p, "python") and p.stem not in TESTED_ELSEWHERE]


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=name_of)
def test_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = fenced(page, "python")
    lacking = {code: missing_package(code) for code in blocks}
    if all(lacking.values()):
        pytest.skip(f"{page.name} needs {', '.join(sorted(set(lacking.values())))}")
    names: dict[str, object] = {"__name__": page.stem}
    for code in blocks:
        if not lacking[code]:
            exec(compile(code, name_of(page), "exec"), names)


def command_lines(page: Path) -> list[str]:
    lines = "".join(fenced(page, "bash")).replace("\\\n", " ").splitlines()
    commands = (part for line in lines for part in line.split("&&"))
    return [c.strip() for c in commands if c.strip().startswith("mace-functional ")]


LINES = [(page, line) for page in (ROOT / "README.md", *PAGES) for line in command_lines(page)]


@pytest.mark.parametrize(("page", "line"), LINES, ids=lambda part: getattr(part, "stem", part))
def test_command_lines_of_a_page_are_right(page, line, tmp_path, monkeypatch):
    """All checks of the options pass, and nothing is computed."""
    subcommand, *rest = shlex.split(line)[1:]
    command = importlib.import_module(f"mace_functional.cli.{subcommand}_command")
    asked = []
    monkeypatch.setattr(command, "run", asked.append)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.chdir(tmp_path)
    if "--help" in rest:
        with pytest.raises(SystemExit, match="0"):
            main([subcommand, *rest])
    else:
        assert main([subcommand, *rest]) == 0
        assert len(asked) == 1


def resolved(path: str) -> object:
    """The object of a path such as `mace_functional.phonons.Mesh`."""
    parts = path.split(".")
    for split in range(len(parts), 0, -1):
        module = ".".join(parts[:split])
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError:
            continue
        return reduce(getattr, parts[split:], found)
    raise AssertionError(f"there is no {path}")


def public_objects() -> dict[str, object]:
    """The public names of the package and of its public folders, modules left out."""
    folders = [m for m in (getattr(mf, name) for name in mf.__all__) if is_module(m)]
    modules = [mf, *folders, importlib.import_module("mace_functional.figures")]
    found = {
        f"{module.__name__}.{name}": getattr(module, name)
        for module in modules
        for name in getattr(module, "__all__", ())
    }
    return {name: thing for name, thing in found.items() if not is_module(thing)}


def is_module(thing: object) -> bool:
    return isinstance(thing, types.ModuleType)


def test_every_public_name_is_in_the_reference():
    text = "".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
    shown = [resolved(path) for path in re.findall(r"^::: (\S+)", text, flags=re.M)]
    names = public_objects()
    assert len(names) > 60
    assert not [name for name, thing in names.items() if not any(thing is s for s in shown)]


def test_every_extra_is_on_the_page_on_installation():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (DOCS / "install.md").read_text()
    assert not [name for name in project["optional-dependencies"] if f"`{name}`" not in text]
