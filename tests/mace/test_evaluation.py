"""Threads that share a model: each gets the numbers that it would get alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from threading import Barrier, Thread
from typing import Any

import pytest
import torch
from models import build, molecule
from torch import Tensor
from torch.func import functional_call, grad

import mace_functional as mf
from mace_functional.mace.skeleton import skeleton
from mace_functional.potential.energy import Energy

Params = dict[str, Tensor]
Function = Callable[[Energy, mf.Structure], Callable[[Params], Tensor]]


@pytest.fixture
def impatient() -> Iterator[None]:
    """Threads change places after a hundredth of the usual time: between any two operations."""
    before, threads = sys.getswitchinterval(), torch.get_num_threads()
    sys.setswitchinterval(before / 100)
    torch.set_num_threads(1)
    yield
    sys.setswitchinterval(before)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model() -> mf.MaceModel:
    return one_layer()


def one_layer(**changes: Any) -> mf.MaceModel:
    small = {"hidden_irreps": "2x0e", "max_ell": 1, "radial_MLP": [4], "correlation": 1}
    return mf.load_model(build(num_interactions=1, **small, **changes))


def structure(model: mf.MaceModel) -> mf.Structure:
    """Three atoms of as many elements."""
    return mf.from_ase(molecule()[[1, 2, 6]], model)


def at_once(work: Callable[[int], Tensor], calls: int) -> list[list[Tensor]]:
    """Results of two threads that call `work(0)` and `work(1)` a number of times each."""
    barrier = Barrier(2)
    found: list[list[Tensor]] = [[], []]

    def run(k: int) -> None:
        barrier.wait()
        for _ in range(calls):
            found[k].append(work(k))

    threads = [Thread(target=run, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def other_params(model: mf.MaceModel) -> Params:
    return {k: p if "r_max" in k else 1.1 * p for k, p in model.params.items()}


def energy(E: Energy, s: mf.Structure) -> Callable[[Params], Tensor]:
    return lambda params: E(s.positions, s.cell, params)


def forces(E: Energy, s: mf.Structure) -> Callable[[Params], Tensor]:
    return lambda params: mf.forces(E)(s.positions, s.cell, params)


def product(E: Energy, s: mf.Structure) -> Callable[[Params], Tensor]:
    v = torch.sin(s.positions)
    return lambda params: mf.hvp(E)(s.positions, s.cell, params, v)


def operator(E: Energy, s: mf.Structure) -> Callable[[Params], Tensor]:
    v = torch.sin(s.positions)
    return lambda params: mf.HessianOperator(E, s.positions, s.cell, params) @ v


def by_parameters(E: Energy, s: mf.Structure) -> Callable[[Params], Tensor]:
    weight = "interactions.0.linear_up.weight"
    return lambda params: grad(lambda p: E(s.positions, s.cell, p))(params)[weight]


def assert_as_alone(function: Function, model: mf.MaceModel, calls: int) -> None:
    """Two threads get, bit for bit, the numbers of one, each of its own parameters."""
    s = structure(model)
    of_params = function(mf.energy_fn(model, s.graph), s)
    params = [model.params, other_params(model)]
    alone = [of_params(p) for p in params]
    assert (alone[0] - alone[1]).abs().max() > 1e-3
    for k, found in enumerate(at_once(lambda k: of_params(params[k]), calls)):
        assert len(found) == calls
        assert all(torch.equal(result, alone[k]) for result in found)


@pytest.mark.parametrize(
    ("function", "calls"),
    [
        (energy, 100),
        (forces, 30),
        (product, 30),
        (operator, 20),
        (by_parameters, 20),
        pytest.param(forces, 100, marks=pytest.mark.slow),
        pytest.param(product, 100, marks=pytest.mark.slow),
    ],
)
def test_two_threads_with_one_model_get_the_numbers_of_one(function, calls, model, impatient):
    assert_as_alone(function, model, calls)


def test_two_threads_share_a_distance_transform(impatient):
    assert_as_alone(forces, one_layer(distance_transform="Agnesi"), 20)


def test_two_threads_multiply_by_one_operator(model, impatient):
    s = structure(model)
    E = mf.energy_fn(model, s.graph)
    operator = mf.HessianOperator(E, s.positions, s.cell, model.params)
    vectors = [torch.sin(s.positions), torch.cos(s.positions)]
    alone = [operator @ v for v in vectors]
    for k, found in enumerate(at_once(lambda k: operator @ vectors[k], 100)):
        assert len(found) == 100
        assert all(torch.allclose(result, alone[k], rtol=0, atol=1e-12) for result in found)


def test_a_skeleton_shares_tensors_and_takes_others_without_touching_the_model(model):
    twin = skeleton(model.module)
    shared = dict(model.module.named_buffers(remove_duplicate=False))
    assert set(shared) == set(model.params)
    assert all(t is shared[name] for name, t in twin.named_buffers(remove_duplicate=False))
    parts = zip(twin.modules(), model.module.modules(), strict=True)
    assert all(a is not b and type(a) is type(b) for a, b in parts)
    s = structure(model)
    inside: list[bool] = []

    def look(*_: Any) -> None:
        buffers = model.module.named_buffers(remove_duplicate=False)
        inside.append(all(t is shared[name] for name, t in buffers))

    twin.radial_embedding.register_forward_hook(look)
    functional_call(twin, other_params(model), (s.graph, s.positions, s.cell), tie_weights=False)
    assert inside == [True]
