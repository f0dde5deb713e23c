"""First-order saddle points, verified by their exact modes and connected to their minima.

Steps go up along one mode and down along all others (`climb_mode`). The search itself is
`saddle_search`; from the saddle point, `follow_mode` leads down to the minimum on each side.
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

APART = 0.2
"""Distance of two minima from each other over the smaller one from the saddle point, below which
they are the same minimum."""


class Connection(Enum):
    """Where the two ways down from a saddle point lead; the value is a sentence."""

    TWO_MINIMA = "connected to a minimum on each side"
    ONE_MINIMUM = "both ways down end in the same minimum, on the same side"
    NOT_LEFT = "the energy does not fall along the mode"
    NOT_CONVERGED = "a way down has not converged"


@dataclass(frozen=True, eq=False)
class SaddleResult(HasOutcome):
    """The end of a search for a saddle point.

    Attributes:
        atoms: The saddle point, with its constraints; if none was found, the structure of least
            forces.
        outcome: Why it ended: CONVERGED where forces vanish with exactly one imaginary mode, else
            FLAT, FRAGMENTED, MAX_STEPS or STUCK.
        detail: Numbers, advice, and what is known of the minima, in words.
        connection: Where the two ways down lead; None if they were not followed.
        energy: eV.
        frequency: Of the lowest mode, signed, cm-1: imaginary, thus negative, at a saddle point;
            NaN if the search ended before modes were computed.
        mode: Its Cartesian displacement, normalised, (N, 3); zero if the search ended before.
        minima: Where the two ways down end, along the mode and against it; None if they were not
            followed, or not to the end.
        barriers: Height of the saddle point over each of them, eV.
        history: One entry for every gradient of the search.
        n_gradients: Energies with gradients that all took, the ways down included.
        n_hvps: Hessian-vector products; each costs 0.4 of a gradient in double precision.
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
        """Whether forces vanish with exactly one imaginary mode."""
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

    Without `mode`, the lowest normal mode is climbed at every step. With `mode`, the normal mode of
    largest overlap with it is climbed, and followed by overlap from step to step. A direction that
    overlaps with no single mode, such as the hop of an atom in a crystal, is climbed itself until
    one mode does. From a minimum, the structure is first displaced along the mode. Rigid motions
    are never climbed.

    Args:
        potential: A model from `load_model`, or any other potential.
        atoms: Where to start; it is not changed. Constraints of ASE hold what they say; see
            `selection.freedom`.
        mode: Direction to climb, Cartesian (N, 3), signed, of any length; or the number of a normal
            mode of the start, 0 for the lowest vibration, negative ones from the highest, in the
            direction in which the energy rises less.
        fmax: Largest force on an atom to stop at, eV/Å.
        max_steps: Most gradients of the search.
        connect: Follow the imaginary mode down both ways, for the minima and barriers.
        trajectory: File of ASE's format for the accepted structures.
        checkpoint: File (npz) for all that is needed to go on. If it exists, the search goes on
            from where it was, to the present fmax. It is written at first and after each accepted
            step, and is whole whenever the process is killed.
        callback: Called with the structure and the step, at first and after each accepted step.
        progress: Show a line of progress.

    Returns:
        The result. Look at `converged`, and at `connection` and `minima` for where the saddle point
        leads.

    Raises:
        TypeError: If the arguments are of other classes, or swapped.
        ValueError: If the structure does not fit the potential, has atoms on top of each other, an
            energy or forces that are not finite, or no free internal motion; or if an option is
            bad, the mode is none of this structure, or the checkpoint is of another search.

    Source: Helgaker, Chem. Phys. Lett. 1991, 182, 503, for the image; Hermes, Sargsyan, Najm,
    Zador, J. Chem. Theory Comput. 2022, 18, 6974, for the cases that a search has to cope with.
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
    down = WaysDown([], None)
    if converged and connect:
        with Console(stderr=True, quiet=not progress).status("following the imaginary mode down"):
            down = _both_ways(potential, search.atoms(), displacement, fmax)
    energy, sides = search.point.energy, down.sides
    followed = len(sides) == 2 and all(side.converged for side in sides)
    return SaddleResult(
        atoms=search.atoms(),
        outcome=ending.outcome,
        detail="; ".join(part for part in (ending.detail, down.sentence) if part),
        connection=down.connection,
        energy=energy,
        frequency=frequency,
        mode=displacement,
        minima=(sides[0].atoms, sides[1].atoms) if followed else None,
        barriers=(energy - sides[0].energy, energy - sides[1].energy) if followed else None,
        history=search.history,
        n_gradients=search.surface.n_gradients + sum(side.n_gradients for side in sides),
        n_hvps=search.surface.n_hvps + sum(side.n_hvps for side in sides),
    )


class WaysDown(NamedTuple):
    """The ways down from a saddle point.

    Attributes:
        sides: Relaxations along the mode and against it, as far as they were made.
        connection: Where they lead; None if they were not followed.
        why: Why they lead nowhere; empty if they do.
    """

    sides: list[RelaxResult]
    connection: Connection | None
    why: str = ""

    @property
    def sentence(self) -> str:
        """The connection in words, with the reason; empty if they were not followed."""
        if self.connection is None:
            return ""
        return "; ".join(part for part in (self.connection.value, self.why) if part)


def _both_ways(potential: Potential, atoms: Atoms, mode: np.ndarray, fmax: float) -> WaysDown:
    """Relax on both sides of a saddle point."""
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
    if np.linalg.norm(first - second) < APART * nearest:
        return WaysDown(sides, Connection.ONE_MINIMUM)
    return WaysDown(sides, Connection.TWO_MINIMA)
