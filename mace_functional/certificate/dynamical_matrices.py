"""Check of the dynamical matrix against the Hessian of a commensurate supercell.

The wave vector is q = (1/3, -1/3, 1/3), with zeros in non-periodic directions. The supercell holds
three cells; its lattice vectors 3 a, a + b and c - a have integer q.R. Hessian products of the
supercell along `cos(2 pi q.R) u` and `sin(2 pi q.R) u` are the real and the imaginary part of
`sum_R Phi(0j, Rk) exp(2 pi i q.R) u_k`.
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
"""Number of cells of the supercell: the smallest for which `exp(2 pi i q.R)` is complex."""

SIGNS = np.array([1, -1, 1])
"""Signs of the components of q; unequal ones reveal exchanged directions and wrong signs."""


def _against_supercell(s: Subject) -> Iterator[Comparison]:
    if not has_dynamical_matrix(s.potential):
        raise NotApplicableError("the potential has no dynamical matrix")
    if not s.atoms.pbc.any():
        raise NotApplicableError("the structure is not periodic")
    structure = s.potential.structure(s.atoms)
    x, signs = structure.positions, SIGNS * s.atoms.pbc
    q = torch.as_tensor(signs / CELLS).to(x)
    arguments = x, structure.cell, s.potential.params, structure.masses
    matrix = dynamical_matrix_of(s.potential, structure.topology)(q, *arguments).detach()
    root = structure.masses.sqrt().repeat_interleave(3)
    force_constants = root[:, None] * matrix * root
    for u in s.vectors[:2]:
        found = torch.view_as_real(force_constants @ u.flatten().to(force_constants.dtype))
        expected = torch.view_as_real(_supercell_product(s, signs, u).flatten())
        yield compare("D(q) u", found, expected, unit="eV/Å²", relative=rounding(x.dtype))


def _supercell_product(s: Subject, signs: np.ndarray, u: Tensor) -> Tensor:
    """Return `sum_R Phi(0j, Rk) exp(2 pi i q.R) u_k` from a supercell, complex (N, 3).

    Args:
        s: The subject.
        signs: The components of 3 q, (3,).
        u: Displacements of the atoms of one cell, (N, 3).
    """
    axis = int(np.argmax(s.atoms.pbc))
    first = np.eye(3, dtype=int)[axis]
    # Lattice vectors L with integer q.L: the others, minus a multiple of the first periodic one.
    matrix = np.eye(3, dtype=int) - np.outer(signs * signs[axis], first)
    matrix[axis] = CELLS * first
    offsets = [n * first for n in range(CELLS)]
    large = s.potential.structure(supercell(s.atoms, matrix, offsets))
    energy = s.potential.energy_fn(large.topology)
    operator = HessianOperator(energy, large.positions, large.cell, s.potential.params)
    angles = [2 * math.pi * signs[axis] * n / CELLS for n in range(CELLS)]
    parts = [
        (operator @ torch.cat([f(angle) * u for angle in angles]))[: len(u)].detach()
        for f in (math.cos, math.sin)
    ]
    return torch.complex(*parts)


CHECKS = (Examination("D(q)", "D(q) u with products of a supercell's Hessian", _against_supercell),)
