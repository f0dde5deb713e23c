"""Nested transforms, called four times.

A function that keeps state, or parts of which are compiled in calls, may be right once and wrong
from the second call on. Every check makes the energy anew, calls it four times with the same
arguments, and compares the results with each other and with differences of forces.
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
"""Calls of each transform. TorchScript changes what it computes with the second or third one."""

Energy = Callable[[Tensor], Tensor]


def _energy(s: Subject) -> Iterator[Comparison]:
    x, energy = s.structure.positions, s.fresh_energy()
    first, *others = [energy(x).detach().reshape(1) for _ in range(CALLS)]
    for other in others:
        yield compare("E", other, first, unit="eV", relative=energy_rounding(first.dtype))


def _along(energy: Energy, v: Tensor) -> Energy:
    """`x -> v.dE/dx`, by forward mode."""
    return lambda x: jvp(energy, (x,), (v,))[1]


def _jvp_of_grad(s: Subject, energy: Energy) -> tuple[Tensor, Tensor]:
    x, v = s.structure.positions, s.vectors[0]
    return jvp(grad(energy), (x,), (v,))[1], s.products[0].value


def _grad_of_jvp(s: Subject, energy: Energy) -> tuple[Tensor, Tensor]:
    x, v = s.structure.positions, s.vectors[0]
    return grad(_along(energy, v))(x), s.products[0].value


def _jvp_of_jvp(s: Subject, energy: Energy) -> tuple[Tensor, Tensor]:
    # w.Hv is as large as |Hv|, which is sqrt(3 N) times the size of its entries.
    x, v = s.structure.positions, s.vectors[0]
    scale = x.numel() ** 0.5
    found = torch.stack([jvp(_along(energy, v), (x,), (w,))[1] for w in s.vectors[:2]])
    expected = torch.stack([(w * s.products[0].value).sum() for w in s.vectors[:2]])
    return found / scale, expected / scale


def _vmap(s: Subject, energy: Energy) -> tuple[Tensor, Tensor]:
    x = s.structure.positions
    product = vmap(lambda v: jvp(grad(energy), (x,), (v,))[1])
    return product(s.vectors), torch.stack([slope.value for slope in s.products])


def _four_times(
    transform: Callable[[Subject, Energy], tuple[Tensor, Tensor]],
) -> Callable[[Subject], Iterator[Comparison]]:
    """The check of one transform."""

    def run(s: Subject) -> Iterator[Comparison]:
        energy = s.fresh_energy()
        pairs = [transform(s, energy) for _ in range(CALLS)]
        first, expected = pairs[0]
        size = rms(s.products[0].value)
        between = rounding(first.dtype) * size
        steps = max(LEAST_BOUND * size, SAFETY * max(p.uncertainty for p in s.products))
        for found, _ in pairs:
            yield compare("calls", found, first, unit="eV/Å²", relative=0, extra=between)
            yield compare("differences", found, expected, unit="eV/Å²", relative=0, extra=steps)

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
