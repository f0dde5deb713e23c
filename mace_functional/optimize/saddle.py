"""First-order saddle points, verified by their exact modes and connected to their minima.

A step goes up along one mode and down along all others (`climber`), with a Hessian that is exact at
first, corrected by gradients, and by exact products along the mode that is climbed. Where forces
vanish, the exact Hessian in double precision counts the imaginary modes: with one the search ends,
with more it goes on downhill along those that are too many.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from ase import Atoms
from ase.io.trajectory import Trajectory
from rich.console import Console
from torch import Tensor

from mace_functional.autodiff.concrete import refuse_transforms
from mace_functional.optimize.bond_stretch import BondStretch
from mace_functional.optimize.climber import FIRST_RADIUS, LARGEST_RADIUS, Climber, Internal
from mace_functional.optimize.coordinates import free_coordinates, rigid_directions
from mace_functional.optimize.follow_mode import follow_mode, free_direction
from mace_functional.optimize.relax import RelaxResult
from mace_functional.optimize.surface import Point, Surface
from mace_functional.optimize.trust_region import Springs
from mace_functional.potential.energy import from_ase
from mace_functional.structure.connectivity import parts_of
from mace_functional.structure.contacts import REFUSED, shortest_contact
from mace_functional.structure.selection import freedom
from mace_functional.support import validation
from mace_functional.support.validation import in_order
from mace_functional.units import frequency_factor
from mace_functional.vibrations.harmonic_modes import signed_sqrt

if TYPE_CHECKING:
    from mace_functional.potential.protocol import Potential

FIRST_CLIMB = 0.1
"""First displacement along a mode that is to be climbed, of the atom that moves most, Å."""

REFUSALS = 4
"""Steps refused in a row, after which the exact Hessian is computed, or the end is reached."""

REFRESH, COORDINATES = 3, 15
"""The Hessian is computed again after so many steps, and after one for so many coordinates: each
makes the search shorter by a few gradients, and costs a third of a gradient for a coordinate."""

FLAT = 1.0
"""Frequency that is none, cm-1."""

APART = 0.2
"""Minima nearer than this to each other, over their distance from the saddle point, are one."""


class SaddleStep(NamedTuple):
    """One evaluation of energy and gradient.

    Attributes:
        energy: eV.
        largest_force: On any atom, of what is free, eV/Å.
        frequency: Of the mode that was climbed, signed, as known before the step, cm-1; NaN for the
            first structure.
        radius: Trust radius afterwards, Å.
        accepted: Whether the structure was taken.
    """

    energy: float
    largest_force: float
    frequency: float
    radius: float
    accepted: bool


@dataclass(frozen=True, eq=False)
class SaddleResult:
    """A search for a saddle point, as it ended.

    Attributes:
        atoms: The saddle point, with its constraints; if none was found, the structure of least
            forces.
        converged: Whether forces vanish there with exactly one imaginary mode.
        reason: Why it ended, and what is known of the minima, in words.
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
    converged: bool
    reason: str
    energy: float
    frequency: float
    mode: np.ndarray
    minima: tuple[Atoms, Atoms] | None
    barriers: tuple[float, float] | None
    history: list[SaddleStep]
    n_gradients: int
    n_hvps: int

    def __repr__(self) -> str:
        return (
            f"SaddleResult({'converged' if self.converged else 'not converged'}: {self.reason}; "
            f"{self.frequency:.1f} cm-1, {self.n_gradients} gradients, {self.n_hvps} "
            "Hessian-vector products)"
        )


