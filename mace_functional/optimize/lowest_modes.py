"""Lowest modes of a Hessian, from a few of its products with vectors.

The eigenvalues of a Hessian spread over three to five orders of magnitude, so that products alone
find the lowest ones last. The Hessian K of a valence force field (`valence_hessian`) has a similar
spectrum at low cost, and preconditions the search (`davidson`). Above the size at which `relax`
changes its method, K is a sparse matrix too, and no memory grows as the square of the number of
atoms (`sparse_frame`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from mace_functional.autodiff.concrete import refuse_transforms
from mace_functional.derivatives.hessian_operator import HessianOperator
from mace_functional.optimize.davidson import (
    Eigenpairs,
    Limits,
    SearchFrame,
    lowest_eigenpairs,
)
from mace_functional.optimize.free_structure import FreeStructure, basis_of, checked_product
from mace_functional.optimize.modal_frame import modal_frame
from mace_functional.optimize.outcome import HasOutcome, Outcome
from mace_functional.optimize.relaxation import MAX_DENSE_ATOMS
from mace_functional.optimize.sparse_frame import sparse_frame
from mace_functional.structure.connectivity import Parts, parts_of
from mace_functional.structure.selection import freedom
from mace_functional.support import validation
from mace_functional.support.callable_frequencies import callable_frequencies
from mace_functional.support.renamed import renamed_option
from mace_functional.units import frequency_factor
from mace_functional.vibrations.harmonic_modes import signed_sqrt
from mace_functional.vibrations.result_text import result_text, values_text
from mace_functional.vibrations.rigid import DIFFERENTIABLE_CALL

TOLERANCE = 1e-8
"""Default relative error of eigenvalues, for products in double precision."""

SINGLE_TOLERANCE = 1e-3
"""Default relative error of eigenvalues, for products in single precision.

