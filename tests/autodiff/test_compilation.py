from __future__ import annotations

import warnings

import pytest
import torch
from torch.func import grad

import mace_functional as mf

pytestmark = pytest.mark.usefixtures("fresh_compiler")


@pytest.fixture
def fresh_compiler():
    """Forget what earlier tests compiled."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def energy(x, k):
    return (k * x**4).sum() + torch.sin(x).prod()


X, K = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64), torch.tensor(1.7, dtype=torch.float64)


def doubled(graph, inputs):
    """A backend with a bug."""
    return lambda *args: tuple(2 * out for out in graph(*args))


def broken(graph, inputs):
    """A backend that fails."""
    raise NotImplementedError("no such thing")


def negligible(graph, inputs):
    """A backend that rounds in another way."""
    return lambda *args: tuple(out * (1 + 1e-14) for out in graph(*args))


def calls_of(backend):
    """The backend, and a list that grows whenever what it made is called."""
    calls = []

    def counting(graph, inputs):
        run = backend(graph, inputs)

        def called(*args):
            calls.append(1)
            return run(*args)

        return called

    return counting, calls


def plain(graph, inputs):
    return graph


def test_compiled_function_gives_the_plain_result_and_is_used_from_the_second_call_on():
    backend, calls = calls_of(plain)
    function = mf.compile_checked(energy, backend=backend)
    assert torch.equal(function(X, K), energy(X, K))
    assert len(calls) == 1  # to compare
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(function(2 * X, K), energy(2 * X, K))
    assert len(calls) == 2


def test_rounding_is_no_reason_to_distrust():
    backend, calls = calls_of(negligible)
    function = mf.compile_checked(energy, backend=backend)
    function(X, K)
    torch.testing.assert_close(function(X, K), energy(X, K), rtol=1e-12, atol=0)
    assert len(calls) == 2


def test_wrong_results_are_noticed_and_never_returned():
    function = mf.compile_checked(grad(energy), backend=doubled)
    with pytest.warns(UserWarning, match="another result.*plain function is used"):
        first = function(X, K)
    expected = grad(energy)(X, K)
    assert torch.equal(first, expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(function(X, K), expected)


def test_failures_of_the_compiler_are_reported_once_and_the_plain_function_is_used():
    function = mf.compile_checked(energy, backend=broken)
    with pytest.warns(UserWarning, match="torch.compile failed.*plain function is used"):
        assert torch.equal(function(X, K), energy(X, K))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(function(X, K), energy(X, K))


def test_errors_of_the_function_itself_are_raised():
    def refuses(x):
        raise ValueError("not this one")

    with pytest.raises(ValueError, match="not this one"):
        mf.compile_checked(refuses, backend="eager")(X)


def test_every_shape_and_dtype_is_compared_anew():
    function = mf.compile_checked(energy, backend=doubled)
    for x in (X, torch.cat([X, X]), X.float()):
        k = K.to(x.dtype)
        with pytest.warns(UserWarning, match="another result"):
            assert torch.equal(function(x, k), energy(x, k))


def test_transforms_of_a_compiled_function_are_right():
    function = mf.compile_checked(energy, backend=doubled)
    assert torch.equal(grad(function)(X, K), grad(energy)(X, K))


def test_results_in_containers_are_compared():
    def several(x):
        return {"sum": x.sum(), "parts": (x, x.long())}

    function = mf.compile_checked(several, backend=doubled)
    with pytest.warns(UserWarning, match="another result"):
        found = function(X)
    assert torch.equal(found["parts"][0], X)
