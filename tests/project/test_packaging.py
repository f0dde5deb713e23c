"""What is installed: the wheel's contents, and that all places agree on the version."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

import mace_functional as mf
from mace_functional.structure.examples import CRYSTALS

WEIGHTS = "mace_functional/mace/embedded/mace-embedded.safetensors"
LARGEST_WEIGHTS = 3_000_000
"""Bytes."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    pytest.importorskip("hatchling", reason="building a wheel without a network needs hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", str(ROOT), "--wheel-dir", str(folder)),
            *("--no-deps", "--no-build-isolation", "--no-index", "--quiet"),
        ],
        check=True,
    )
    (path,) = folder.iterdir()
    return path


@pytest.mark.slow
def test_wheel_has_weights_structures_and_types(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    crystals = {f"mace_functional/structure/examples/{name}.cif" for name in CRYSTALS}
    assert {WEIGHTS, "mace_functional/py.typed", *crystals} <= names
    sources = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "mace_functional").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert sources == {name for name in names if name.startswith("mace_functional/")}
    assert all(name.split("/")[0].startswith("mace_functional") for name in names)


@pytest.mark.slow
def test_model_and_structures_are_found_in_the_wheel_alone(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import mace_functional as mf; "
        "model = mf.load_model('embedded'); "
        "print(mf.__file__, len(mf.example_structure('MOF-5')), model.head)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    file, atoms, head = done.stdout.split()
    assert Path(file).is_relative_to(tmp_path)
    assert (int(atoms), head) == (106, mf.load_model("embedded").head)


@pytest.mark.slow
def test_source_archive_has_what_made_the_weights_and_how_to_cite(tmp_path):
    pytest.importorskip("hatchling", reason="building an archive needs hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    (path,) = tmp_path.iterdir()
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"CITATION.cff", "CHANGELOG.md", "LICENSE", WEIGHTS} <= names
    assert {"training", "tests", "docs"} <= {name.partition("/")[0] for name in names}


@pytest.mark.slow
def test_weights_are_small(wheel):
    assert (ROOT / WEIGHTS).stat().st_size <= LARGEST_WEIGHTS
    with zipfile.ZipFile(wheel) as archive:
        stored = archive.getinfo(WEIGHTS)
    assert stored.compress_size < stored.file_size == (ROOT / WEIGHTS).stat().st_size


def test_package_citation_and_project_have_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert project["version"] == citation["version"] == mf.__version__


PACKAGES = sorted(path.parent for path in (ROOT / "mace_functional").glob("*/__init__.py"))


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda folder: folder.name)
def test_the_table_of_a_folder_lists_all_of_its_modules(folder):
    """Each `__init__.py` says what the modules beside it are for, and names no others."""
    table = ast.get_docstring(ast.parse((folder / "__init__.py").read_text("utf-8")), clean=False)
    rows = re.findall(r"^(?: *([a-z0-9_, ]+?)  +\S|\| `(\w+)\.py` \|)", table, flags=re.MULTILINE)
    listed = {name.strip() for row in rows for cell in row for name in cell.split(",")} - {""}
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    folders = {path.parent.name for path in folder.glob("*/__init__.py")}
    assert listed == modules | folders


def test_no_two_modules_and_no_two_classes_have_one_name():
    names: dict[str, list[str]] = {}
    for path in (ROOT / "mace_functional").rglob("*.py"):
        if path.stem != "__init__":
            names.setdefault(f"module {path.stem}", []).append(str(path))
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                names.setdefault(f"class {node.name}", []).append(str(path))
    assert not {name: paths for name, paths in names.items() if len(paths) > 1}