The rounding of these products causes errors of 1e-6 of the largest eigenvalue.
"""


@dataclass(frozen=True, eq=False)
class LowestModes(HasOutcome):
    """Lowest k eigenpairs of a Hessian, without rigid motions.

    Attributes:
        eigenvalues: Eigenvalues, ascending, (k,); eV/Å²/amu, or eV/Å² for an operator without
            masses.
        modes: Orthonormal eigenvectors, (k, N, 3), in mass-weighted coordinates if there are
            masses.
        errors: Estimates of how much the eigenvalues exceed the exact eigenvalues, (k,).
        rounding: Error of the eigenvalues from the rounding of products, in either direction.
        residuals: Norms of H u - theta u, (k,).
        outcome: Reason why the search ended: CONVERGED if all errors are within the tolerance, else
            MAX_STEPS, MODES_MAY_BE_MISSING or NOISE_LIMIT.
        detail: Text with numbers.
        n_hvps: Number of Hessian-vector products.
        mass_weighted: True if the operator had masses.
    """

    eigenvalues: Tensor
    modes: Tensor
    errors: Tensor
    rounding: float
    residuals: Tensor
    outcome: Outcome
    detail: str
    n_hvps: int
    mass_weighted: bool

    def __repr__(self) -> str:
        if self.mass_weighted:
            shown = values_text(self.frequencies_in("cm-1"), "cm-1")
        else:
            shown = values_text(self.eigenvalues, "eV/Å²", ".4g")
        count, size = self.modes.shape[0], 3 * self.modes.shape[1]
        return result_text(
            self,
            f"lowest {count} of {size} modes: {shown}",
            self.reason,
            f"{self.n_hvps} Hessian-vector products",
        )

    @property
    def converged(self) -> bool:
        """True if all errors are within the tolerance."""
        return self.outcome is Outcome.CONVERGED

    @property
    def frequencies(self) -> Tensor:
        """Signed frequencies in cm-1, ascending, (k,); imaginary modes are negative.

        Raises:
            ValueError: If the operator had no masses.
        """
        values = self.frequencies_in("cm-1")
        return callable_frequencies(values, self.frequencies_in)

    def frequencies_in(self, unit: str) -> Tensor:
        """Return the frequencies in a unit, ascending, (k,).

        Args:
            unit: Unit of the frequencies: "cm-1", "THz" or "meV".

        Raises:
            ValueError: If the unit is unknown, or the operator had no masses.
        """
        if not self.mass_weighted:
            raise ValueError("frequencies need masses: give them to HessianOperator")
        return frequency_factor(unit) * signed_sqrt(self.eigenvalues)


@renamed_option("model", "preconditioner")
def lowest_modes(
    op: HessianOperator,
    k: int,
    *,
    pbc: Sequence[bool] | None = None,
    numbers: Tensor | Sequence[int] | None = None,
    preconditioner: Tensor | None = None,
    guess: Tensor | None = None,
    tolerance: float | None = None,
    max_hvps: int | None = None,
    seed: int = 0,
    parts: Parts | None = None,
    free: np.ndarray | None = None,
) -> LowestModes:
    """Compute the algebraically lowest eigenpairs of a Hessian, from products `op @ V` alone.

    An operator of `HessianOperator.from_potential` stores its structure; only k has to be given
    then. Rigid motions (`rigid_motions`) are projected out. Degenerate eigenvalues are returned
    with their multiplicity. If the last eigenvalue differs from the next one by less than about the
    square root of the tolerance, the two modes may be mixed, and the eigenvalue may be too high by
    this difference.

    Args:
        op: The Hessian, plain or mass-weighted.
        k: Number of modes.
        pbc: True for each periodic cell vector, (3,); None for those of the operator's structure.
        numbers: Atomic numbers (N,), for the preconditioner; None for those of the operator's
            structure.
        preconditioner: Symmetric approximation of the plain Hessian, eV/Å², (3N, 3N); None for that
            of a valence force field, which is a sparse matrix for more than 300 atoms. It affects
            the number of products, not the result.
        guess: Starting modes, (g, N, 3), such as those of a similar structure.
        tolerance: Relative error of the eigenvalues. Eigenvalues below 1e-6 of the largest have an
            error relative to that value. None for 1e-8, or 1e-3 in float32.
        max_hvps: Largest number of products; None for the number of internal coordinates, with
            which the result is exact.
        seed: Seed of the random part of the starting vectors.
        parts: Connected parts, each with its own rigid motions (`connectivity`). None for those of
            the operator's structure, or one part that is connected along all periodic directions.
        free: Orthonormal basis of the free Cartesian displacements, (3N, m). None for those that
            the constraints of the operator's structure leave free, or all.

    Returns:
        The modes in float64 on the operator's device, with errors. Check `converged`.

    Raises:
        ValueError: If there are fewer than k modes, shapes do not fit, the structure is unknown, a
            limit is too low, or the preconditioner is not finite.
        ArithmeticError: If a product is not finite.

    Source: see `davidson`.

    >>> positions, cell = torch.eye(2, 3), torch.eye(3)
    >>> op = HessianOperator(lambda x, *_: (x[0] - x[1]).norm() ** 2, positions, cell, None)
    >>> lowest_modes(op, 1, pbc=(False, False, False), preconditioner=torch.eye(6)).eigenvalues
    tensor([4.], dtype=torch.float64)
    """
    refuse_transforms(
        "lowest_modes", DIFFERENTIABLE_CALL, op.positions, op.cell, op.masses, op.params
    )
    if tolerance is None:
        tolerance = SINGLE_TOLERANCE if torch.finfo(op.dtype).bits < 64 else TOLERANCE
    tolerance = validation.positive("tolerance", tolerance)
    frame = frame_of(op, _structure_of(op, pbc, numbers, parts, free), k, preconditioner)
    pairs = search_in_frame(op, frame, k, tolerance, max_hvps, seed, guess)
    return LowestModes(
        eigenvalues=pairs.values,
        modes=frame.displacements(pairs.vectors).mT.reshape(k, -1, 3),
        errors=pairs.errors,
        rounding=pairs.rounding,
        residuals=pairs.residuals,
        outcome=pairs.ending.outcome,
        detail=pairs.ending.detail,
        n_hvps=pairs.n_products,
        mass_weighted=op.masses is not None,
    )


def frame_of(
    op: HessianOperator, structure: FreeStructure, k: int, preconditioner: Tensor | None = None
) -> SearchFrame:
    """Return the coordinates in which the lowest modes are searched.

    Args:
        op: The Hessian.
        structure: The structure.
        k: Number of modes.
        preconditioner: Model of the Hessian by positions, dense; None for a valence force field.
    """
    large = preconditioner is None and len(op.positions) > MAX_DENSE_ATOMS
    if large and structure.numbers is not None and not isinstance(structure.free, np.ndarray):
        return sparse_frame(op, structure, k)
    return modal_frame(op, structure, preconditioner)


def search_in_frame(
    op: HessianOperator,
    frame: SearchFrame,
    k: int,
    tolerance: float,
    max_hvps: int | None,
    seed: int,
    guess: Tensor | None = None,
    *,
    until_negative: bool = False,
) -> Eigenpairs:
    """Compute the lowest k eigenpairs of a Hessian in the coordinates of a frame.

    Args:
        op: The Hessian.
        frame: The coordinates.
        k: Number of eigenpairs.
        tolerance: Relative error of the eigenvalues; see `lowest_modes`.
        max_hvps: Largest number of products; see `lowest_modes`.
        seed: Seed of the random part of the starting vectors.
        guess: Starting modes, (g, N, 3).
        until_negative: True to end with the first negative eigenvalue.

    Raises:
        ValueError: If there are fewer than k modes, or a limit or the guess does not fit.
    """
    n = frame.n_modes
    if not n:
        raise ValueError("a structure without internal motions has no modes")
    if not 1 <= k <= n:
        raise ValueError(
            f"k must be a number of modes from 1 to {n}, not {k}: {op.shape[0]} coordinates "
            f"less {op.shape[0] - n} that are fixed or rigid motions"
        )
    max_products = n if max_hvps is None else min(max_hvps, n)
    if max_products < k:
        raise ValueError(f"{k} modes take at least {k} products, not {max_hvps}")
    start = frame.start(k, seed)
    if guess is not None:
        if guess.ndim != 3 or guess[0].numel() != op.shape[0]:
            raise ValueError(f"guess must be (g, {op.shape[0] // 3}, 3), not {tuple(guess.shape)}")
        modes = frame.components(guess.detach().to(start).flatten(1).mT)
        start = torch.cat([modes, start], dim=1)
    return lowest_eigenpairs(
        lambda v: frame.components(checked_product(op, frame.displacements(v))),
        frame,
        start,
        k,
        Limits(tolerance, max_products, torch.finfo(op.dtype).eps, until_negative),
    )


def _structure_of(
    op: HessianOperator,
    pbc: Sequence[bool] | None,
    numbers: Tensor | Sequence[int] | None,
    parts: Parts | None,
    free: np.ndarray | csr_array | None,
) -> FreeStructure:
    """Return the structure of an operator; arguments override what the operator stores."""
    if op.structure is not None and op.atoms is not None:
        if free is None:
            free = basis_of(freedom(op.atoms, "lowest_modes"))
        if parts is None and pbc is None:
            parts = parts_of(op.structure.topology, op.positions, op.cell)
        numbers = op.atoms.numbers.tolist() if numbers is None else numbers
        pbc = op.atoms.pbc.tolist() if pbc is None else pbc
    if pbc is None:
        raise ValueError(
            "lowest_modes does not know the structure: make the operator by "
            "HessianOperator.from_potential(potential, atoms), or give pbc and numbers"
        )
    if parts is None:
        parts = Parts.whole(len(op.positions), pbc)
    return FreeStructure(pbc, numbers, parts, free)
