"""Forward mode in several threads, and next to torch's own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from threading import Barrier, Thread

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.func import grad, vmap

from mace_functional.autodiff.forward_mode import jvp
from mace_functional.autodiff.torch_internals import eager_transforms

X, V = torch.tensor([0.3, 0.7]).double(), torch.tensor([1.0, -2.0]).double()


@pytest.fixture
def impatient() -> Iterator[None]:
    """Threads change places after a hundredth of the usual time: between any two operations."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(before / 100)
    yield
    sys.setswitchinterval(before)


def waves(x: Tensor) -> Tensor:
    for _ in range(20):
        x = torch.sin(x)
    return x


def along(x: Tensor) -> Tensor:
    return jvp(waves, (x,), (V,))[1]


def curved(x: Tensor) -> Tensor:
    return jvp(lambda y: jvp(waves, (y,), (V,))[1], (x,), (V,))[1]


def pulled(x: Tensor) -> Tensor:
    return grad(lambda y: jvp(waves, (y,), (V,))[1].sum())(x)


def assert_closed() -> None:
    assert eager_transforms.JVP_NESTING == 0
    assert forward_ad._current_level == -1


def test_value_and_tangent_are_those_of_torch():
    found, expected = jvp(waves, (X,), (V,)), torch.func.jvp(waves, (X,), (V,))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert_closed()


@pytest.mark.parametrize("function", [along, curved, pulled])
def test_two_threads_get_the_numbers_of_one(function, impatient):
    alone, barrier = function(X), Barrier(2)
    found: list[Tensor] = []

    def run() -> None:
        barrier.wait()
        found.extend(function(X) for _ in range(200))

    threads = [Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 400
    assert all(torch.equal(tangent, alone) for tangent in found)
    assert_closed()


def test_it_nests_in_every_way_with_transforms_of_torch():
    inside = torch.func.jvp(lambda y: jvp(waves, (y,), (V,))[1], (X,), (V,))[1]
    outside = jvp(lambda y: torch.func.jvp(waves, (y,), (V,))[1], (X,), (V,))[1]
    torch.testing.assert_close(inside, curved(X), rtol=0, atol=0)
    torch.testing.assert_close(outside, curved(X), rtol=0, atol=0)
    mapped = vmap(along)(torch.stack([X, 2 * X]))
    torch.testing.assert_close(mapped, torch.stack([along(X), along(2 * X)]), rtol=0, atol=0)
    assert_closed()


def test_an_error_inside_leaves_nothing_open():
    with pytest.raises(ZeroDivisionError):
        jvp(lambda x: x * (1 // 0), (X,), (V,))
    assert_closed()


def test_inside_of_dual_numbers_of_the_user_it_is_refused_as_torch_refuses_it():
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(X, V)
        with pytest.raises(RuntimeError, match=r"[Nn]ested forward mode AD"):
            torch.func.jvp(waves, (dual,), (V,))
        with pytest.raises(RuntimeError, match=r"[Nn]ested forward mode AD"):
            jvp(waves, (dual,), (V,))
    assert_closed()
