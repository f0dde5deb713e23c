"""Whether a relaxed structure is a minimum, by its lowest mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from torch import Tensor

from mace_functional.autodiff.concrete import refuse_transforms
from mace_functional.derivatives import forces
from mace_functional.derivatives.hessian_operator import HessianOperator
from mace_functional.optimize.lowest_modes import search_in_frame
from mace_functional.optimize.modal_frame import FreeStructure, modal_frame
from mace_functional.optimize.outcome import HasOutcome, Outcome
from mace_functional.structure.connectivity import parts_of
from mace_functional.structure.selection import Freedom, freedom
from mace_functional.support.validation import in_order
from mace_functional.units import frequency_factor
from mace_functional.vibrations.harmonic_modes import signed_sqrt
from mace_functional.vibrations.result_text import result_text
from mace_functional.vibrations.rigid import DIFFERENTIABLE_CALL

if TYPE_CHECKING:
    from ase import Atoms

    from mace_functional.potential.protocol import Potential

SIGN_TOLERANCE = 1e-2
"""Relative error of a positive eigenvalue, at which the search for a negative one ends."""


@dataclass(frozen=True, eq=False)
class Stability(HasOutcome):
    """Whether a structure is a minimum.

    Attributes:
        stable: Whether the lowest eigenvalue is positive.
        certain: Whether it is further from zero than its error.
        frequency: Of the lowest mode, signed, in `unit`. Where it is imaginary, the search has
            ended with the first proof, and a lower one may exist.
        mode: (N, 3) Cartesian displacement of the lowest mode, normalised: what `follow_mode` and
            `find_saddle` take as `mode`.
        largest_force: On any atom, eV/Å: only where it is zero does curvature decide.
        n_hvps: Products that it took.
        outcome: Why the search ended: as for `LowestModes`, or NEGATIVE_EIGENVALUE with the first
            proof that the structure is no minimum.
        detail: Numbers, in words.
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
    """Whether a relaxed structure is a minimum, by its lowest mode alone.

    A Ritz value is never below the lowest eigenvalue: a negative one proves that the structure is
    no minimum, and ends the search. The structure is a minimum where the lowest eigenvalues of H,
    to 1 %, and of K^-1 H, to 10 %, are positive (see `davidson`). Constraints of ASE hold what they
    say, as in `relax`.

    Args:
        potential: A model from `load_model`, or any other potential.
        atoms: The structure, relaxed; periodic in any directions.
        unit: "cm-1", "THz" or "meV".
        max_hvps: Products at most; see `lowest_modes`.
        seed: Of the random part of the start.
        progress: Show a line of progress.

    Returns:
        The answer, with the mode that decides.

    Raises:
        TypeError: If the arguments are of other classes, or swapped.
        ValueError: If the structure does not fit the potential, or has no internal motions.
        ArithmeticError: If a product is not finite.
    """
    in_order("check_stability(potential, atoms)", (potential, "Potential"), (atoms, "Atoms"))
    factor = frequency_factor(unit)
    refuse_transforms("check_stability", DIFFERENTIABLE_CALL, potential.params)
    left = freedom(atoms, "check_stability")
    s = potential.structure(atoms)
    energy = potential.energy_fn(s.topology)
    op = HessianOperator(energy, s.positions, s.cell, potential.params, s.masses)
    parts = parts_of(s.topology, s.positions, s.cell)
    free = None if left.whole else left.basis()
    structure = FreeStructure(atoms.pbc.tolist(), atoms.numbers.tolist(), parts, free)
    frame = modal_frame(op, structure, None)
    with Console(stderr=True, quiet=not progress).status("searching the lowest mode"):
        found = search_in_frame(op, frame, 1, SIGN_TOLERANCE, max_hvps, seed, until_negative=True)
    lowest = float(found.values)
    margin = float(found.errors) + found.rounding
    mode = (frame.vectors @ found.vectors[:, 0]).reshape(-1, 3)
    displacement = mode / s.masses.to(mode).sqrt()[:, None]
    force = forces(energy)(s.positions, s.cell, potential.params).detach()
    force -= _held_part(force, left)
    converged = found.ending.outcome is Outcome.CONVERGED
    return Stability(
        stable=lowest > 0,
        certain=lowest < -found.rounding or (converged and lowest > margin),
        frequency=factor * float(signed_sqrt(found.values)),
        mode=displacement / displacement.norm(),
        largest_force=float(force.norm(dim=1).max()),
        n_hvps=found.n_products,
        outcome=found.ending.outcome,
        detail=found.ending.detail,
        unit=unit,
    )


def _held_part(force: Tensor, left: Freedom) -> Tensor:
    """The part of forces that constraints take up."""
    if left.whole:
        return torch.zeros_like(force)
    basis = torch.as_tensor(left.basis()).to(force)
    return force - (basis @ (basis.mT @ force.reshape(-1))).view_as(force)
