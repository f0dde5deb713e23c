"""Harmonic thermodynamics of many modes at many temperatures, in a bounded amount of memory.

`harmonic_thermo` holds about ten tensors of temperatures x wave vectors x modes: 151 temperatures
of a curve on a mesh of a thousand wave vectors with 300 modes are 4 GB. All that it returns is a
sum over wave vectors with weights, so that it can be computed for some of them at a time.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from mace_functional.vibrations.thermodynamics import HarmonicThermo, harmonic_thermo

PIECE = 2**20
"""Temperatures x wave vectors x modes at once: 8 MB for each of about ten tensors. Less takes more
calls, more takes more memory and no less time. One wave vector is never divided."""


def thermo_in_pieces(
    frequencies: Tensor, temperatures: Sequence[float] | float, weights: Tensor | None = None
) -> HarmonicThermo:
    """Harmonic thermodynamics as values, without derivatives, in pieces of `PIECE` numbers.

    Imaginary modes are left out and counted, without a warning.

    Args:
        frequencies: (M,), or (Q, M) on a mesh of wave vectors; signed, cm-1.
        temperatures: (T,) or one number, K.
        weights: (Q,) of the wave vectors, of any sum; equal ones if None.

    Returns:
        The same as `harmonic_thermo`.

    Raises:
        ValueError: As `harmonic_thermo`.
    """
    modes = torch.atleast_2d(frequencies.detach())
    kelvin = torch.as_tensor(temperatures, dtype=modes.dtype)
    each = modes.new_ones(len(modes)) if weights is None else weights.to(modes)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*imaginary modes")
        columns = [
            _over_mesh(modes, some, each)
            for some in kelvin.reshape(-1).split(max(1, PIECE // max(modes.shape[1], 1)))
        ]
    joined = [
        torch.cat(parts) if parts[0].ndim else parts[0] for parts in zip(*columns, strict=True)
    ]
    return HarmonicThermo(*(x.reshape(kelvin.shape) if x.ndim else x for x in joined))


def _over_mesh(modes: Tensor, kelvin: Tensor, weights: Tensor) -> HarmonicThermo:
    """At temperatures that are few enough for one wave vector, summed over all of them."""
    size = max(1, PIECE // max(modes.shape[1] * len(kelvin), 1))
    parts = [
        (
            float(each.sum() / weights.sum()),
            harmonic_thermo(some, kelvin, weights=each, unit="cm-1"),
        )
        for some, each in zip(modes.split(size), weights.split(size), strict=True)
        if each.sum() > 0
    ]
    if not parts:
        raise ValueError("wave vectors need weights of which one at least is positive")

    def total(name: str) -> Tensor:
        values = [(share, getattr(part, name)) for share, part in parts]
        if name == "temperatures":
            return kelvin
        shares = values[0][1].is_floating_point()
        return torch.stack([share * x if shares else x for share, x in values]).sum(0)

    return HarmonicThermo(*(total(name) for name in HarmonicThermo._fields))
