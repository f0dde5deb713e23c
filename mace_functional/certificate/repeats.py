"""Checks of nested transforms, called four times.

A function that has state, or that is compiled during calls, may be right in the first call and
wrong in later ones. Every check creates a new energy function, calls it four times with the same
arguments, and compares the results with each other and with finite differences of forces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from mace_functional.certificate.comparison import (
    Comparison,
    Examination,
    compare,
    energy_rounding,
    rms,
    rounding,
)
from mace_functional.certificate.differences import LEAST_BOUND, SAFETY
from mace_functional.certificate.subject import Subject

CALLS = 4
"""Number of calls of each transform; TorchScript recompiles in the second or third call."""

Energy = Callable[[Tensor], Tensor]


def _energy(s: Subject) -> Iterator[Comparison]:
    x, energy = s.structure.positions, s.fresh_energy()
    first, *others = [energy(x).detach().reshape(1) for _ in range(CALLS)]
    for other in others:
        yield compare("E", other, first, unit="eV", relative=energy_rounding(first.dtype))


def _directional_derivative(energy: Energy, v: Tensor) -> Energy:
    """Return the function `x -> v.dE/dx`, by forward mode."""
    return lambda x: jvp(energy, (x,), (v,))[1]


def _jvp_of_grad(s: Subject, energy: Energy) -> tuple[Tensor, Tensor]:
    x, v = s.structure.positions, s.vectors[0]
    return jvp(grad(energy), (x,), (v,))[1], s.products[0].value


def _grad_of_jvp(s: Subject, energy: Energy) -> tuple[Tensor, Tensor]:
    x, v = s.structure.positions, s.vectors[0]
    return grad(_directional_derivative(energy, v))(x), s.products[0].value


def _jvp_of_jvp(s: Subject, energy: Energy) -> tuple[Tensor, Tensor]:
    # w.Hv is about as large as |Hv|, which is sqrt(3 N) times the size of its entries.
    x, v = s.structure.positions, s.vectors[0]
    scale = x.numel() ** 0.5
    slope = _directional_derivative(energy, v)
    found = torch.stack([jvp(slope, (x,), (w,))[1] for w in s.vectors[:2]])
    expected = torch.stack([(w * s.products[0].value).sum() for w in s.vectors[:2]])
    return found / scale, expected / scale


def _vmap(s: Subject, energy: Energy) -> tuple[Tensor, Tensor]:
    x = s.structure.positions
    product = vmap(lambda v: jvp(grad(energy), (x,), (v,))[1])
    return product(s.vectors), torch.stack([slope.value for slope in s.products])


def _four_times(
    transform: Callable[[Subject, Energy], tuple[Tensor, Tensor]],
) -> Callable[[Subject], Iterator[Comparison]]:
    """Return the check of one transform."""

    def run(s: Subject) -> Iterator[Comparison]:
        energy = s.fresh_energy()
        pairs = [transform(s, energy) for _ in range(CALLS)]
        first, expected = pairs[0]
        size = rms(s.products[0].value)
        calls_bound = rounding(first.dtype) * size
        slopes_bound = max(LEAST_BOUND * size, SAFETY * max(p.uncertainty for p in s.products))
        for found, _ in pairs:
            yield compare("calls", found, first, unit="eV/Å²", relative=0, extra=calls_bound)
            yield compare(
                "differences", found, expected, unit="eV/Å²", relative=0, extra=slopes_bound
            )

    return run


CHECKS = (
    Examination("energy, four calls", "E with itself", _energy),
    *(
        Examination(f"{name}, four calls", f"{what} with itself and with differences", run)
        for name, what, run in (
            ("jvp(grad)", "H v", _four_times(_jvp_of_grad)),
            ("jvp(jvp)", "w H v", _four_times(_jvp_of_jvp)),
            ("grad(jvp)", "H v", _four_times(_grad_of_jvp)),
            ("vmap", "H V", _four_times(_vmap)),
        )
    ),
)
