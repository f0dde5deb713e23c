r"""The response of a relaxed structure to a change of the parameters of its potential.

The minimum y = (positions, strain) of `E(y, p)` moves with the parameters p as

    dy/dp = -K+ d2E/dy dp,      K = d2E/dy dy at the minimum,

K+ the inverse without rigid motions. The function

    y(p) = y0 - K+ (dE/dy(y0, p) - dE/dy(y0, p0))

has this derivative at p0, and the value y0. A property `f(y(p), p)` therefore has the gradient of
the property of the relaxed structure, by ordinary differentiation.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import grad, vjp

from mace_functional.autodiff.columns import chunked_vmap
from mace_functional.derivatives.first import strained
from mace_functional.potential.protocol import Potential
from mace_functional.structure.arrays import as_array
from mace_functional.structure.connectivity import parts_of
from mace_functional.structure.structure import Structure
from mace_functional.vibrations.rigid import rigid_motions_of

Minimum = Callable[[Any], tuple[Tensor, Tensor]]
"""Positions and cell, Å, at the minimum as a function of the parameters."""


def minimum_fn(
    potential: Potential, structure: Structure, *, cell: bool = False, **columns: Any
) -> Minimum:
    """Return the minimum near a relaxed structure as a function of the parameters.

    It is linear in the gradient of the energy, so its first derivative by the parameters is exact,
    and its second derivative is not. It composes with all transforms of first order.

    Args:
        potential: The potential, with the parameters for which the structure is relaxed.
        structure: The relaxed structure, of `potential.structure(atoms)`.
        cell: True if the cell was relaxed too; for crystals, periodic in three directions.
        **columns: Options of `hessian`, such as `memory_budget`.

    Returns:
        The function, from parameters to positions (N, 3) and cell (3, 3), both in Å.

    Raises:
        ValueError: If `cell` is given for a structure that is not periodic in three directions.

    Warns:
        UserWarning: If the structure is no minimum: a curvature is negative.
    """
    if cell and not bool(structure.topology.pbc.all()):
        raise ValueError("cell=True is for crystals, periodic in three directions")
    energy = strained(potential.energy_fn(structure.topology))
    x0, cell0 = structure.positions, structure.cell
    n = x0.numel()
    voigt = _strain_basis(x0)
    length = float(abs(torch.linalg.det(cell0.double()))) ** (1 / 3) if cell else 1.0

    def unpacked(y: Tensor) -> tuple[Tensor, Tensor]:
        strain = (y[n:, None, None] * voigt).sum(0) / length if cell else torch.zeros_like(cell0)
        return x0 + y[:n].view_as(x0), strain

    def energy_of(y: Tensor, params: Any) -> Tensor:
        x, strain = unpacked(y)
        return energy(strain, x, cell0, params)

    y0 = torch.zeros(n + 6 * cell, dtype=x0.dtype, device=x0.device)
    gradient = grad(energy_of)
    pull_back = vjp(lambda y: gradient(y, potential.params), y0)[1]
    identity = torch.eye(len(y0), dtype=x0.dtype, device=x0.device)
    matrix = chunked_vmap(lambda v: pull_back(v)[0], identity, **columns)
    inverse = _inverse(matrix, _rigid(structure, len(y0)))
    start = gradient(y0, potential.params).detach()

    def minimum(params: Any) -> tuple[Tensor, Tensor]:
        y = -(inverse @ (gradient(y0, params) - start))
        x, strain = unpacked(y)
        return x + x @ strain, cell0 + cell0 @ strain

    return minimum


def _strain_basis(like: Tensor) -> Tensor:
    """Return an orthonormal basis of symmetric strains, (6, 3, 3)."""
    basis = torch.zeros(6, 3, 3, dtype=like.dtype, device=like.device)
    for k, (i, j) in enumerate(((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))):
        basis[k, i, j] = basis[k, j, i] = 1.0 if i == j else 0.5**0.5
    return basis


def _rigid(structure: Structure, size: int) -> np.ndarray:
    """Return an orthonormal basis of the rigid motions, not weighted by masses, (size, r)."""
    x, cell = structure.positions, structure.cell
    parts = parts_of(structure.topology, x, cell)
    motions = rigid_motions_of(as_array(x), np.ones(len(x)), as_array(cell), parts)
    basis = np.zeros((size, motions.count))
    basis[: x.numel()] = motions.basis
    return basis


def _inverse(matrix: Tensor, rigid: np.ndarray) -> Tensor:
    """Return the inverse of a symmetric matrix in the space without rigid motions."""
    k = matrix.double().cpu()
    basis = torch.as_tensor(rigid)
    outside = torch.eye(len(k), dtype=k.dtype) - basis @ basis.T
    eigenvalues, vectors = torch.linalg.eigh(outside @ (k + k.T) @ outside / 2 + basis @ basis.T)
    if float(eigenvalues[0]) <= 0:
        warnings.warn(
            f"the structure is no minimum: its lowest curvature is {float(eigenvalues[0]):.2g} "
            "eV/Å², so the response of its atoms to other weights means little",
            stacklevel=3,
        )
    inverse = (vectors / eigenvalues) @ vectors.T - basis @ basis.T
    return inverse.to(matrix)
