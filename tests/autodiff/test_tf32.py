"""TF32 is warned of, and nothing else is."""

from __future__ import annotations

import subprocess
import sys
import warnings

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mace_functional.autodiff import tf32


def warned(device: str, dtype: torch.dtype) -> bool:
    """Whether a tensor on a device is warned of; tensors of GPUs have no values here."""
    with FakeTensorMode():
        tensor = torch.empty(3, device=device, dtype=dtype)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        tf32.warn_of_tf32(tensor)
    return any("TF32" in str(warning.message) for warning in found)


def test_single_precision_on_a_gpu_is_warned_of(monkeypatch):
    assert not warned("cuda", torch.float32)  # torch has TF32 off by default
    monkeypatch.setattr(tf32, "_tf32_is_on", lambda: True)
    assert warned("cuda", torch.float32)
    assert not warned("cuda", torch.float64)
    assert not warned("cpu", torch.float32)


SETTINGS = """
import torch
from mace_functional.autodiff.tf32 import _tf32_is_on

matmul = torch.backends.cuda.matmul
for value in True, False:
    matmul.allow_tf32 = value
    print(_tf32_is_on())
if hasattr(matmul, "fp32_precision"):
    for value in "tf32", "ieee":
        matmul.fp32_precision = value
        print(_tf32_is_on())
"""


def test_older_and_newer_options_of_torch_are_read():
    """In a process of its own, because torch does not go back to the older options."""
    command = [sys.executable, "-c", SETTINGS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() in (["True", "False"], ["True", "False"] * 2)