def find_saddle(
    model: Potential,
    atoms: Atoms,
    *,
    mode: int | np.ndarray | Tensor | None = None,
    fmax: float = 1e-4,
    max_steps: int = 300,
    connect: bool = True,
    trajectory: str | os.PathLike[str] | None = None,
    callback: Callable[[Atoms, SaddleStep], object] | None = None,
    progress: bool = False,
) -> SaddleResult:
    """Find a first-order saddle point at fixed cell, from a guess or from a minimum.

    From a guess, the lowest mode is climbed at every step. With `mode`, the normal mode that it is
    most like, followed by overlap from step to step; a direction that is like none, such as that of
    an atom in a crystal that hops, is itself climbed until one is. Where the structure is at rest,
    it is first displaced. Rigid motions that the constraints leave are never climbed.

    Args:
        model: From `load_model`.
        atoms: Where to start; it is not changed. Constraints of ASE hold what they say; see
            `selection.freedom`.
        mode: Direction to climb, Cartesian (N, 3), signed, of any length; or the number of a normal
            mode of the start, 0 for the lowest vibration, negative ones from the highest, in the
            direction in which the energy rises less.
        fmax: Largest force on an atom to stop at, eV/Å.
        max_steps: Most gradients of the search.
        connect: Follow the imaginary mode down both ways, for the minima and barriers.
        trajectory: File of ASE's format for the accepted structures.
        callback: Called with the structure and the step, after each accepted one.
        progress: Show a line of progress.

    Returns:
        The result. Look at `converged`; whether the saddle point leads where it should is told by
        `minima`.

    Raises:
        TypeError: If the arguments are of other classes, or swapped.
        ValueError: If the structure does not fit the model (see `from_ase`), has atoms on top of
            each other, an energy or forces that are not finite, no internal motion is free, an
            option is bad, or the mode is none of this structure.

    Source: Helgaker, Chem. Phys. Lett. 1991, 182, 503, for the image; Hermes, Sargsyan, Najm,
    Zador, J. Chem. Theory Comput. 2022, 18, 6974, for what a search must withstand.
    """
    in_order("find_saddle(model, atoms)", (model, "Potential"), (atoms, "Atoms"))
    fmax = validation.positive("fmax", fmax, "eV/Å")
    max_steps = validation.count("max_steps", max_steps)
    refuse_transforms("find_saddle", "energy_fn and its derivatives", model.params, mode)
    run = _Search(model, atoms, mode)
    console = Console(stderr=True, quiet=not progress)
    with ExitStack() as stack:
        status = stack.enter_context(console.status("climbing"))
        frames = None
        if trajectory is not None:
            frames = stack.enter_context(Trajectory(os.fspath(trajectory), "w"))
        reason = run.reason_to_stop(fmax, max_steps)
        while reason is None:
            accepted = run.step()
            last = run.history[-1]
            status.update(
                f"climbing: {run.surface.n_gradients} gradients, energy {last.energy:.6f} eV, "
                f"largest force {last.largest_force:.5f} eV/Å, mode at {last.frequency:.0f} cm-1"
            )
            if accepted:
                if frames is not None:
                    frames.write(run.atoms())
                if callback is not None:
                    callback(run.atoms(), last)
            reason = run.reason_to_stop(fmax, max_steps)
        converged, words = reason
        if not converged:
            run.return_to_best()
        frequency, displacement = run.lowest_mode()
        sides: list[RelaxResult] = []
        if converged and connect:
            status.update("following the imaginary mode down")
            sides, more = _both_ways(model, run.atoms(), displacement, fmax)
            words = f"{words}; {more}"
    point, atoms = run.point, run.atoms()
    followed = len(sides) == 2 and all(side.converged for side in sides)
    return SaddleResult(
        atoms=atoms,
        converged=converged,
        reason=words,
        energy=point.energy,
        frequency=frequency,
        mode=displacement,
        minima=(sides[0].atoms, sides[1].atoms) if followed else None,
        barriers=(
            (point.energy - sides[0].energy, point.energy - sides[1].energy) if followed else None
        ),
        history=run.history,
        n_gradients=run.surface.n_gradients + sum(side.n_gradients for side in sides),
        n_hvps=run.surface.n_hvps + sum(side.n_hvps for side in sides),
    )


