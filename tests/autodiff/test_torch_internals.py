"""Private names of torch: in one module, which says in one sentence if one has moved."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from types import ModuleType

import pytest
import torch
from conftest import ROOT
from torch.func import grad, jvp, vmap

import mace_functional as mf
from mace_functional.autodiff import torch_internals as internals


def imported_again() -> ModuleType:
    spec = importlib.util.spec_from_file_location("again", internals.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("torch._functorch.vmap", "unwrap_batched"),
        ("torch._C._functorch", "_wrap_for_grad"),
        ("torch._C", "_are_functorch_transforms_active"),
        ("torch._functorch.eager_transforms", "JVP_NESTING"),
        ("torch.autograd.forward_ad", "_current_level"),
    ],
)
def test_a_name_that_has_moved_is_told_with_the_versions_that_have_it(place, name, monkeypatch):
    assert imported_again().SUPPORTED == internals.SUPPORTED
    monkeypatch.delattr(f"{place}.{name}")
    version = re.escape(torch.__version__)
    with pytest.raises(ImportError, match=rf"torch {version} has moved .*{name}.*2\.8 <= torch"):
        imported_again()


def test_levels_and_wrappers_are_what_they_are_taken_for():
    seen = []

    def look(x: torch.Tensor) -> torch.Tensor:
        seen.append(
            (
                internals.transforms_are_active(),
                internals.is_functorch_wrapped_tensor(x),
                internals.maybe_get_level(x),
            )
        )
        return (x * x).sum()

    x = torch.ones(3)
    look(x)
    grad(look)(x)
    vmap(grad(look))(x[None])
    jvp(look, (x,), (x,))
    assert seen == [(False, False, -1), (True, True, 1), (True, True, 2), (True, True, 1)]


def test_no_other_module_takes_private_names_of_torch():
    private = re.compile(r"(from|import) torch[\w.]*\._|torch\._[^_]|from torch[\w.]* import _")
    package = ROOT / "mace_functional"
    found = [path.name for path in package.rglob("*.py") if private.search(path.read_text("utf-8"))]
    assert found == ["torch_internals.py"]


def test_versions_of_torch_are_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert "torch>=2.8,<2.15" in project["dependencies"]
    assert internals.SUPPORTED == "2.8 <= torch < 2.15"
    assert "torch 2.8 to 2.14" in (ROOT / "README.md").read_text("utf-8")
    assert mf.__version__ == project["version"]
