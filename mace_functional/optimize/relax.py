"""Relaxation of a structure: its positions, and its cell with them.

A quasi-Newton method with a trust region (`descend`) in the joint space of positions and strain
(`coordinates`). The first Hessian is that of a valence force field. It is corrected by every
gradient and, near the minimum, by exact Hessian products along the softest directions. Springs let
the model of the energy follow bonds that turn (`bond_springs`). Before a structure counts as
relaxed, exact products show that it is no saddle point. The exact Hessian is computed only where
steps fail: at the start it would cost more gradients than it saves.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ase import Atoms

from mace_functional.autodiff.concrete import refuse_transforms
from mace_functional.optimize.coordinates import CellFreedom
from mace_functional.optimize.outcome import HasOutcome, Outcome
from mace_functional.optimize.relaxation import Relaxation, RelaxStep
from mace_functional.optimize.search_loop import LoopOptions, run_to_end
from mace_functional.structure.symmetry import made_symmetric
from mace_functional.support import validation
from mace_functional.support.defaults import FMAX, MAX_STEPS, SYMPREC
from mace_functional.support.renamed import renamed_option
from mace_functional.support.validation import in_order
from mace_functional.vibrations.result_text import result_text

if TYPE_CHECKING:
    from mace_functional.potential.protocol import Potential


@dataclass(frozen=True, eq=False)
class RelaxResult(HasOutcome):
    """The end of a relaxation.

    Attributes:
        atoms: The structure, with its energy and forces; the best one if it did not converge.
        outcome: Why it ended: CONVERGED, FLAT or NOTHING_FREE where it has converged, else
            MAX_STEPS, NOISE_LIMIT, STUCK or NOT_FINITE.
        detail: Numbers and advice, in words.
        history: One entry for every gradient.
        n_gradients: Energies with gradients that it took.
        n_hvps: Hessian-vector products that it took; each costs 0.4 of a gradient in
            double and 0.2 in single precision.
    """

    atoms: Atoms
    outcome: Outcome
    detail: str
    history: list[RelaxStep]
    n_gradients: int
    n_hvps: int

    @property
    def converged(self) -> bool:
        """Whether the residual is below fmax, at no saddle point."""
        return self.outcome in (Outcome.CONVERGED, Outcome.FLAT, Outcome.NOTHING_FREE)

    @property
    def last(self) -> RelaxStep:
        """The last accepted step: that of `atoms`."""
        return next(step for step in reversed(self.history) if step.accepted)

    @property
    def energy(self) -> float:
        """Energy, or enthalpy under pressure, eV."""
        return self.last.energy

    def __repr__(self) -> str:
        return result_text(
            self,
            self.reason,
            f"{self.atoms.get_chemical_formula()}, energy {self.energy:.6f} eV",
            f"{self.n_gradients} gradients, {self.n_hvps} Hessian-vector products",
        )


@renamed_option("cell", "relax_cell")
def relax(
    potential: Potential,
    atoms: Atoms,
    *,
    relax_cell: CellFreedom = True,
    fmax: float = FMAX,
    max_steps: int = MAX_STEPS,
    pressure: float = 0.0,
    symmetry: bool = False,
    symprec: float = SYMPREC,
    trajectory: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    callback: Callable[[Atoms, RelaxStep], object] | None = None,
    progress: bool = False,
) -> RelaxResult:
    """Relax a structure: its positions, and its cell where it is periodic.

    The energy never rises. The relaxation ends in a minimum: where forces vanish at a saddle point,
    it goes on downhill. Which of several minima it finds depends on the path, as with any
    optimiser.

    Args:
        potential: A model from `load_model`, or any other potential.
        atoms: Where to start; it is not changed. Constraints of ASE hold what they say (see
            `selection.freedom`); atoms that are held keep their place in the cell.
        relax_cell: True, all strains along periodic directions; False, none; "isotropic", one that
            keeps the shape; or six booleans for xx, yy, zz, yz, xz, xy, of which the others keep
            their value (fixed axes).
        fmax: Largest force on an atom to stop at, eV/Å, and largest row of dE/de over the number of
            atoms, eV, as with ASE's cell filters.
        max_steps: Most gradients.
        pressure: External pressure, GPa, for crystals: the enthalpy E + pV is minimised.
        symmetry: Keep the space group, as spglib finds it; a crystal is made exactly symmetric
            first. A saddle point that only less symmetric motions would leave counts as the end.
        symprec: How far from symmetric the structure may be, Å.
        trajectory: File of ASE's format for the accepted structures.
        checkpoint: File (npz) for all that is needed to go on. If it is there already, the
            relaxation goes on from where it was, to the present fmax. It is written at first and
            after each accepted step, and is whole whenever the process is killed.
        callback: Called with the structure and the step, at first and after each accepted step.
        progress: Show a line of progress.

    Returns:
        The result; converged or not, its atoms are the best that was found.

    Raises:
        TypeError: If the arguments are of other classes, or swapped.
        ValueError: If the structure does not fit the potential, has an energy or forces that are
            not finite, an option is bad, or the checkpoint is of another relaxation.

    Warns:
        UserWarning: A higher symmetry than the one that is kept lies just out of reach of
            `symprec`.
    """
    in_order("relax(potential, atoms)", (potential, "Potential"), (atoms, "Atoms"))
    fmax = validation.positive("fmax", fmax, "eV/Å")
    max_steps = validation.count("max_steps", max_steps)
    pressure = validation.pressure("pressure", pressure)
    symprec = validation.symmetry_tolerance("symprec", symprec)
    refuse_transforms("relax", "energy_fn and its derivatives", potential.params)
    if pressure and not (atoms.pbc.all() and relax_cell is not False):
        raise ValueError("a pressure needs a crystal whose cell is free")
    if symmetry and atoms.pbc.all():
        atoms = made_symmetric(atoms, symprec)
    search = Relaxation(potential, atoms, relax_cell, pressure, symprec if symmetry else None)
    options = LoopOptions(trajectory, checkpoint, callback, progress)
    ending = run_to_end(search, fmax, max_steps, options)
    return RelaxResult(
        atoms=search.atoms(),
        outcome=ending.outcome,
        detail=ending.detail,
        history=search.history,
        n_gradients=search.surface.n_gradients,
        n_hvps=search.surface.n_hvps,
    )
