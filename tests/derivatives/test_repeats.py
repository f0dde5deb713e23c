"""Nested transforms give the same numbers when they are called again, in a fresh process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import ROOT, shared_file
from energies import MODELS, STRUCTURES, central_difference, load, random_like
from helpers import assert_close
from torch import Tensor
from torch.func import grad, jvp, vjp, vmap

import mace_functional as mf
from mace_functional.structure.reading import find

REPEATS = 3


def nestings_to_repeat(source: str, structure: str) -> dict[str, Callable[[], Tensor]]:
    """Nested transforms at one structure; see `test_nothing_changes_when_called_again`."""
    if source in MODELS:
        model, atoms = load(source), STRUCTURES[structure]()
    else:
        model, atoms = mf.load_model(source), find(structure).atoms
        atoms.rattle(0.05, seed=3)
    s = mf.from_ase(atoms, model)
    energy, x = mf.energy_fn(model, s.graph), s.positions
    v = random_like(x, 9)
    v = v / v.norm()

    def gradient(y: Tensor) -> Tensor:
        return grad(energy)(y, s.cell, model.params)

    def push(y: Tensor) -> Tensor:
        return jvp(gradient, (y,), (v,))[1]

    def block(mode: Any) -> Tensor:
        return mf.hessian(energy, mode=mode, indices=[0])(x, s.cell, model.params)

    return {
        "jvp(grad)": lambda: push(x),
        "vjp(grad)": lambda: vjp(gradient, x)[1](v)[0],
        "grad(grad.v)": lambda: grad(lambda y: (gradient(y) * v).sum())(x),
        "vmap(jvp(grad))": lambda: vmap(lambda u: jvp(gradient, (x,), (u,))[1])(v[None])[0],
        "jvp(jvp(grad))": lambda: jvp(push, (x,), (v,))[1],
        "hessian fwd-rev": lambda: block("fwd-rev"),
        "hessian rev-rev": lambda: block("rev-rev"),
        "difference": lambda: central_difference(lambda h: gradient(x + h * v)),
    }


PRODUCTS = ("jvp(grad)", "vjp(grad)", "grad(grad.v)", "vmap(jvp(grad))")


def repeat(source: str, structure: str, order: str, file: str) -> None:
    """Call every nesting several times, one after the other or in turns; the work of a process."""
    functions = nestings_to_repeat(source, structure)
    difference = functions.pop("difference")
    names = list(functions)
    calls = {
        "one after another": [name for name in names for _ in range(REPEATS)],
        "backwards and in turns": names[::-1] * REPEATS,
        "hessians first": sorted(names * REPEATS, key=lambda name: "hessian" not in name),
    }[order]
    results: dict[str, list[Tensor]] = {name: [] for name in names}
    for name in calls:
        results[name].append(functions[name]())
    torch.save(({name: torch.stack(r) for name, r in results.items()}, difference()), file)


def check_repeated(source: str, structure: str, order: str, file: str) -> None:
    command = [sys.executable, "-W", "ignore", __file__, source, structure, order, file]
    paths = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}
    subprocess.run(command, check=True, timeout=1500, env=environment)
    results, difference = torch.load(file)
    for result in results.values():
        assert_close(result, result[:1].expand_as(result), 1e-13)
    for name in PRODUCTS:
        assert_close(results[name][0], results["jvp(grad)"][0], 1e-12)
    assert_close(results["jvp(grad)"][0], difference, 1e-7)
    assert_close(results["hessian fwd-rev"], results["hessian rev-rev"], 1e-12)


@pytest.mark.parametrize(
    "order",
    [
        "backwards and in turns",
        pytest.param("one after another", marks=pytest.mark.slow),
        pytest.param("hessians first", marks=pytest.mark.slow),
    ],
)
def test_nothing_changes_when_called_again_in_a_fresh_process(order, tmp_path):
    """TorchScript on the path makes every call but the first silently wrong."""
    check_repeated("correlation-3", "crystal", order, str(tmp_path / "results.pt"))


EVERY_ORDER = pytest.mark.parametrize(
    "order", ["one after another", "backwards and in turns", "hessians first"]
)


@pytest.mark.slow
@EVERY_ORDER
def test_nothing_changes_when_called_again_on_a_metal_organic_framework(order, tmp_path):
    check_repeated("embedded", "MOF-5", order, str(tmp_path / "results.pt"))


@pytest.mark.slow
@EVERY_ORDER
def test_nothing_changes_when_called_again_with_a_foundation_model(order, tmp_path):
    check_repeated(
        str(shared_file("weights", "MACE-MP-0_small.model")),
        str(shared_file("heatcapacity", "structures", "RSM0004.cif")),
        order,
        str(tmp_path / "results.pt"),
    )


if __name__ == "__main__":
    repeat(*sys.argv[1:])
