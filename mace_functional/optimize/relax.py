"""Relaxation of a structure: its positions and its cell.

The method is quasi-Newton with a trust region (`descend`) in the joint space of positions and
strain (`coordinates`). The initial Hessian is that of a valence force field, which is computed anew
after each step while forces are large. It is updated with every gradient and, near the minimum,
with exact Hessian products along the softest directions.
Springs in the model of the energy describe rotating bonds (`bond_springs`). Before the relaxation
ends, exact products check that the structure is no saddle point. The exact Hessian is computed only
if steps fail: at the start it would cost more gradients than it saves.

Above `relaxation.MAX_DENSE_ATOMS` atoms the method is the same, but no matrix is dense
(`sparse_hessian`): memory is proportional to the number of atoms.
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
    """Result of a relaxation.

    Attributes:
        atoms: Structure with its energy and forces; the best one if it did not converge.
        outcome: Reason why it ended: CONVERGED, FLAT or NOTHING_FREE if it has converged, else
            MAX_STEPS, NOISE_LIMIT, STUCK or NOT_FINITE.
        detail: Text with numbers and advice.
        history: One entry for every gradient.
        n_gradients: Number of evaluations of energy and gradient.
        n_hvps: Number of Hessian-vector products; each costs 0.4 of a gradient in double and 0.2 in
            single precision.
    """

    atoms: Atoms
    outcome: Outcome
    detail: str
    history: list[RelaxStep]
    n_gradients: int
    n_hvps: int

    @property
    def converged(self) -> bool:
        """True if the residual is below fmax, and the structure is no saddle point."""
        return self.outcome in (Outcome.CONVERGED, Outcome.FLAT, Outcome.NOTHING_FREE)

    @property
    def last(self) -> RelaxStep:
        """Last accepted step, which led to `atoms`."""
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
    """Relax a structure: its positions, and its cell if it is periodic.

    The energy never rises. The relaxation ends in a minimum: if forces vanish at a saddle point, it
    continues downhill. As with any optimiser, the path decides which of several minima it finds.
    Above 300 atoms, memory is proportional to the number of atoms, and no atom moves more than
    0.1 Å in a step, unless `symmetry` or a constraint of the centre of mass is asked for.

    Args:
        potential: A potential, such as a model of `load_model`.
        atoms: Initial structure; it is not changed. Constraints of ASE are kept (see
            `selection.freedom`); fixed atoms keep their fractional coordinates in the cell.
        relax_cell: True for all strains along periodic directions; False for none; "isotropic" for
            the strain that preserves the shape; or six booleans for xx, yy, zz, yz, xz, xy (fixed
            axes), of which only the True ones change.
        fmax: Largest force on an atom at the end, eV/Å, and largest row of dE/de over the number of
            atoms, eV, as with ASE's cell filters.
        max_steps: Largest number of gradients.
        pressure: External pressure, GPa, for crystals: the enthalpy E + pV is minimised.
        symmetry: Preserve the space group that spglib finds; a crystal is symmetrised exactly
            first. A saddle point that only symmetry-breaking motions would leave counts as
            converged.
        symprec: Tolerance of the symmetry, Å.
        trajectory: File of ASE's format for the accepted structures.
        checkpoint: File (npz) from which an interrupted relaxation continues. If it exists, the
            relaxation continues from it, with the present fmax. It is written at the start and
            after each accepted step; an interruption never leaves an incomplete file.
        callback: Function that is called with the structure and the step, at the start and after
            each accepted step.
        progress: Show a line of progress.

    Returns:
        The result; its atoms are the best structure, whether it converged or not.

    Raises:
        TypeError: If the arguments are of other classes, or swapped.
        ValueError: If the structure does not fit the potential, its energy or forces are not
            finite, an option is invalid, or the checkpoint belongs to another relaxation.

    Warns:
        UserWarning: A slightly larger `symprec` gives a higher symmetry than the preserved one.
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
