"""Harmonic thermodynamics of many modes at many temperatures, in a bounded amount of memory.

`harmonic_thermo` stores about ten tensors of size temperatures x wave vectors x modes: 4 GB for 151
temperatures on a mesh of a thousand wave vectors with 300 modes. All its results are weighted sums
over wave vectors. This module computes them for a part of the wave vectors at a time.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from mace_functional.vibrations.thermodynamics import HarmonicThermo, harmonic_thermo

PIECE_SIZE = 2**20
"""Largest number of temperatures x wave vectors x modes at once, about 80 MB.

It is 8 MB for each of about ten tensors. Smaller pieces take more calls; larger ones take more
memory and are not faster. The modes of one wave vector are never divided.
"""


def thermo_in_pieces(
    frequencies: Tensor, temperatures: Sequence[float] | float, weights: Tensor | None = None
) -> HarmonicThermo:
    """Compute harmonic thermodynamics without derivatives, in pieces of `PIECE_SIZE` numbers.

    Imaginary modes are left out and counted, without a warning.

    Args:
        frequencies: Signed frequencies in cm-1, (M,), or (Q, M) on a mesh of wave vectors.
        temperatures: Temperatures in K, (T,) or a scalar.
        weights: Weights of the wave vectors, of any sum, (Q,); None for equal weights.

    Returns:
        Thermodynamics as from `harmonic_thermo`.

    Raises:
        ValueError: See `harmonic_thermo`.
    """
    modes = torch.atleast_2d(frequencies.detach())
    t = torch.as_tensor(temperatures, dtype=modes.dtype)
    q_weights = modes.new_ones(len(modes)) if weights is None else weights.to(modes)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*imaginary modes")
        pieces = [
            _over_mesh(modes, part, q_weights)
            for part in t.reshape(-1).split(max(1, PIECE_SIZE // max(modes.shape[1], 1)))
        ]
    joined = [
        torch.cat(values) if values[0].ndim else values[0] for values in zip(*pieces, strict=True)
    ]
    return HarmonicThermo(*(x.reshape(t.shape) if x.ndim else x for x in joined))


def _over_mesh(modes: Tensor, t: Tensor, weights: Tensor) -> HarmonicThermo:
    """Compute thermodynamics at a few temperatures, summed over the wave vectors piece by piece."""
    size = max(1, PIECE_SIZE // max(modes.shape[1] * len(t), 1))
    parts = [
        (
            float(part_weights.sum() / weights.sum()),
            harmonic_thermo(part, t, weights=part_weights, unit="cm-1"),
        )
        for part, part_weights in zip(modes.split(size), weights.split(size), strict=True)
        if part_weights.sum() > 0
    ]
    if not parts:
        raise ValueError("at least one weight of a wave vector must be positive")

    def total(name: str) -> Tensor:
        values = [(share, getattr(part, name)) for share, part in parts]
        if name == "temperatures":
            return t
        averaged = values[0][1].is_floating_point()
        return torch.stack([share * x if averaged else x for share, x in values]).sum(0)

    return HarmonicThermo(*(total(name) for name in HarmonicThermo._fields))
