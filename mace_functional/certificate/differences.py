"""Checks of first, second and third derivatives against differences of the next lower ones.

The Hessian is also checked to be symmetric, and to be zero for a translation of all atoms.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from ase.units import GPa
from torch import Tensor
from torch.func import grad, jvp

from mace_functional.certificate.comparison import (
    Comparison,
    Examination,
    NotApplicableError,
    compare,
    largest,
    rms,
    rounding,
)
from mace_functional.certificate.richardson import differentiate
from mace_functional.certificate.subject import ENERGY_STEP, FORCE_STEP, VECTORS, Subject
from mace_functional.derivatives import strained, stress
from mace_functional.derivatives.hessian_operator import HessianOperator

SAFETY = 10.0
"""Ratio of a bound and the uncertainty of differences, which is only an estimate."""

LEAST_BOUND = 1e-7
"""Smallest bound of derivatives against differences, as a fraction of their size.

Correct models have errors of up to 3e-9 (D3 alone).
"""

STRAIN_STEP = ENERGY_STEP / 6
"""First step of a strain, at which neighbours at 6 Å move by `ENERGY_STEP`."""


def _forces(s: Subject) -> Iterator[Comparison]:
    x, cell, forces = s.structure.positions, s.structure.cell, s.forces
    size, scale = rms(forces), x.numel() ** 0.5  # F.v is about |F|, sqrt(3 N) times the size
    for v in s.vectors:
        slope = differentiate(lambda h, v=v: s.continuous_energy(x + h * v, cell), ENERGY_STEP)  # type: ignore[misc]
        error = abs(float((forces * v).sum() + slope.value)) / scale
        bound = max(LEAST_BOUND * size, SAFETY * slope.uncertainty / scale)
        yield Comparison("F", error, bound, size, "eV/Å")


def _stress(s: Subject) -> Iterator[Comparison]:
    x, cell, params = s.structure.positions, s.structure.cell, s.potential.params
    pbc = s.atoms.pbc
    if not pbc.any():
        raise NotApplicableError("the structure is not periodic")
    energy = s.potential.energy_fn(s.structure.topology)
    zero, volume, unit = torch.zeros_like(cell), 1.0, "eV"
    if pbc.all():
        sigma = stress(energy)(x, cell, params).detach() / GPa
        volume, unit = s.atoms.get_volume() * GPa, "GPa"
    else:  # without a volume, compare the derivative of the energy by the strain
        sigma = grad(strained(energy))(zero, x, cell, params).detach()
    strain_energy = strained(lambda x, cell: s.continuous_energy(x, cell))
    size = rms(sigma)
    for signs in s.random(1).choice([-1.0, 1.0], (VECTORS, 3, 3)):
        e = torch.as_tensor(np.tril(signs) + np.tril(signs, -1).T).to(x)
        slope = differentiate(lambda h, e=e: strain_energy(h * e, x, cell), STRAIN_STEP)  # type: ignore[misc]
        error = abs(float((sigma * e).sum() - slope.value / volume)) / 3
        bound = max(LEAST_BOUND * size, SAFETY * slope.uncertainty / volume / 3)
        yield Comparison("stress", error, bound, size, unit)


def _vjp_products(s: Subject) -> list[Tensor]:
    """Return the products `v H`, by the vector-Jacobian product of the gradient."""
    operator = HessianOperator(
        lambda x, cell, params: s.energy(x), s.structure.positions, s.structure.cell, None
    )
    return [(operator @ v).detach() for v in s.vectors]


def _products(s: Subject) -> Iterator[Comparison]:
    x = s.structure.positions
    forward = [s.product(x, v).detach() for v in s.vectors]
    for found in (forward, _vjp_products(s)):
        for product, slope in zip(found, s.products, strict=True):
            yield compare(
                "H v",
                product,
                slope.value,
                unit="eV/Å²",
                relative=LEAST_BOUND,
                extra=SAFETY * slope.uncertainty,
            )


def _third(s: Subject) -> Iterator[Comparison]:
    x, (v, w, *_) = s.structure.positions, s.vectors
    found = jvp(lambda y: s.product(y, v), (x,), (w,))[1].detach()
    slope = differentiate(lambda h: jvp(s.continuous_gradient, (x + h * w,), (v,))[1], FORCE_STEP)
    yield compare(
        "dH v/dt",
        found,
        slope.value,
        unit="eV/Å³",
        relative=LEAST_BOUND,
        extra=SAFETY * slope.uncertainty,
    )


def _symmetry(s: Subject) -> Iterator[Comparison]:
    x = s.structure.positions
    products = torch.stack([s.product(x, v).detach() for v in s.vectors])
    relative = rounding(x.dtype)
    yield compare(
        "H v and v H", torch.stack(_vjp_products(s)), products, unit="eV/Å²", relative=relative
    )
    w_h_v = s.vectors.flatten(1) @ products.flatten(1).T / x.numel() ** 0.5
    yield compare("w H v and v H w", w_h_v.T, w_h_v, unit="eV/Å²", relative=relative)


def _acoustic(s: Subject) -> Iterator[Comparison]:
    x = s.structure.positions
    relative = rounding(x.dtype)
    size = rms(s.product(x, s.vectors[0]))
    for axis in range(3):
        t = torch.zeros_like(x)
        t[:, axis] = 1
        error = largest(s.product(x, t))
        yield Comparison("H t", error, relative * size, size, "eV/Å²")
    size = rms(s.forces) * len(x) ** 0.5
    yield Comparison("sum of forces", largest(s.forces.sum(0)), relative * size, size, "eV/Å")


CHECKS = (
    Examination("forces", "grad of E with differences of E", _forces),
    Examination("stress", "derivative by strain with differences of E", _stress),
    Examination("Hessian products", "jvp and vjp of grad with differences of F", _products),
    Examination("third derivative", "jvp of H v with differences of H v", _third),
    Examination("Hessian symmetry", "H v with v H, and w H v with v H w", _symmetry),
    Examination("acoustic sums", "H t and the sum of forces with zero", _acoustic),
)
