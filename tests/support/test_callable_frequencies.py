"""Frequencies that may still be called, as the method of their name was."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch

from mace_functional.support.callable_frequencies import CallableFrequencies, callable_frequencies


@pytest.fixture
def frequencies():
    values = torch.tensor([-3.0, 1.0, 2.0], dtype=torch.float64)
    return callable_frequencies(values, lambda unit: {"cm-1": 1.0, "THz": 0.03}[unit] * values)


@pytest.mark.parametrize(("arguments", "factor"), [((), 1.0), (("cm-1",), 1.0), (("THz",), 0.03)])
def test_call_gives_the_unit_and_warns(frequencies, arguments, factor):
    with pytest.warns(DeprecationWarning, match=r"frequencies\(unit\) is now frequencies_in\(unit"):
        found = frequencies(*arguments)
    assert type(found) is torch.Tensor
    assert torch.equal(found, factor * torch.tensor([-3.0, 1.0, 2.0], dtype=torch.float64))


@pytest.mark.parametrize(
    "of",
    [
        lambda f: f + 1,
        lambda f: 2 * f,
        lambda f: f[1:],
        lambda f: f < 0,
        lambda f: torch.stack([f, f]),
        lambda f: f.to(torch.float32),
        lambda f: f.detach(),
        lambda f: f.clone(),
        copy.deepcopy,
        torch.func.vmap(lambda x: x**2),
        torch.func.grad(lambda x: (x**3).sum()),
        torch.func.jacfwd(lambda x: x**3),
    ],
)
def test_what_is_computed_from_them_is_a_plain_tensor(frequencies, of):
    found, expected = of(frequencies), of(torch.tensor([-3.0, 1.0, 2.0], dtype=torch.float64))
    assert type(found) is torch.Tensor
    assert torch.equal(found, expected)


def test_what_is_kept_of_them_is_plain(frequencies):
    file = io.BytesIO()
    torch.save({"frequencies": frequencies}, file)
    file.seek(0)
    found = torch.load(file, weights_only=True)["frequencies"]
    assert type(found) is torch.Tensor
    assert found.tolist() == [-3.0, 1.0, 2.0]


def test_they_print_and_convert_as_tensors_do(frequencies):
    assert isinstance(frequencies, CallableFrequencies)
    assert repr(frequencies) == "tensor([-3.,  1.,  2.], dtype=torch.float64)"
    assert f"{frequencies[0]:.1f}" == "-3.0"
    assert type(frequencies.numpy()) is np.ndarray
    np.testing.assert_array_equal(np.asarray(frequencies), [-3.0, 1.0, 2.0])
    torch.testing.assert_close(
        frequencies, torch.tensor([-3.0, 1.0, 2.0], dtype=torch.float64), rtol=0, atol=0
    )