class _Search:
    """A search on its way: the surface, the climber, and the history."""

    def __init__(
        self, model: Potential, atoms: Atoms, mode: int | np.ndarray | Tensor | None
    ) -> None:
        _check_distances(atoms)
        s = from_ase(atoms, model)
        coordinates = free_coordinates(atoms, s.positions, s.cell, cell_freedom=False)
        self.surface = Surface(model, atoms, coordinates)
        self.history: list[SaddleStep] = []
        self._rough = model.to(dtype=torch.float32) if model.dtype == torch.float64 else model
        self._free = freedom(atoms, "find_saddle")
        self._parts = parts_of(s.topology, s.positions, s.cell).count
        self._pbc, self._masses = s.topology.pbc.tolist(), s.masses.cpu().double().numpy()
        self._point = self.surface.at(np.zeros(coordinates.count))
        self._best: Point | None = None
        if not (np.isfinite(self._point.energy) and np.isfinite(self._point.gradient).all()):
            raise ValueError(
                "the energy or the forces of the first structure are not finite: look for a "
                "structure far from all that the model was made for, or float32 where float64 is "
                "needed"
            )
        largest = LARGEST_RADIUS * len(atoms) ** 0.5
        self._climber = Climber(
            z=self._point.z,
            energy=self._point.energy,
            gradient=self._point.gradient,
            hessian=np.zeros((coordinates.count, coordinates.count)),
            radius=largest * FIRST_RADIUS / LARGEST_RADIUS,
            largest_radius=largest,
            epsilon=torch.finfo(model.dtype).eps,
        )
        self._exact_at = np.full(coordinates.count, np.nan)
        if not self._internal().basis.shape[1]:
            raise ValueError("nothing is free to move but the structure as a whole")
        self._refused = self._age = 0
        self._springs: BondStretch
        self._linearise(self._rough)
        self._note(self._point, np.nan, accepted=True)
        if mode is not None:
            self._begin_along(mode)

    @property
    def point(self) -> Point:
        """The surface at the present structure."""
        return self._point

    def atoms(self) -> Atoms:
        """The present structure, with its energy and forces."""
        return self.surface.atoms_at(self._point.z, self._point.results)

    def step(self) -> bool:
        """Try a step; whether it was taken."""
        climber, before = self._climber, self._point
        point = self.surface.at(climber.propose(self._springs_here(), self._internal()))
        curvature = climber.curvature
        if curvature < 0 and (
            self._best is None or before.largest_force < self._best.largest_force
        ):
            self._best = before
        accepted = climber.take(point.energy, point.gradient)
        self._refused = 0 if accepted else self._refused + 1
        if accepted:
            self._move(point)
            self._age += 1
            if self._age >= max(REFRESH, climber.z.size // COORDINATES):
                self._linearise(self._rough)
            else:
                self._correct()
        self._note(point, _frequency(climber.curvature), accepted)
        return accepted

    def reason_to_stop(self, fmax: float, max_steps: int) -> tuple[bool, str] | None:
        """Whether the search has converged and why it stops, if it does."""
        if self._point.largest_force <= fmax and not self._is_exact():
            self._linearise(self.surface.model)
            values, _ = self._climber.modes(self._internal())
            count = int((values < 0).sum())
            parts = self.surface.parts_at(self._climber.z).count
            if parts > self._parts:
                return False, (
                    f"forces vanish, but fragments have come apart: {parts} parts do not feel each "
                    "other, and the surface is flat there"
                )
            if abs(_frequency(np.abs(values).min())) < FLAT:
                return False, (
                    "forces vanish, but the surface is flat along a mode: fragments may have come "
                    "apart, or the mode is one that costs no energy"
                )
            if count == 1:
                return True, f"one imaginary mode, and the largest force is below {fmax:g} eV/Å"
        if self.surface.n_gradients >= max_steps:
            return False, f"{max_steps} gradients were not enough: raise max_steps"
        if self._refused >= REFUSALS:
            if self._is_exact():
                return False, (
                    "no step does what the exact Hessian foretells: the surface is not smooth "
                    "here, not finite around, or all that is left is rounding"
                )
            self._linearise(self.surface.model)
            self._refused = 0
        return None

    def return_to_best(self) -> None:
        """Go back to the structure of least forces on the way, among those with a way down."""
        best = self._best
        if best is not None and best.largest_force < self._point.largest_force:
            self._move(best)

    def lowest_mode(self) -> tuple[float, np.ndarray]:
        """Signed frequency, cm-1, and normalised displacement (N, 3); NaN and zero if not known."""
        if not self._is_exact():
            return np.nan, np.zeros((len(self._masses), 3))
        internal = self._internal()
        values, vectors = self._climber.modes(internal)
        mode = (internal.displacements @ internal.basis.T @ vectors[:, 0]).reshape(-1, 3)
        return _frequency(values[0]), mode / np.linalg.norm(mode)

    def _begin_along(self, mode: int | np.ndarray | Tensor) -> None:
        """Follow a mode, and leave the structure along it if it is at rest."""
        climber, internal = self._climber, self._internal()
        signs: tuple[int, ...] = (1,)
        if isinstance(mode, int | np.integer):
            signs = (1, -1)
            vectors = climber.modes(internal)[1]
            if not -vectors.shape[1] <= mode < vectors.shape[1]:
                raise ValueError(
                    f"there is no mode {mode}: the structure has {vectors.shape[1]} vibrations, "
                    "from 0"
                )
            direction = free_direction(
                (self.surface.coordinates.basis[:-6] @ vectors[:, mode]).reshape(-1, 3),
                self.surface,
            )
        else:
            direction = free_direction(mode, self.surface)
        direction = internal.basis @ (internal.basis.T @ direction)
        if np.linalg.norm(direction) < 1e-6:
            raise ValueError("the mode is a motion of the structure as a whole")
        climber.followed = direction
        slope = float(climber.gradient @ direction)
        if abs(slope) < FIRST_CLIMB * float(direction @ climber.hessian @ direction):
            frequency = _frequency(climber.next_mode(internal)[0])
            tried = [self.surface.at(climber.z + FIRST_CLIMB * k * direction) for k in signs]
            point = min(tried, key=lambda point: point.energy)
            if np.isfinite(point.energy):
                self._move(point)
                self._linearise(self._rough)
                self._note(point, frequency, accepted=True)

    def _move(self, point: Point) -> None:
        self._point, climber = point, self._climber
        climber.z, climber.energy, climber.gradient = point.z, point.energy, point.gradient

    def _linearise(self, model: Potential) -> None:
        """The exact Hessian, and the springs that it shows."""
        z, c = self._climber.z, self.surface.coordinates
        hessian = self.surface.joint_hessian(z, model)
        if not np.isfinite(hessian).all():
            raise ValueError("the Hessian is not finite where forces are: use a model in float64")
        self._climber.hessian = c.basis.T @ hessian @ c.basis
        self._springs = BondStretch.of(c, c.basis @ z, hessian, np.asarray(self._pbc))
        self._age = 0
        if model is self.surface.model:
            self._exact_at = z

    def _correct(self) -> None:
        """Make the Hessian exact along the mode that is climbed next."""
        climber = self._climber
        mode = climber.next_mode(self._internal())[1][:, None]
        mode = mode / np.linalg.norm(mode)
        climber.correct(mode, self.surface.products(climber.z)(mode[:, 0])[:, None])

    def _internal(self) -> Internal:
        """What is free here, less the rigid motions that constraints leave."""
        c = self.surface.coordinates
        free = c.basis[:-6]
        positions, cell = c.place(c.joint(self._climber.z))
        parts = self.surface.parts_at(self._climber.z)
        exact = self._climber.hessian if self._is_exact() and self._free.whole else None
        rigid_part = rigid_directions(c, positions, cell, parts, exact)
        basis = np.linalg.qr(rigid_part, mode="complete")[0][:, rigid_part.shape[1] :]
        root = np.repeat(np.sqrt(self._masses), 3)[:, None]
        weighted = root * (free @ basis)
        lightest = root * (free @ rigid_part)
        if not self._free.pinned:
            lightest = np.column_stack([lightest, root * np.tile(np.eye(3), (len(positions), 1))])
        lightest = np.linalg.qr(lightest)[0]
        weighted = weighted - lightest @ (lightest.T @ weighted)
        return Internal(basis, weighted / root, weighted.T @ weighted)

    def _springs_here(self) -> Springs:
        basis = self.surface.coordinates.basis
        return self._springs.here(basis @ self._climber.z, basis)

    def _is_exact(self) -> bool:
        return np.array_equal(self._exact_at, self._climber.z)

    def _note(self, point: Point, frequency: float, accepted: bool) -> None:
        self.history.append(
            SaddleStep(point.energy, point.largest_force, frequency, self._climber.radius, accepted)
        )


def _both_ways(
    model: Potential, atoms: Atoms, mode: np.ndarray, fmax: float
) -> tuple[list[RelaxResult], str]:
    """The relaxations on both sides of a saddle point, and what there is to say of them."""
    sides = []
    for sign in (1, -1):
        try:
            sides.append(follow_mode(model, atoms, mode, sign=sign, fmax=fmax))
        except ValueError as error:
            return sides, f"it was not left along its mode: {error}"
        if not sides[-1].converged:
            return sides, f"the way down has not converged: {sides[-1].reason}"
    first, second = (side.atoms.positions - atoms.positions for side in sides)
    nearest = min(np.linalg.norm(first), np.linalg.norm(second))
    if np.linalg.norm(first - second) < APART * nearest:
        return sides, "both ways down end in the same minimum, on the same side"
    return sides, "connected to a minimum on each side"


def _check_distances(atoms: Atoms) -> None:
    """Refuse atoms on top of each other."""
    contact = shortest_contact(atoms)
    if contact is not None and contact.ratio < REFUSED:
        raise ValueError(f"{contact}: remove one of them, or move them apart")


def _frequency(curvature: float) -> float:
    """Signed frequency, cm-1, of a curvature in eV/Å²/amu."""
    return frequency_factor("cm-1") * float(signed_sqrt(torch.as_tensor(curvature)))
