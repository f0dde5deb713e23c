"""Lowest modes of a Hessian from a few of its products with vectors.

The eigenvalues of a Hessian spread over three to five orders of magnitude, so that products alone
find the lowest ones last. A cheap model K of the Hessian, that of a valence force field
(`valence_hessian`), has much the same spectrum and preconditions the search (`davidson`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mace_functional.autodiff.concrete import refuse_transforms
from mace_functional.derivatives.hessian_operator import HessianOperator
from mace_functional.optimize.davidson import (
    Eigenpairs,
    Limits,
    lowest_eigenpairs,
    starting_vectors,
)
from mace_functional.optimize.modal_frame import (
    FreeStructure,
    ModalFrame,
    checked_product,
    modal_frame,
)
from mace_functional.optimize.outcome import HasOutcome, Outcome
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
SINGLE_TOLERANCE = 1e-3
"""Default relative errors of eigenvalues: the second for products in single precision, whose
rounding leaves errors of 1e-6 of the largest eigenvalue."""


@dataclass(frozen=True, eq=False)
class LowestModes(HasOutcome):
    """The lowest k eigenpairs of a Hessian, rigid motions taken out.

    Attributes:
        eigenvalues: (k,) ascending; eV/Å²/amu, or eV/Å² for an operator without masses.
        modes: (k, N, 3) orthonormal eigenvectors, in mass-weighted coordinates if there are masses.
        errors: (k,) estimates of how much too high the eigenvalues are.
        rounding: What the rounding of products adds to them, in either direction.
        residuals: (k,) norms of H u - theta u.
        outcome: Why the search ended: CONVERGED where all errors are within the tolerance, else
            MAX_STEPS, MODES_MAY_BE_MISSING or NOISE_LIMIT.
        detail: Numbers, in words.
        n_hvps: Products that it took.
        mass_weighted: Whether the operator had masses.
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
        """Whether all errors are within the tolerance."""
        return self.outcome is Outcome.CONVERGED

    @property
    def frequencies(self) -> Tensor:
        """Signed frequencies in cm-1, (k,) ascending; imaginary modes are negative.

        Raises:
            ValueError: If the operator had no masses.
        """
        values = self.frequencies_in("cm-1")
        return callable_frequencies(values, self.frequencies_in)

    def frequencies_in(self, unit: str) -> Tensor:
        """The frequencies in a unit.

        Args:
            unit: "cm-1", "THz" or "meV".

        Returns:
            (k,) ascending.

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
    """The algebraically lowest eigenpairs of a Hessian, from products `op @ V` alone.

    An operator of `HessianOperator.from_potential` knows its structure, and nothing but k has to be
    given. Rigid motions (`rigid_motions`) are projected out. Degenerate eigenvalues come out as
    often as they are there. Where the last one differs from the next by less than about the square
    root of the tolerance, the two may be mixed, and it may be too high by up to this difference.

    Args:
        op: The Hessian, plain or mass-weighted.
        k: Number of modes.
        pbc: Whether each of the three cell vectors is periodic; as the operator knows if None.
        numbers: Atomic numbers (N,), for the preconditioner; as the operator knows if None.
        preconditioner: Symmetric stand-in for the plain Hessian, eV/Å², (3N, 3N); that of a valence
            force field if None. It decides about the number of products, not about the result.
        guess: Modes to begin with, (g, N, 3), such as those of a structure near by.
        tolerance: Of the eigenvalues, relative to their size or to 1e-6 of the largest one,
            whichever is more; 1e-8 if None, or 1e-3 in float32.
        max_hvps: Most products; the number of internal coordinates if None, with which the result
            is exact.
        seed: Of the random part of the start.
        parts: The connected parts, which have rigid motions of their own (`connectivity`). If None,
            as the operator knows, or one part that is connected along all periodic directions.
        free: Orthonormal basis of the Cartesian displacements that are free, (3N, m). If None, what
            the constraints of the operator's atoms leave free, or all.

    Returns:
        The modes in float64 on the operator's device, and how good they are. Look at `converged`.

    Raises:
        ValueError: If there are no k modes, shapes do not fit, the structure is not known, a limit
            is too low, or the preconditioner is not finite.
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
    frame = modal_frame(op, _structure_of(op, pbc, numbers, parts, free), preconditioner)
    found = search_in_frame(op, frame, k, tolerance, max_hvps, seed, guess)
    return LowestModes(
        eigenvalues=found.values,
        modes=(frame.vectors @ found.vectors).mT.reshape(k, -1, 3),
        errors=found.errors,
        rounding=found.rounding,
        residuals=found.residuals,
        outcome=found.ending.outcome,
        detail=found.ending.detail,
        n_hvps=found.n_products,
        mass_weighted=op.masses is not None,
    )


def search_in_frame(
    op: HessianOperator,
    frame: ModalFrame,
    k: int,
    tolerance: float,
    max_hvps: int | None,
    seed: int,
    guess: Tensor | None = None,
    *,
    until_negative: bool = False,
) -> Eigenpairs:
    """The lowest k eigenpairs of a Hessian in the eigenvectors of a model.

    Args:
        op: The Hessian.
        frame: The eigenvectors.
        k: Number of pairs.
        tolerance: Of the eigenvalues; see `lowest_modes`.
        max_hvps: Most products; see `lowest_modes`.
        seed: Of the random part of the start.
        guess: Modes to begin with, (g, N, 3).
        until_negative: Whether a negative eigenvalue ends the search.

    Raises:
        ValueError: If there are no k modes, or a limit or the guess does not fit.
    """
    size = len(frame.stiffness)
    if not size:
        raise ValueError("a structure without internal motions has no modes")
    if not 1 <= k <= size:
        raise ValueError(
            f"k must be a number of modes from 1 to {size}, not {k}: {op.shape[0]} coordinates "
            f"less {op.shape[0] - size} that are held or rigid motions"
        )
    max_products = size if max_hvps is None else min(max_hvps, size)
    if max_products < k:
        raise ValueError(f"{k} modes take at least {k} products, not {max_hvps}")
    start = starting_vectors(frame.stiffness, k, seed)
    if guess is not None:
        if guess.ndim != 3 or guess[0].numel() != op.shape[0]:
            raise ValueError(f"guess must be (g, {op.shape[0] // 3}, 3), not {tuple(guess.shape)}")
        modes = guess.detach().to(frame.vectors).flatten(1).mT
        start = torch.cat([frame.vectors.mT @ modes, start], dim=1)
    return lowest_eigenpairs(
        lambda v: frame.vectors.mT @ checked_product(op, frame.vectors @ v),
        frame.stiffness,
        start,
        k,
        Limits(tolerance, max_products, torch.finfo(op.dtype).eps, until_negative),
    )


def _structure_of(
    op: HessianOperator,
    pbc: Sequence[bool] | None,
    numbers: Tensor | Sequence[int] | None,
    parts: Parts | None,
    free: np.ndarray | None,
) -> FreeStructure:
    """The structure of an operator; what is given comes before what the operator knows."""
    if op.structure is not None and op.atoms is not None:
        if free is None:
            left = freedom(op.atoms, "lowest_modes")
            free = None if left.whole else left.basis()
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
