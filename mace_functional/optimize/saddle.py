"""First-order saddle points, verified by their exact modes and connected to their minima.

Steps go uphill along one mode and downhill along all others (`climb_mode`). The search is in
`saddle_search`. From the saddle point, `follow_mode` relaxes to the minimum on each side.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from ase import Atoms
from rich.console import Console
from torch import Tensor

from mace_functional.autodiff.concrete import refuse_transforms
from mace_functional.optimize.follow_mode import follow_mode
from mace_functional.optimize.outcome import HasOutcome, Outcome
from mace_functional.optimize.relax import RelaxResult
from mace_functional.optimize.saddle_search import SaddleSearch, SaddleStep
from mace_functional.optimize.search_loop import LoopOptions, run_to_end
from mace_functional.support import validation
from mace_functional.support.defaults import FMAX, MAX_STEPS
from mace_functional.support.validation import in_order
from mace_functional.vibrations.result_text import result_text

if TYPE_CHECKING:
    from mace_functional.potential.protocol import Potential

SAME_MINIMUM_RATIO = 0.2
"""Distance of two minima below which they count as one minimum.

It is relative to the smaller distance of a minimum from the saddle point.
"""


class Connection(Enum):
    """Result of the relaxations from both sides of a saddle point; the value is a sentence."""

    TWO_MINIMA = "connected to a minimum on each side"
    ONE_MINIMUM = "both relaxations end in the same minimum, on the same side"
    NOT_LEFT = "the energy does not fall along the mode"
    NOT_CONVERGED = "a relaxation from the saddle point has not converged"


@dataclass(frozen=True, eq=False)
class SaddleResult(HasOutcome):
    """Result of a search for a saddle point.

    Attributes:
        atoms: Saddle point, with its constraints; if none was found, the structure of smallest
            forces.
        outcome: Reason why it ended: CONVERGED if forces vanish with exactly one imaginary mode,
            else FLAT, FRAGMENTED, MAX_STEPS or STUCK.
        detail: Text with numbers, advice, and the connection to minima.
        connection: Result of the relaxations from both sides; None if there were none.
        energy: Energy of `atoms`, eV.
        frequency: Signed frequency of the lowest mode, cm-1: imaginary, thus negative, at a saddle
            point; NaN if the search ended before modes were computed.
        mode: Normalised Cartesian displacement of the lowest mode, (N, 3); zero if the search ended
            before modes were computed.
        minima: Minima along the mode and in the opposite direction; None if one was not found.
        barriers: Energies of the saddle point relative to these minima, eV.
        history: One entry for every gradient of the search.
        n_gradients: Number of evaluations of energy and gradient, relaxations to the minima
            included.
        n_hvps: Number of Hessian-vector products; each costs 0.4 of a gradient in double precision.
    """

    atoms: Atoms
    outcome: Outcome
    detail: str
    connection: Connection | None
    energy: float
    frequency: float
    mode: np.ndarray
    minima: tuple[Atoms, Atoms] | None
    barriers: tuple[float, float] | None
    history: list[SaddleStep]
    n_gradients: int
    n_hvps: int

    @property
    def converged(self) -> bool:
        """True if forces vanish with exactly one imaginary mode."""
        return self.outcome is Outcome.CONVERGED

    def __repr__(self) -> str:
        barriers = None
        if self.barriers is not None:
            barriers = f"barriers {self.barriers[0]:.4f} and {self.barriers[1]:.4f} eV"
        return result_text(
            self,
            self.reason,
            f"lowest frequency {self.frequency:.1f} cm-1",
            barriers,
            f"{self.n_gradients} gradients, {self.n_hvps} Hessian-vector products",
        )


def find_saddle(
    potential: Potential,
    atoms: Atoms,
    *,
    mode: int | np.ndarray | Tensor | None = None,
    fmax: float = FMAX,
    max_steps: int = MAX_STEPS,
    connect: bool = True,
    trajectory: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    callback: Callable[[Atoms, SaddleStep], object] | None = None,
    progress: bool = False,
) -> SaddleResult:
    """Find a first-order saddle point at fixed cell, from a guess or from a minimum.

    Without `mode`, every step climbs the lowest normal mode. With `mode`, the search climbs the
    normal mode of largest overlap with it, and follows this mode by overlap from step to step. A
    direction that is no single mode, such as the hop of an atom in a crystal, is climbed itself
    until one mode overlaps with it. From a minimum, the structure is first displaced along the
    mode. Rigid motions are never climbed.

    Args:
        potential: A potential, such as a model of `load_model`.
        atoms: Initial structure; it is not changed. Constraints of ASE are kept; see
            `selection.freedom`.
        mode: Cartesian direction to climb, signed, of any length, (N, 3); or the number of a normal
            mode of the initial structure: 0 for the lowest vibration, negative ones from the
                highest,
            climbed in the direction in which the energy rises less.
        fmax: Largest force on an atom at the end, eV/Å.
        max_steps: Largest number of gradients of the search.
        connect: Relax along the imaginary mode in both directions, for the minima and barriers.
        trajectory: File of ASE's format for the accepted structures.
        checkpoint: File (npz) from which an interrupted search continues. If it exists, the search
            continues from it, with the present fmax. It is written at the start and after each
            accepted step; an interruption never leaves an incomplete file.
        callback: Function that is called with the structure and the step, at the start and after
            each accepted step.
        progress: Show a line of progress.

    Returns:
        The result. Check `converged`, and `connection` for the minima that the saddle point
        connects.

    Raises:
        TypeError: If the arguments are of other classes, or swapped.
        ValueError: If the structure does not fit the potential, has atoms on top of each other, an
            energy or forces that are not finite, or no free internal motion; or if an option is
            invalid, the mode does not fit the structure, or the checkpoint belongs to another
            search.

    Source: Helgaker, Chem. Phys. Lett. 1991, 182, 503, for the image; Hermes, Sargsyan, Najm,
    Zador, J. Chem. Theory Comput. 2022, 18, 6974, for difficult cases of such searches.
    """
    in_order("find_saddle(potential, atoms)", (potential, "Potential"), (atoms, "Atoms"))
    fmax = validation.positive("fmax", fmax, "eV/Å")
    max_steps = validation.count("max_steps", max_steps)
    refuse_transforms("find_saddle", "energy_fn and its derivatives", potential.params, mode)
    search = SaddleSearch(potential, atoms, mode)
    options = LoopOptions(trajectory, checkpoint, callback, progress)
    ending = run_to_end(search, fmax, max_steps, options)
    converged = ending.outcome is Outcome.CONVERGED
    if not converged:
        search.return_to_best()
    frequency, displacement = search.lowest_mode()
    ways_down = WaysDown([], None)
    if converged and connect:
        with Console(stderr=True, quiet=not progress).status("following the imaginary mode down"):
            ways_down = _both_ways(potential, search.atoms(), displacement, fmax)
    energy, sides = search.point.energy, ways_down.sides
    both_converged = len(sides) == 2 and all(side.converged for side in sides)
    return SaddleResult(
        atoms=search.atoms(),
        outcome=ending.outcome,
        detail="; ".join(part for part in (ending.detail, ways_down.sentence) if part),
        connection=ways_down.connection,
        energy=energy,
        frequency=frequency,
        mode=displacement,
        minima=(sides[0].atoms, sides[1].atoms) if both_converged else None,
        barriers=(energy - sides[0].energy, energy - sides[1].energy) if both_converged else None,
        history=search.history,
        n_gradients=search.surface.n_gradients + sum(side.n_gradients for side in sides),
        n_hvps=search.surface.n_hvps + sum(side.n_hvps for side in sides),
    )


class WaysDown(NamedTuple):
    """Relaxations from both sides of a saddle point.

    Attributes:
        sides: Relaxations along the mode and in the opposite direction, as far as they were
            computed.
        connection: Result of both; None if there were none.
        why: Reason why no minimum was found; empty if both were.
    """

    sides: list[RelaxResult]
    connection: Connection | None
    why: str = ""

    @property
    def sentence(self) -> str:
        """Connection as text, with the reason; empty if there were no relaxations."""
        if self.connection is None:
            return ""
        return "; ".join(part for part in (self.connection.value, self.why) if part)


def _both_ways(potential: Potential, atoms: Atoms, mode: np.ndarray, fmax: float) -> WaysDown:
    """Relax from both sides of a saddle point."""
    sides: list[RelaxResult] = []
    for sign in (1, -1):
        try:
            sides.append(follow_mode(potential, atoms, mode, sign=sign, fmax=fmax))
        except ValueError as error:
            return WaysDown(sides, Connection.NOT_LEFT, str(error))
        if not sides[-1].converged:
            return WaysDown(sides, Connection.NOT_CONVERGED, sides[-1].reason)
    first, second = (side.atoms.positions - atoms.positions for side in sides)
    nearest = min(np.linalg.norm(first), np.linalg.norm(second))
    if np.linalg.norm(first - second) < SAME_MINIMUM_RATIO * nearest:
        return WaysDown(sides, Connection.ONE_MINIMUM)
    return WaysDown(sides, Connection.TWO_MINIMA)
