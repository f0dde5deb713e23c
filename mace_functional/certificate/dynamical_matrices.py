"""The dynamical matrix against a supercell that holds the wave.

With one wave vector q = (1/3, -1/3, 1/3), as far as there are periodic directions, and a cell of
three cells with lattice vectors 3 a, a + b and a' = c - a that are whole waves apart, the Hessian
product of the supercell along `cos(2 pi q.R) u` and `sin(2 pi q.R) u` is the real and the imaginary
part of `sum_R Phi(0j, Rk) exp(2 pi i q.R) u_k`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from mace_functional.certificate.comparison import (
    Comparison,
    Examination,
    NotApplicableError,
    compare,
    rounding,
)
from mace_functional.certificate.invariances import supercell
from mace_functional.certificate.subject import Subject
from mace_functional.derivatives.hessian_operator import HessianOperator
from mace_functional.phonons.dynamical_matrix import dynamical_matrix_of, has_dynamical_matrix

CELLS = 3
"""Cells of the supercell: the fewest at which a wave is neither real nor at rest."""

SIGNS = np.array([1, -1, 1])
"""Of the components of q, so that no two directions and no sign can be exchanged."""


def _against_supercell(s: Subject) -> Iterator[Comparison]:
    if not has_dynamical_matrix(s.potential):
        raise NotApplicableError("the potential offers no dynamical matrix")
    if not s.atoms.pbc.any():
        raise NotApplicableError("the structure is not periodic")
    here = s.potential.structure(s.atoms)
    x, waves = here.positions, SIGNS * s.atoms.pbc
    q = torch.as_tensor(waves / CELLS).to(x)
    arguments = x, here.cell, s.potential.params, here.masses
    matrix = dynamical_matrix_of(s.potential, here.topology)(q, *arguments).detach()
    root = here.masses.sqrt().repeat_interleave(3)
    at_q = root[:, None] * matrix * root
    for u in s.vectors[:2]:
        found = torch.view_as_real(at_q @ u.flatten().to(at_q.dtype))
        expected = torch.view_as_real(_folded(s, waves, u).flatten())
        yield compare("D(q) u", found, expected, unit="eV/Å²", relative=rounding(x.dtype))


def _folded(s: Subject, waves: np.ndarray, u: Tensor) -> Tensor:
    """`sum_R Phi(0j, Rk) exp(2 pi i q.R) u_k` from a supercell, complex (N, 3)."""
    axis = int(np.argmax(s.atoms.pbc))
    first = np.eye(3, dtype=int)[axis]
    # Lattice vectors L with whole q.L: each other one, less a multiple of the first.
    matrix = np.eye(3, dtype=int) - np.outer(waves * waves[axis], first)
    matrix[axis] = CELLS * first
    offsets = [n * first for n in range(CELLS)]
    large = s.potential.structure(supercell(s.atoms, matrix, offsets))
    energy = s.potential.energy_fn(large.topology)
    operator = HessianOperator(energy, large.positions, large.cell, s.potential.params)
    angles = [2 * math.pi * waves[axis] * n / CELLS for n in range(CELLS)]
    parts = [
        (operator @ torch.cat([f(angle) * u for angle in angles]))[: len(u)].detach()
        for f in (math.cos, math.sin)
    ]
    return torch.complex(*parts)


CHECKS = (Examination("D(q)", "D(q) u with products of a supercell's Hessian", _against_supercell),)
