"""Losses of phonons and elastic constants, as functions of the parameters.

They are `objectives` of `finetune`, and `grad` takes them. Gradients through dynamical matrices
take the memory of a few products of the Hessian, whatever the number of wave vectors.

A frequency is no smooth function where it goes through zero, so errors are those of its square l,

    d omega = (l - l0) / (2 omega0),

with omega0 not below a floor. For small errors they are errors of the frequency, and an imaginary
mode that should be real, or the other way round, has an error and a slope of the right sign.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase.units import GPa
from torch import Tensor

from mace_functional.elasticity.tensor import elastic_tensor
from mace_functional.elasticity.voigt import to_voigt
from mace_functional.phonons import dynamical_matrix_fn
from mace_functional.potential.protocol import Potential
from mace_functional.support.validation import positive
from mace_functional.units import frequency_factor

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import ArrayLike

FLOOR = 30.0
"""Default frequency below which errors of the square count as at this frequency, cm-1."""

Loss = Callable[[Any], Tensor]
"""Function of the parameters to a number."""


def phonon_objective(
    potential: Potential,
    atoms: Atoms,
    q: ArrayLike,
    frequencies: ArrayLike,
    *,
    floor: float = FLOOR,
    weight: float = 1.0,
    **columns: Any,
) -> Loss:
    """Return the mean squared error of phonon frequencies at wave vectors, as a loss.

    Args:
        potential: The potential.
        atoms: The structure, at which the frequencies are computed with all parameters.
        q: Wave vectors in units of the reciprocal lattice vectors, (Q, 3).
        frequencies: Signed frequencies to reach, cm-1, (Q, 3N); imaginary ones are negative.
        floor: Frequency below which errors of the square count as at this frequency, cm-1. At 0
            the three acoustic modes of Gamma would have no bound.
        weight: Factor of the loss, cm².
        **columns: Options of `dynamical_matrix_fn`.

    Returns:
        `params` to the weighted mean of `d omega^2` over wave vectors and modes in order.

    Raises:
        ValueError: If shapes do not fit the structure, or numbers are not finite.
    """
    s = potential.structure(atoms)
    points = _numbers("q", q, (None, 3))
    known = _numbers("frequencies", frequencies, (len(points), 3 * len(atoms)))
    target = torch.as_tensor(np.sort(known, axis=1)).to(s.positions)
    squares = target * target.abs()
    slopes = 2 * target.abs().clamp(min=positive("floor", floor, "cm-1"))
    factor = frequency_factor("cm-1") ** 2
    matrix = dynamical_matrix_fn(potential, s.topology, **columns)

    def loss(params: Any) -> Tensor:
        errors = []
        for k, point in enumerate(points.tolist()):
            d = matrix(point, s.positions, s.cell, params, s.masses)
            eigenvalues = torch.linalg.eigvalsh((d + d.mH) / 2)
            errors.append((factor * eigenvalues - squares[k]) / slopes[k])
        return weight * torch.stack(errors).square().mean()

    return loss


def dynamical_matrix_objective(
    potential: Potential,
    atoms: Atoms,
    q: ArrayLike,
    matrices: Sequence[ArrayLike],
    *,
    weight: float = 1.0,
    **columns: Any,
) -> Loss:
    """Return the mean squared error of dynamical matrices at wave vectors, as a loss.

    Args:
        potential: The potential.
        atoms: The structure.
        q: Wave vectors in units of the reciprocal lattice vectors, (Q, 3).
        matrices: Dynamical matrices to reach, eV/Å²/amu, (Q, 3N, 3N) complex, in the convention of
            `dynamical_matrix_fn`.
        weight: Factor of the loss, (Å² amu / eV)².
        **columns: Options of `dynamical_matrix_fn`.

    Returns:
        `params` to the weighted mean of `|D_ij - D0_ij|^2` over wave vectors and elements.

    Raises:
        ValueError: If shapes do not fit the structure, or numbers are not finite.
    """
    s = potential.structure(atoms)
    points = _numbers("q", q, (None, 3))
    size = 3 * len(atoms)
    known = _numbers("matrices", matrices, (len(points), size, size), complex)
    target = torch.as_tensor(known).to(s.positions.device, s.positions.dtype.to_complex())
    matrix = dynamical_matrix_fn(potential, s.topology, **columns)

    def loss(params: Any) -> Tensor:
        found = [matrix(q, s.positions, s.cell, params, s.masses) for q in points.tolist()]
        return weight * (torch.stack(found) - target).abs().square().mean()

    return loss


def elastic_objective(
    potential: Potential,
    atoms: Atoms,
    constants: ArrayLike,
    *,
    weight: float = 1.0,
    **options: Any,
) -> Loss:
    """Return the mean squared error of elastic constants, as a loss.

    Args:
        potential: The potential.
        atoms: The crystal, relaxed or nearly so.
        constants: Elastic constants to reach in Voigt's order xx, yy, zz, yz, xz, xy, GPa, (6, 6).
        weight: Factor of the loss, GPa^-2.
        **options: Options of `elastic_tensor`, such as `ions="clamped"`.

    Returns:
        `params` to the weighted mean of `(C_ij - C0_ij)^2` over all elements.

    Raises:
        ValueError: If shapes do not fit, numbers are not finite, or the structure is not periodic
            in three directions.
    """
    if not atoms.pbc.all():
        raise ValueError("elastic constants in GPa need a crystal, periodic in 3 directions")
    s = potential.structure(atoms)
    target = torch.as_tensor(_numbers("constants", constants, (6, 6))).to(s.positions)
    tensor = elastic_tensor(potential.energy_fn(s.topology), **options)

    def loss(params: Any) -> Tensor:
        found = to_voigt(tensor(s.positions, s.cell, params)) / GPa
        return weight * (found - target).square().mean()

    return loss


def _numbers(
    name: str, values: Any, shape: tuple[int | None, ...], dtype: type = float
) -> np.ndarray:
    """Return finite numbers as an array of a shape; None for any number of rows."""
    array: np.ndarray = np.asarray(values, dtype=dtype)
    fits = array.ndim == len(shape) and all(
        n in (None, m) for n, m in zip(shape, array.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(f"{name} must have the shape ({wanted}), not {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite numbers")
    return array
