"""Test whether a relaxed structure is a minimum, by its lowest mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.console import Console
from scipy.sparse import csr_array
from torch import Tensor

from mace_functional.autodiff.concrete import refuse_transforms
from mace_functional.derivatives import forces
from mace_functional.derivatives.hessian_operator import HessianOperator
from mace_functional.optimize.free_structure import FreeStructure, basis_of
from mace_functional.optimize.lowest_modes import frame_of, search_in_frame
from mace_functional.optimize.outcome import HasOutcome, Outcome
from mace_functional.structure.arrays import as_array
from mace_functional.structure.connectivity import parts_of
from mace_functional.structure.selection import freedom
from mace_functional.support.validation import in_order
from mace_functional.units import frequency_factor
from mace_functional.vibrations.harmonic_modes import signed_sqrt
from mace_functional.vibrations.result_text import result_text
from mace_functional.vibrations.rigid import DIFFERENTIABLE_CALL

if TYPE_CHECKING:
    from ase import Atoms

    from mace_functional.potential.protocol import Potential

SIGN_TOLERANCE = 1e-2
"""Relative error of a positive lowest eigenvalue, at which the search for a negative one ends."""


@dataclass(frozen=True, eq=False)
class Stability(HasOutcome):
    """Result of the test whether a structure is a minimum.

    Attributes:
        stable: True if the lowest eigenvalue is positive.
        certain: True if the eigenvalue differs from zero by more than its error.
        frequency: Signed frequency of the lowest mode in `unit`. If it is imaginary, the search has
            ended with the first negative value, and a lower one may exist.
        mode: Normalised Cartesian displacement of the lowest mode, (N, 3), as `follow_mode` and
            `find_saddle` take it.
        largest_force: Largest force on an atom, eV/Å; the test is meaningful only if it is small.
        n_hvps: Number of Hessian-vector products.
        outcome: Reason why the search ended: as for `LowestModes`, or NEGATIVE_EIGENVALUE with the
            first proof that the structure is no minimum.
        detail: Text with numbers.
        unit: Unit of the frequency.
    """

    stable: bool
    certain: bool
    frequency: float
    mode: Tensor
    largest_force: float
    n_hvps: int
    outcome: Outcome
    detail: str
    unit: str

    def __repr__(self) -> str:
        return result_text(
            self,
            ("a minimum" if self.stable else "no minimum") + ", uncertain" * (not self.certain),
            f"lowest frequency {self.frequency:.1f} {self.unit}",
            f"largest force {self.largest_force:.1e} eV/Å",
            f"{self.n_hvps} Hessian-vector products",
        )


def check_stability(
    potential: Potential,
    atoms: Atoms,
    *,
    unit: str = "cm-1",
    max_hvps: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Stability:
    """Test whether a relaxed structure is a minimum, by its lowest mode alone.

    A Ritz value is never below the lowest eigenvalue. A negative one therefore proves that the
    structure is no minimum, and ends the search. The structure is a minimum if the lowest
    eigenvalues of H, to 1 %, and of K^-1 H, to 10 %, are positive (see `davidson`). Constraints of
    ASE are kept, as by `relax`. For more than 300 atoms, memory is proportional to their number.

    Args:
        potential: A potential, such as a model of `load_model`.
        atoms: The structure, relaxed; periodic in any directions.
        unit: Unit of the frequency: "cm-1", "THz" or "meV".
        max_hvps: Largest number of products; see `lowest_modes`.
        seed: Seed of the random part of the starting vectors.
        progress: Show a line of progress.

    Returns:
        The result, with the lowest mode.

    Raises:
        TypeError: If the arguments are of other classes, or swapped.
        ValueError: If the structure does not fit the potential, or has no internal motions.
        ArithmeticError: If a product is not finite.
    """
    in_order("check_stability(potential, atoms)", (potential, "Potential"), (atoms, "Atoms"))
    factor = frequency_factor(unit)
    refuse_transforms("check_stability", DIFFERENTIABLE_CALL, potential.params)
    free_space = freedom(atoms, "check_stability")
    s = potential.structure(atoms)
    energy = potential.energy_fn(s.topology)
    op = HessianOperator(energy, s.positions, s.cell, potential.params, s.masses)
    parts = parts_of(s.topology, s.positions, s.cell)
    free = basis_of(free_space)
    structure = FreeStructure(atoms.pbc.tolist(), atoms.numbers.tolist(), parts, free)
    with Console(stderr=True, quiet=not progress).status("searching the lowest mode"):
        frame = frame_of(op, structure, 1)
        pairs = search_in_frame(op, frame, 1, SIGN_TOLERANCE, max_hvps, seed, until_negative=True)
    lowest = float(pairs.values)
    margin = float(pairs.errors) + pairs.rounding
    mode = frame.displacements(pairs.vectors[:, :1]).reshape(-1, 3)
    displacement = mode / s.masses.to(mode).sqrt()[:, None]
    force = forces(energy)(s.positions, s.cell, potential.params).detach()
    force -= _held_part(force, free)
    converged = pairs.ending.outcome is Outcome.CONVERGED
    return Stability(
        stable=lowest > 0,
        certain=lowest < -pairs.rounding or (converged and lowest > margin),
        frequency=factor * float(signed_sqrt(pairs.values)),
        mode=displacement / displacement.norm(),
        largest_force=float(force.norm(dim=1).max()),
        n_hvps=pairs.n_products,
        outcome=pairs.ending.outcome,
        detail=pairs.ending.detail,
        unit=unit,
    )


def _held_part(force: Tensor, free: np.ndarray | csr_array | None) -> Tensor:
    """Return the part of the forces that constraints balance."""
    if free is None:
        return torch.zeros_like(force)
    allowed = free @ (free.T @ as_array(force).ravel())
    return force - torch.as_tensor(allowed).to(force).view_as(force)
